//! A polkit agent on a text terminal, so that a user without a desktop can enter a password:
//! polkit's own program `pkttyagent`, which systemctl(1) starts in the same way.
//!
//! 1. [`Agent::start`] executes this tool again, under the name [`NAME`].
//! 2. That process requests a signal at the end of its parent and executes `pkttyagent`, which
//!    serves only the process of the tool, and only if it has no other agent.
//! 3. `pkttyagent` closes a descriptor once it is registered with polkit. The tool waits for that
//!    before the call.
//! 4. After the call the agent is terminated, so that none runs beside a command of `run`, and the
//!    settings of the terminal are restored.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, geteuid, getppid, kill_process, pidfd_open,
    set_parent_process_death_signal,
};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use crate::cli::error::exit::Exit;
use crate::cli::format::tty;
use crate::client::Bus;

/// The name of the process that executes the agent.
const NAME: &str = "vmlockctl-agent";
/// The program of the agent.
const PROGRAM: &str = "pkttyagent";
/// The directory of systemd-logind's login sessions.
const SESSIONS: &str = "/run/systemd/sessions";
/// How long the agent may take to register with polkit.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the agent may take to end.
const EXIT_TIMEOUT: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// Whether the user may be prompted for a password.
static MAY_PROMPT: AtomicBool = AtomicBool::new(true);
/// Whether an agent is running.
static IS_RUNNING: AtomicBool = AtomicBool::new(false);

/// Disables password prompts, on the terminal and elsewhere.
pub(crate) fn disable_prompt() {
    MAY_PROMPT.store(false, Ordering::Relaxed);
}

/// Whether the user at the terminal may be prompted for a password.
pub(crate) fn may_prompt() -> bool {
    MAY_PROMPT.load(Ordering::Relaxed) && io::stdin().is_terminal()
}

/// Whether an agent is running. The user may be entering a password then, so nothing else is
/// printed on the terminal.
pub(crate) fn is_running() -> bool {
    IS_RUNNING.load(Ordering::Relaxed)
}

/// A running agent for this process. Terminated on drop.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
    /// The settings of the terminal before the start of the agent.
    terminal: Option<Termios>,
}

impl Agent {
    /// Starts an agent if one is needed and possible, and returns once it is registered with
    /// polkit. Returns `None` without `pkttyagent`; the service then replies that a password is
    /// needed.
    pub(crate) async fn start(bus: Bus) -> Option<Self> {
        if bus != Bus::System || geteuid().is_root() || !may_prompt() || !has_terminal() {
            return None;
        }
        let terminal = tcgetattr(io::stdin()).ok();
        let (child, registered) = spawn().ok()?;
        IS_RUNNING.store(true, Ordering::Relaxed);
        let agent = Self { child, terminal };
        // A late agent may still register during the call.
        let _ = timeout(REGISTRATION_TIMEOUT, wait_for_eof(&registered)).await;
        Some(agent)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            // The child was not waited for yet, so the PID is still its own.
            let _ = kill_process(pid, Signal::TERM);
            if !wait_for_exit(pid) {
                let _ = self.child.kill();
            }
        }
        let _ = self.child.wait();
        if let Some(terminal) = &self.terminal
            && is_foreground()
            && tcgetattr(io::stdin()).is_ok_and(|now| now.local_modes != terminal.local_modes)
        {
            // A closed terminal needs no settings.
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, terminal);
        }
        IS_RUNNING.store(false, Ordering::Relaxed);
    }
}

/// Waits until the other end of a pipe is closed. Nothing is written to the pipe.
async fn wait_for_eof(pipe: &pipe::Receiver) -> io::Result<()> {
    loop {
        pipe.readable().await?;
        match pipe.try_read(&mut [0]) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
}

/// Waits until a child ends. Returns whether it ended in time.
fn wait_for_exit(pid: Pid) -> bool {
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let mut event = [PollFd::new(&pidfd, PollFlags::IN)];
    poll(&mut event, Some(&EXIT_TIMEOUT)).is_ok_and(|events| events == 1)
}

/// Whether the terminal shows the output of this process, and this process may read from it.
fn has_terminal() -> bool {
    (io::stdout().is_terminal() || io::stderr().is_terminal()) && is_foreground()
}

/// Whether this process is in the foreground of the terminal.
fn is_foreground() -> bool {
    tty::is_foreground(io::stdin()) == Some(true)
}

/// Starts the agent (step 1). Returns a pipe that is closed once the agent is registered (step 3).
fn spawn() -> io::Result<(Child, pipe::Receiver)> {
    let (registered, notify) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0(NAME).arg(notify.as_raw_fd().to_string());
    command.arg(std::process::id().to_string()).arg(start_time()?);
    // The agent opens the terminal itself. If it fails, the error of the service is the one to
    // print.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    fcntl_setfd(&notify, FdFlags::empty())?;
    let child = command.spawn()?;
    drop(notify);
    Ok((child, pipe::Receiver::from_owned_fd(registered)?))
}

/// Returns the start time of this process, in clock ticks of the kernel. polkit identifies a
/// process by its PID and start time.
fn start_time() -> io::Result<String> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    parse_start_time(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse_start_time(stat: &str) -> Option<String> {
    // The second field is a name in parentheses, which may contain spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19).map(str::to_owned)
}

/// Runs the process that executes the agent (step 2). Returns `None` if this is another process.
pub(crate) fn main(arguments: &[OsString]) -> Option<Exit> {
    let [name, notify, parent, start] = arguments else { return None };
    if name != NAME {
        return None;
    }
    let words = [notify, parent, start].map(|word| word.to_str().unwrap_or_default());
    let [notify, parent, start] = words;
    let bound = set_parent_process_death_signal(Some(Signal::TERM));
    if bound.is_ok() && parent == Pid::as_raw(getppid()).to_string() {
        let process = format!("{parent},{start}");
        let mut command = Command::new(PROGRAM);
        command.args(["--process", &process, "--notify-fd", notify]);
        if has_sessions() {
            command.arg("--fallback");
        }
        // exec(3) returns only on failure.
        let _ = command.exec();
    }
    Some(Exit::FAILURE)
}

/// Whether there are login sessions, each of which may have an agent that has priority. polkit
/// considers a fallback agent only for processes in a session.
fn has_sessions() -> bool {
    fs::read_dir(SESSIONS).is_ok_and(|mut sessions| sessions.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_processes_are_not_agents() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for line in ["vmlockctl", "vmlockctl 3 4 5", "vmlockctl-agent", "vmlockctl-agent 3 4"] {
            assert_eq!(main(&words(line)), None, "{line}");
        }
        // The process with PID 0 is not its parent.
        assert_eq!(main(&words("vmlockctl-agent 3 0 5")), Some(Exit::FAILURE));
    }

    #[test]
    fn the_start_time_is_parsed() {
        let fields = (1..=30).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let stat = format!("7 (a) b) S {fields}");
        assert_eq!(parse_start_time(&stat).as_deref(), Some("19"));
        assert!(start_time().unwrap().parse::<u64>().is_ok());
    }
}
