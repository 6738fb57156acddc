//! A process that probes one file system for the service.
//!
//! A thread that probes a hung file system can be neither stopped nor abandoned, and the service
//! could not even exit; a process can be abandoned.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Stdio;

use rustix::fs::{AtFlags, CWD, StatxFlags, statfs, statx};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// The service's end of a probe process.
#[derive(Debug)]
pub(in crate::service) struct MountProbe {
    talk: UnixStream,
    /// Killed on drop. A process that hangs in the kernel dies as soon as its file system responds.
    _process: Child,
}

impl MountProbe {
    /// Starts a probe process.
    ///
    /// # Errors
    ///
    /// If no process can be started.
    pub(in crate::service) fn post() -> io::Result<Self> {
        // The running binary, whatever is installed by now: it is the one that accepts this
        // argument.
        let mut probe = Command::new("/proc/self/exe");
        probe.arg("--sentinel").current_dir("/").kill_on_drop(true);
        let (talk, theirs) = std::os::unix::net::UnixStream::pair()?;
        talk.set_nonblocking(true)?;
        let theirs = OwnedFd::from(theirs);
        probe.stdin(theirs.try_clone()?).stdout(theirs).stderr(Stdio::null());
        let process = probe.spawn()?;
        Ok(Self { talk: UnixStream::from_std(talk)?, _process: process })
    }

    /// Returns once the file system of a mount has answered, even if with an error.
    ///
    /// # Errors
    ///
    /// If the process has ended; start another one then.
    pub(in crate::service) async fn ask(&mut self, point: &Path) -> io::Result<()> {
        let mut question = point.as_os_str().as_bytes().to_vec();
        question.push(0);
        // The socket is empty, so a path fits into its buffer.
        self.talk.writable().await?;
        if self.talk.try_write(&question)? != question.len() {
            return Err(io::Error::other("half a question"));
        }
        loop {
            self.talk.readable().await?;
            match self.talk.try_read(&mut [0]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Runs the probe process until its input ends: reads file names, each terminated by NUL, and
/// writes one byte as soon as the file system of the name has answered.
///
/// # Errors
///
/// If the input cannot be read or the output cannot be written.
pub fn stand(mut questions: impl io::Read, mut answers: impl io::Write) -> io::Result<()> {
    let mut name = Vec::new();
    let mut byte = [0];
    while questions.read(&mut byte)? == 1 {
        if byte[0] != 0 {
            name.push(byte[0]);
            continue;
        }
        let path = Path::new(OsStr::from_bytes(&name));
        // Any result is an answer, an error too. The kernel's cached attributes are not, hence
        // `FORCE_SYNC`.
        let _ = statx(CWD, path, AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS);
        let _ = statfs(path);
        answers.write_all(&[1])?;
        answers.flush()?;
        name.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_probe_has_one_answer() {
        let mut answers = Vec::new();
        stand(&b"/\0/none\0\0/unfinished"[..], &mut answers).unwrap();
        assert_eq!(answers, [1, 1, 1]);
    }
}
