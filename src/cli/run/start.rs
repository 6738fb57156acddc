//! How a command is started so that it does nothing before it is bound.
//!
//! 1. `vmlockctl run` starts itself once more, under the name [`NAME`]: the process that will be
//!    the command. It waits at a pipe.
//! 2. `vmlockctl run` binds this process to the owner.
//! 3. It writes a byte into the pipe, and the process executes the command.
//!
//! Bound later, a command could end up unbound: by then it may belong to another user, as with
//! sudo, or the binding may fail while it writes the disk. If `vmlockctl run` dies or gives up in
//! between, the pipe ends without a byte, and the command never begins.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::unistd::{close, pipe2, write};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::process::Child;

use crate::cli::error::exit_code::Code;
use crate::cli::error::{Error, cause};
use crate::cli::terminal::output::complain;
use crate::lock::printable::shown;

/// What the waiting process is called, so that it knows what it is.
const NAME: &str = "vmlockctl-start";
/// Tells the command its owner's UUID.
const OWNER: &str = "VMLOCKD_OWNER";
/// Tells the command which of its descriptors is the lifeline.
const LIFELINE: &str = "VMLOCKD_LIFELINE_FD";

/// A process that waits to become the command.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// The process.
    pub(crate) child: Child,
    /// A pidfd of the process, since its number may be used again.
    pub(crate) pidfd: OwnedFd,
    /// Where the byte goes.
    pub(crate) gate: Gate,
}

/// The other end of the pipe at which the process waits.
#[derive(Debug)]
pub(crate) struct Gate(OwnedFd);

impl Gate {
    /// Lets the process become the command.
    pub(crate) fn open(self) -> Result<(), Error> {
        match write(&self.0, &[1]) {
            // Without a reader the process has ended already, which its status will tell.
            Ok(_) | Err(nix::errno::Errno::EPIPE) => Ok(()),
            Err(errno) => Err(Error::system("start the command", errno)),
        }
    }
}

/// Step 1. The process and the command inherit the lifeline.
pub(crate) fn spawn(
    command: &[OsString],
    owner: &str,
    lifeline: &OwnedFd,
) -> Result<Waiting, Error> {
    let failed = |error: io::Error| Error::system("start the command", error);
    let (wait, gate) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed(errno.into()))?;
    let mut process = Command::new("/proc/self/exe");
    process.arg0(NAME).arg(wait.as_raw_fd().to_string()).args(command);
    process.env(OWNER, owner).env(LIFELINE, lifeline.as_raw_fd().to_string());
    let inherit = |flags| {
        fcntl(lifeline, FcntlArg::F_SETFD(flags))
            .and_then(|_| fcntl(&wait, FcntlArg::F_SETFD(flags)))
            .map_err(|errno| failed(errno.into()))
    };
    inherit(FdFlag::empty())?;
    let child = tokio::process::Command::from(process).spawn();
    inherit(FdFlag::FD_CLOEXEC)?;
    let child = child.map_err(failed)?;
    // It was not waited for yet, so the number is still its own.
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let pid =
        pid.ok_or_else(|| Error::Failed("the command ended before it was started".to_owned()))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| failed(errno.into()))?;
    Ok(Waiting { child, pidfd, gate: Gate(gate) })
}

/// The main function of the process that waits; `None` if this is another.
pub(crate) fn main(arguments: &[OsString]) -> Option<Code> {
    let [name, wait, command @ ..] = arguments else { return None };
    let wait = wait.to_str().and_then(|wait| wait.parse().ok());
    match (name == NAME, wait, command) {
        (true, Some(wait), [program, arguments @ ..]) => Some(begin(wait, program, arguments)),
        _ => None,
    }
}

fn begin(wait: RawFd, program: &OsStr, arguments: &[OsString]) -> Code {
    match was_bound(wait) {
        Ok(true) => {}
        // The process that closed the pipe reports why, or was killed.
        Ok(false) => return Code::FAILURE,
        Err(error) => {
            complain(&format!("cannot start the command: {}", cause(&error)));
            return Code::FAILURE;
        }
    }
    let error = Command::new(program).args(arguments).exec();
    let program = shown(&program.to_string_lossy());
    complain(&format!("cannot run '{program}': {}", cause(&error)));
    if error.kind() == io::ErrorKind::NotFound { Code::NOT_FOUND } else { Code::NOT_EXECUTABLE }
}

/// Waits for the byte, and leaves nothing of the pipe to the command.
fn was_bound(wait: RawFd) -> io::Result<bool> {
    // The descriptor is opened again by its number, since using the number itself would need unsafe
    // code; then the inherited descriptor is closed.
    let mut pipe = File::open(format!("/proc/self/fd/{wait}"))?;
    close(wait)?;
    Ok(pipe.read(&mut [0])? == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_we_start_ourselves_is_a_start() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for line in ["vmlockctl", "vmlockctl 3 true", "vmlockctl-start", "vmlockctl-start x true"] {
            assert_eq!(main(&words(line)), None, "{line}");
        }
        // A descriptor that nobody has: it fails, and nothing is executed.
        assert_eq!(main(&words("vmlockctl-start 1000000 true")), Some(Code::FAILURE));
    }
}
