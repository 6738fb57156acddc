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
const OUTPUT_MAX: usize = 4096;

/// Why a program has no usable output.
#[derive(Debug, thiserror::Error)]
pub(in crate::lock) enum SubprocessError {
    /// It cannot be run, or its output cannot be read.
    #[error(transparent)]
    System(#[from] io::Error),
    /// It exceeded its run time.
    #[error("it did not exit within {} seconds", .0.as_secs())]
    TimedOut(Duration),
    /// It exceeded the length of the output.
    #[error("it wrote more than {OUTPUT_MAX} bytes")]
    TooLong,
}

/// Parses an error number that a subprocess has printed; `None` if it is invalid.
pub(in crate::lock) fn parse_errno(text: &str) -> Option<Errno> {
    // `Errno::from_raw_os_error` panics if the number is not that of an error.
    Errno::from_io_error(&io::Error::from_raw_os_error(text.parse().ok()?))
}

/// Runs a program until it ends or `timeout` expires. Its standard error is discarded.
pub(in crate::lock) fn run(
    mut command: Command,
    timeout: Duration,
) -> Result<Output, SubprocessError> {
    command.env_clear().current_dir("/");
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut output = Vec::new();
    let outcome = read_output(&mut child, timeout, &mut output);
    if outcome.is_err() {
        stop(child, ());
    }
    outcome.map(|status| Output { status, stdout: output, stderr: Vec::new() })
}

/// Runs a program as [`run`] does. Returns the output that it has written until its end or the
/// timeout, and whether it has ended. `guard` is dropped when the process is gone, which may be long
/// after this has returned.
pub(in crate::lock) fn run_until_reaped(
    mut command: Command,
    timeout: Duration,
    guard: impl Send + 'static,
) -> (Vec<u8>, bool) {
    command.env_clear().current_dir("/");
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut output = Vec::new();
    let Ok(mut child) = command.spawn() else { return (output, true) };
    let outcome = read_output(&mut child, timeout, &mut output);
    if outcome.is_err() {
        stop(child, guard);
    }
    (output, !matches!(outcome, Err(SubprocessError::TimedOut(_))))
}

fn read_output(
    child: &mut Child,
    timeout: Duration,
    output: &mut Vec<u8>,
) -> Result<ExitStatus, SubprocessError> {
    let until = Instant::now() + timeout;
    let pidfd = pidfd_of(child)?;
    let mut stdout = child.stdout.take();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(SubprocessError::TimedOut(timeout));
        }
        let (is_readable, has_ended) = wait(stdout.as_ref(), &pidfd, left)?;
        if let Some(pipe) = stdout.as_mut().filter(|_| is_readable) {
            let mut buffer = [0; 1024];
            match pipe.read(&mut buffer)? {
                0 => stdout = None,
                n => output.extend_from_slice(&buffer[..n]),
            }
            if output.len() > OUTPUT_MAX {
                return Err(SubprocessError::TooLong);
            }
        } else if has_ended {
            // All output was read: the pipe was empty after the program had ended.
            return Ok(child.wait()?);
        }
    }
}

/// Waits for output or the end of the program. Returns whether the pipe is readable, also at its
/// end, and whether the program has ended.
fn wait(
    stdout: Option<&ChildStdout>,
    pidfd: &OwnedFd,
    left: Duration,
) -> Result<(bool, bool), SubprocessError> {
    let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
    fds.extend(stdout.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    // A time that is too long for the type is none.
    let left = Timespec::try_from(left).ok();
    match poll(&mut fds, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(io::Error::from(errno).into()),
    }
    let is_ready = |n: usize| fds.get(n).is_some_and(|fd| !fd.revents().is_empty());
    Ok((is_ready(1), is_ready(0)))
}

fn pidfd_of(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Kills a program. A program that cannot be killed blocks only the thread that reaps it.
fn stop(mut child: Child, guard: impl Send + 'static) {
    // An error means that it has ended by itself.
    let _ = child.kill();
    let reap = move || {
        let _ = child.wait();
        drop(guard);
    };
    let _ = std::thread::Builder::new().name("reap".to_owned()).spawn(reap);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Duration) -> Result<Output, SubprocessError> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null());
        run(command, timeout)
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
        assert!(matches!(late, SubprocessError::TimedOut(_)), "{late}");
        let loud = shell("while :; do echo and so on; done", LONG).unwrap_err();
        assert!(matches!(loud, SubprocessError::TooLong), "{loud}");
        let missing = run(Command::new("/none/such"), LONG).unwrap_err();
        assert!(matches!(missing, SubprocessError::System(_)), "{missing}");
    }
}
