//! Running a program that somebody else wrote, for a word or two that it knows.
//!
//! It gets no shell, no environment and no directory of anybody's; it may say so much and take so
//! long. One that takes longer is killed, and waited for by nobody: what hangs in the kernel can't
//! be.

use std::io::{self, ErrorKind, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The most that a program may say.
const LOUDEST: usize = 4096;

/// Why a program did not say what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(in crate::lock) enum Trouble {
    /// It can't be run, or not be listened to.
    #[error(transparent)]
    System(#[from] io::Error),
    /// It took too long.
    #[error("it did not exit within {} seconds", .0.as_secs())]
    Late(Duration),
    /// It said too much.
    #[error("it wrote more than {LOUDEST} bytes")]
    Loud,
}

/// Runs a program to its end, or to the end of patience. What it says to its standard error is not
/// heard.
pub(in crate::lock) fn run(mut command: Command, patience: Duration) -> Result<Output, Trouble> {
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

/// Runs a program as [`run`] does; returns all that it has said by its end or the end of patience,
/// and whether it has ended. Keeps something until its process is gone, be it long after this has
/// returned.
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
    (said, !matches!(heard, Err(Trouble::Late(_))))
}

fn listen(
    child: &mut Child,
    patience: Duration,
    said: &mut Vec<u8>,
) -> Result<ExitStatus, Trouble> {
    let until = Instant::now() + patience;
    let ended = pidfd_of(child)?;
    let mut stdout = child.stdout.take();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Trouble::Late(patience));
        }
        let (speaks, gone) = wait(stdout.as_ref(), &ended, left)?;
        if let Some(pipe) = stdout.as_mut().filter(|_| speaks) {
            let mut piece = [0; 1024];
            match pipe.read(&mut piece)? {
                0 => stdout = None,
                n => said.extend_from_slice(&piece[..n]),
            }
            if said.len() > LOUDEST {
                return Err(Trouble::Loud);
            }
        } else if gone {
            // All that it said was read: nothing lay in the pipe when it had ended.
            return Ok(child.wait()?);
        }
    }
}

/// Whether there is something to read, its end included; and whether the program has ended.
fn wait(
    stdout: Option<&ChildStdout>,
    ended: &OwnedFd,
    left: Duration,
) -> Result<(bool, bool), Trouble> {
    let mut fds = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
    fds.extend(stdout.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
    // Rounded up: 0 would spin.
    let millis = u16::try_from(left.as_millis().saturating_add(1)).unwrap_or(u16::MAX);
    match poll(&mut fds, PollTimeout::from(millis)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(io::Error::from(errno).into()),
    }
    let ready = |n: usize| fds.get(n).and_then(PollFd::any).unwrap_or(false);
    Ok((ready(1), ready(0)))
}

fn pidfd_of(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Kills a program. It is let be where it can't die: no thread of ours is held up but one.
fn stop(mut child: Child, kept: impl Send + 'static) {
    // That it has ended by itself is as good.
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

    fn shell(script: &str, patience: Duration) -> Result<Output, Trouble> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null());
        run(command, patience)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_said_is_heard_to_the_end() {
        let output = shell("echo one; echo two; exit 3", LONG).unwrap();
        assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"one\ntwo\n"[..], Some(3)));
        // Another process has the pipe still open.
        let output = shell("sleep 5 & echo one", LONG).unwrap();
        assert_eq!(output.stdout, b"one\n");
        let output = shell("echo \"$HOME$PATH_X$DBUS_SYSTEM_BUS_ADDRESS\"; pwd", LONG).unwrap();
        assert_eq!(output.stdout, b"\n/\n");
    }

    #[test]
    fn who_takes_too_long_or_says_too_much_is_stopped() {
        let late = shell("exec sleep 60", Duration::from_millis(50)).unwrap_err();
        assert!(matches!(late, Trouble::Late(_)), "{late}");
        let loud = shell("while :; do echo and so on; done", LONG).unwrap_err();
        assert!(matches!(loud, Trouble::Loud), "{loud}");
        let missing = run(Command::new("/none/such"), LONG).unwrap_err();
        assert!(matches!(missing, Trouble::System(_)), "{missing}");
    }
}
