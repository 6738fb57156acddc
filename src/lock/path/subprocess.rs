//! Runs another program with a deadline and reads its short output.
//!
//! The program gets no shell, no environment and no working directory of a user; its output and its
//! run time are bounded. A program that exceeds either is killed. This does not wait for its end,
//! since a program that hangs in the kernel cannot be killed.

use std::io::{self, ErrorKind, Read as _};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The maximum length of the output.
const LOUDEST: usize = 4096;

/// Why a program has no usable output.
#[derive(Debug, thiserror::Error)]
pub(in crate::lock) enum SubprocessError {
    /// It cannot be run, or its output cannot be read.
    #[error(transparent)]
    System(#[from] io::Error),
    /// It exceeded its run time.
    #[error("it did not exit within {} seconds", .0.as_secs())]
    Late(Duration),
    /// It exceeded the length of the output.
    #[error("it wrote more than {LOUDEST} bytes")]
    Loud,
}

/// Parses an error number that a subprocess has printed; `None` if it is invalid.
pub(in crate::lock) fn parse_errno(text: &str) -> Option<Errno> {
    // `Errno::from_raw_os_error` panics if the number is not that of an error.
    Errno::from_io_error(&io::Error::from_raw_os_error(text.parse().ok()?))
}

/// Runs a program until it ends or the timeout `patience` expires. Its standard error is discarded.
pub(in crate::lock) fn run(
    mut command: Command,
    patience: Duration,
) -> Result<Output, SubprocessError> {
    command.env_clear().current_dir("/");
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut said = Vec::new();
    let heard = listen(&mut child, patience, &mut said);
    if heard.is_err() {
        stop(child, ());
    }
    heard.map(|status| Output { status, stdout: said, stderr: Vec::new() })
}

/// Runs a program as [`run`] does. Returns the output that it has written until its end or the
/// timeout, and whether it has ended. `kept` is dropped when the process is gone, which may be long
/// after this has returned.
pub(in crate::lock) fn listen_until_reaped(
    mut command: Command,
    patience: Duration,
    kept: impl Send + 'static,
) -> (Vec<u8>, bool) {
    command.env_clear().current_dir("/");
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut said = Vec::new();
    let Ok(mut child) = command.spawn() else { return (said, true) };
    let heard = listen(&mut child, patience, &mut said);
    if heard.is_err() {
        stop(child, kept);
    }
    (said, !matches!(heard, Err(SubprocessError::Late(_))))
}

fn listen(
    child: &mut Child,
    patience: Duration,
    said: &mut Vec<u8>,
) -> Result<ExitStatus, SubprocessError> {
    let until = Instant::now() + patience;
    let ended = pidfd_of(child)?;
    let mut stdout = child.stdout.take();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(SubprocessError::Late(patience));
        }
        let (speaks, gone) = wait(stdout.as_ref(), &ended, left)?;
        if let Some(pipe) = stdout.as_mut().filter(|_| speaks) {
            let mut piece = [0; 1024];
            match pipe.read(&mut piece)? {
                0 => stdout = None,
                n => said.extend_from_slice(&piece[..n]),
            }
            if said.len() > LOUDEST {
                return Err(SubprocessError::Loud);
            }
        } else if gone {
            // All output was read: the pipe was empty after the program had ended.
            return Ok(child.wait()?);
        }
    }
}

/// Waits for output or the end of the program. Returns whether the pipe is readable, also at its
/// end, and whether the program has ended.
fn wait(
    stdout: Option<&ChildStdout>,
    ended: &OwnedFd,
    left: Duration,
) -> Result<(bool, bool), SubprocessError> {
    let mut fds = vec![PollFd::new(ended, PollFlags::IN)];
    fds.extend(stdout.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    // A time that is too long for the type is none.
    let left = Timespec::try_from(left).ok();
    match poll(&mut fds, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(io::Error::from(errno).into()),
    }
    let ready = |n: usize| fds.get(n).is_some_and(|fd| !fd.revents().is_empty());
    Ok((ready(1), ready(0)))
}

fn pidfd_of(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Kills a program. A program that cannot be killed blocks only the thread that reaps it.
fn stop(mut child: Child, kept: impl Send + 'static) {
    // An error means that it has ended by itself.
    let _ = child.kill();
    let reap = move || {
        let _ = child.wait();
        drop(kept);
    };
    let _ = std::thread::Builder::new().name("reap".to_owned()).spawn(reap);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, patience: Duration) -> Result<Output, SubprocessError> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null());
        run(command, patience)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn all_output_is_read() {
        let output = shell("echo one; echo two; exit 3", LONG).unwrap();
        assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"one\ntwo\n"[..], Some(3)));
        // Another process still has the pipe open.
        let output = shell("sleep 5 & echo one", LONG).unwrap();
        assert_eq!(output.stdout, b"one\n");
        let output = shell("echo \"$HOME$PATH_X$DBUS_SYSTEM_BUS_ADDRESS\"; pwd", LONG).unwrap();
        assert_eq!(output.stdout, b"\n/\n");
    }

    #[test]
    fn time_and_output_are_bounded() {
        let late = shell("exec sleep 60", Duration::from_millis(50)).unwrap_err();
        assert!(matches!(late, SubprocessError::Late(_)), "{late}");
        let loud = shell("while :; do echo and so on; done", LONG).unwrap_err();
        assert!(matches!(loud, SubprocessError::Loud), "{loud}");
        let missing = run(Command::new("/none/such"), LONG).unwrap_err();
        assert!(matches!(missing, SubprocessError::System(_)), "{missing}");
    }
}
