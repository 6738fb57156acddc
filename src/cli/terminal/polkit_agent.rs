//! A polkit agent on a text terminal, so that a user without a desktop can type a password: polkit's own
//! program `pkttyagent`, which systemctl(1) starts in the same way.
//!
//! 1. [`Agent::start`] starts this tool once more, under the name [`NAME`].
//! 2. That process asks the kernel for a signal when the tool ends, and becomes `pkttyagent`: it serves
//!    the tool's process alone, and only where no other agent does.
//! 3. `pkttyagent` closes a descriptor once polkit knows it. The tool waits for that, and then calls.
//! 4. After the call the agent is ended, so that none runs beside a command of `run`, and the terminal
//!    gets the settings that it had.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{geteuid, getpgrp, getppid, pipe2, tcgetpgrp};
use rustix::process::set_parent_process_death_signal;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use crate::cli::error::exit_code::Code;
use crate::client::Bus;

/// What the process is called that becomes the agent.
const NAME: &str = "vmlockctl-agent";
/// The agent.
const PROGRAM: &str = "pkttyagent";
/// Where systemd-logind keeps the login sessions.
const SESSIONS: &str = "/run/systemd/sessions";
/// How long the agent may take to register with polkit.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the agent may take to end, in milliseconds.
const LIMIT: u16 = 2000;

/// Whether the user may be asked for a password.
static MAY_ASK: AtomicBool = AtomicBool::new(true);
/// Whether an agent runs.
static RUNS: AtomicBool = AtomicBool::new(false);

/// Has no password asked for, on the terminal or elsewhere.
pub(crate) fn forbid() {
    MAY_ASK.store(false, Ordering::Relaxed);
}

/// Whether a user at the terminal may be asked for a password.
pub(crate) fn may_ask() -> bool {
    MAY_ASK.load(Ordering::Relaxed) && io::stdin().is_terminal()
}

/// Whether an agent runs. The user may be typing a password then, so a late answer is no reason to
/// write on the terminal.
pub(crate) fn runs() -> bool {
    RUNS.load(Ordering::Relaxed)
}

/// An agent for this process. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
    /// The terminal's settings before.
    terminal: Option<Termios>,
}

impl Agent {
    /// Starts an agent where one can be of use, and returns once polkit knows it. Without `pkttyagent`
    /// there is none; the service says then that a password would be needed.
    pub(crate) async fn start(bus: Bus) -> Option<Self> {
        if bus != Bus::System || geteuid().is_root() || !may_ask() || !has_terminal() {
            return None;
        }
        let terminal = tcgetattr(io::stdin()).ok();
        let (child, registered) = spawn().ok()?;
        RUNS.store(true, Ordering::Relaxed);
        let agent = Self { child, terminal };
        // What is late may still come while the call is on its way.
        let _ = timeout(PATIENCE, end_of(&registered)).await;
        Some(agent)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            // Nothing has waited for it yet, so the number is still its own.
            let _ = kill_process(pid, Signal::TERM);
            if !ends(pid) {
                let _ = self.child.kill();
            }
        }
        let _ = self.child.wait();
        if let Some(terminal) = &self.terminal
            && is_in_front()
            && tcgetattr(io::stdin()).is_ok_and(|now| now.local_modes != terminal.local_modes)
        {
            // There is nothing to be done about a terminal that is gone.
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, terminal);
        }
        RUNS.store(false, Ordering::Relaxed);
    }
}

/// Waits for the end of a pipe, into which nothing is written.
async fn end_of(pipe: &pipe::Receiver) -> io::Result<()> {
    loop {
        pipe.readable().await?;
        match pipe.try_read(&mut [0]) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
}

/// Waits until a child ends, for a short time.
fn ends(pid: Pid) -> bool {
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let mut event = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut event, PollTimeout::from(LIMIT)).is_ok_and(|events| events == 1)
}

/// Whether a user can read on the terminal what is typed on it, and this process may use it.
fn has_terminal() -> bool {
    (io::stdout().is_terminal() || io::stderr().is_terminal()) && is_in_front()
}

/// Whether no other process group has the terminal.
fn is_in_front() -> bool {
    tcgetpgrp(io::stdin()) == Ok(getpgrp())
}

/// Steps 1 and 3: the agent, and a pipe that ends once polkit knows it.
fn spawn() -> io::Result<(Child, pipe::Receiver)> {
    let (registered, notify) = pipe2(OFlag::O_CLOEXEC)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0(NAME).arg(notify.as_raw_fd().to_string());
    command.arg(std::process::id().to_string()).arg(start_time()?);
    // It opens the terminal itself. Without an agent the service's own message is the one to read.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    fcntl(&notify, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let child = command.spawn()?;
    drop(notify);
    Ok((child, pipe::Receiver::from_owned_fd(registered)?))
}

/// When this process was started, in the kernel's clock ticks: with its number, this is how polkit
/// knows a process.
fn start_time() -> io::Result<String> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    parse_start_time(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse_start_time(stat: &str) -> Option<String> {
    // The second field is a name in parentheses, which may contain spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19).map(str::to_owned)
}

/// Step 2: the main function of the process that becomes the agent; `None` if this is another process.
pub(crate) fn main(arguments: &[OsString]) -> Option<Code> {
    let [name, notify, parent, start] = arguments else { return None };
    if name != NAME {
        return None;
    }
    let words = [notify, parent, start].map(|word| word.to_str().unwrap_or_default());
    let [notify, parent, start] = words;
    let bound = set_parent_process_death_signal(Some(Signal::TERM));
    if bound.is_ok() && parent == getppid().to_string() {
        let process = format!("{parent},{start}");
        let mut command = Command::new(PROGRAM);
        command.args(["--process", &process, "--notify-fd", notify]);
        if has_sessions() {
            command.arg("--fallback");
        }
        // Returns only on failure.
        let _ = command.exec();
    }
    Some(Code::FAILURE)
}

/// Whether there are login sessions, each of which may have an agent that goes before ours. polkit looks
/// at a fallback only for processes in a session.
fn has_sessions() -> bool {
    fs::read_dir(SESSIONS).is_ok_and(|mut sessions| sessions.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_started_as_an_agent_is_one() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for line in ["vmlockctl", "vmlockctl 3 4 5", "vmlockctl-agent", "vmlockctl-agent 3 4"] {
            assert_eq!(main(&words(line)), None, "{line}");
        }
        // It is not the child of the process that it was started for.
        assert_eq!(main(&words("vmlockctl-agent 3 0 5")), Some(Code::FAILURE));
    }

    #[test]
    fn a_start_time_is_read() {
        let fields = (1..=30).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let stat = format!("7 (a) b) S {fields}");
        assert_eq!(parse_start_time(&stat).as_deref(), Some("19"));
        assert!(start_time().unwrap().parse::<u64>().is_ok());
    }
}
