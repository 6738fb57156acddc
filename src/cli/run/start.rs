//! Starts a command only after its process is bound to the owner.
//!
//! 1. `vmlockctl run` executes itself under the name [`NAME`]. This process will execute the
//!    command; it waits for a byte from a pipe.
//! 2. `vmlockctl run` binds the process to the owner.
//! 3. `vmlockctl run` writes a byte to the pipe, and the process executes the command.
//!
//! If the command were bound after its start, the binding could fail: with sudo(8) the process
//! belongs to another user by then, and the disk may already be written. If `vmlockctl run` fails
//! or is killed between the steps, the pipe is closed without a byte, and the command is not
//! executed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::unistd::close;
use rustix::io::{Errno, FdFlags, fcntl_setfd, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::process::Child;

use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::terminal::output::print_message;
use crate::lock::text::escape::{reason, shown};

/// The name (`argv[0]`) of the waiting process.
const NAME: &str = "vmlockctl-start";
/// The environment variable of the command with the UUID of its owner.
const OWNER_VARIABLE: &str = "VMLOCKD_OWNER";
/// The environment variable of the command with the descriptor of the lifeline.
const LIFELINE_VARIABLE: &str = "VMLOCKD_LIFELINE_FD";

/// A process that waits to execute the command.
#[derive(Debug)]
pub(crate) struct PendingCommand {
    /// The process.
    pub(crate) child: Child,
    /// A pidfd of the process, since its PID may be reused.
    pub(crate) pidfd: OwnedFd,
    /// The gate at which it waits.
    pub(crate) gate: StartGate,
}

/// The write end of the pipe from which the process reads.
#[derive(Debug)]
pub(crate) struct StartGate(OwnedFd);

impl StartGate {
    /// Allows the process to execute the command.
    pub(crate) fn open(self) -> Result<(), Error> {
        match write(&self.0, &[1]) {
            // Without a reader the process has ended; its exit status is reported.
            Ok(_) | Err(Errno::PIPE) => Ok(()),
            Err(errno) => Err(Error::system("start the command", errno)),
        }
    }
}

/// Starts the waiting process (step 1). The process and the command inherit the lifeline.
pub(crate) fn spawn(
    command: &[OsString],
    owner: &str,
    lifeline: &OwnedFd,
) -> Result<PendingCommand, Error> {
    let failed = |error: io::Error| Error::system("start the command", error);
    let (wait, gate) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    let mut process = Command::new("/proc/self/exe");
    process.arg0(NAME).arg(wait.as_raw_fd().to_string()).args(command);
    process.env(OWNER_VARIABLE, owner).env(LIFELINE_VARIABLE, lifeline.as_raw_fd().to_string());
    let inherit = |flags| {
        fcntl_setfd(lifeline, flags)
            .and_then(|()| fcntl_setfd(&wait, flags))
            .map_err(|errno| failed(errno.into()))
    };
    inherit(FdFlags::empty())?;
    let child = tokio::process::Command::from(process).spawn();
    inherit(FdFlags::CLOEXEC)?;
    let child = child.map_err(failed)?;
    // The child was not waited for yet, so the PID is still its own.
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let pid =
        pid.ok_or_else(|| Error::Failed("the command ended before it was started".to_owned()))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| failed(errno.into()))?;
    Ok(PendingCommand { child, pidfd, gate: StartGate(gate) })
}

/// Runs the waiting process. Returns `None` if this is another process.
pub(crate) fn main(arguments: &[OsString]) -> Option<Exit> {
    let [name, wait, command @ ..] = arguments else { return None };
    let wait = wait.to_str().and_then(|wait| wait.parse().ok());
    match (name == NAME, wait, command) {
        (true, Some(wait), [program, arguments @ ..]) => {
            Some(exec_when_bound(wait, program, arguments))
        }
        _ => None,
    }
}

fn exec_when_bound(wait: RawFd, program: &OsStr, arguments: &[OsString]) -> Exit {
    match wait_for_gate(wait) {
        Ok(true) => {}
        // `vmlockctl run` has closed the pipe and reports the reason, or was killed.
        Ok(false) => return Exit::FAILURE,
        Err(error) => {
            print_message(&format!("cannot start the command: {}", reason(&error)));
            return Exit::FAILURE;
        }
    }
    let error = Command::new(program).args(arguments).exec();
    let program = shown(&program.to_string_lossy());
    print_message(&format!("cannot run '{program}': {}", reason(&error)));
    if error.kind() == io::ErrorKind::NotFound {
        Exit::COMMAND_NOT_FOUND
    } else {
        Exit::NOT_EXECUTABLE
    }
}

/// Waits for the byte, and closes the pipe, so that the command does not inherit it. Returns
/// `false` if the pipe was closed without a byte.
fn wait_for_gate(wait: RawFd) -> io::Result<bool> {
    // Opens the pipe again by the number of the inherited descriptor, as using the number itself
    // would need unsafe code, and closes the inherited descriptor.
    let mut pipe = File::open(format!("/proc/self/fd/{wait}"))?;
    close(wait)?;
    Ok(pipe.read(&mut [0])? == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_processes_do_not_wait() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for line in ["vmlockctl", "vmlockctl 3 true", "vmlockctl-start", "vmlockctl-start x true"] {
            assert_eq!(main(&words(line)), None, "{line}");
        }
        // The descriptor does not exist, so nothing is executed.
        assert_eq!(main(&words("vmlockctl-start 1000000 true")), Some(Exit::FAILURE));
    }
}
