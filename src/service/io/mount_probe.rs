//! A process that asks one file system whether it answers, for as long as it is wanted.
//!
//! A thread that asks one that hangs could neither be stopped nor left behind, and the service
//! would not even end; a process can be left behind.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Stdio;

use rustix::fs::{AtFlags, CWD, StatxFlags, statfs, statx};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// The process, from the service's side.
#[derive(Debug)]
pub(in crate::service) struct Sentinel {
    talk: UnixStream,
    /// Killed when nobody wants it any more. One that hangs dies as soon as it does not.
    _process: Child,
}

impl Sentinel {
    /// # Errors
    ///
    /// Where no process can be had.
    pub(in crate::service) fn post() -> io::Result<Self> {
        // Whatever is installed by now, this is the program that knows the argument.
        let mut sentinel = Command::new("/proc/self/exe");
        sentinel.arg("--sentinel").current_dir("/").kill_on_drop(true);
        let (talk, theirs) = std::os::unix::net::UnixStream::pair()?;
        talk.set_nonblocking(true)?;
        let theirs = OwnedFd::from(theirs);
        sentinel.stdin(theirs.try_clone()?).stdout(theirs).stderr(Stdio::null());
        let process = sentinel.spawn()?;
        Ok(Self { talk: UnixStream::from_std(talk)?, _process: process })
    }

    /// Returns once the file system of a mount has answered, be it with an error.
    ///
    /// # Errors
    ///
    /// Where the process has ended; it is of no use any more then.
    pub(in crate::service) async fn ask(&mut self, point: &Path) -> io::Result<()> {
        let mut question = point.as_os_str().as_bytes().to_vec();
        question.push(0);
        // A path has room in the socket, in which there is nothing else.
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

/// What the process does, until nobody asks any more: for each name that ends with NUL it writes a
/// byte once the name's file system has answered.
///
/// # Errors
///
/// Where it can't be asked or answer.
pub fn stand(mut questions: impl io::Read, mut answers: impl io::Write) -> io::Result<()> {
    let mut name = Vec::new();
    let mut byte = [0];
    while questions.read(&mut byte)? == 1 {
        if byte[0] != 0 {
            name.push(byte[0]);
            continue;
        }
        let path = Path::new(OsStr::from_bytes(&name));
        // Whatever it says is an answer. What the kernel remembers is not.
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
    fn each_question_has_one_answer() {
        let mut answers = Vec::new();
        stand(&b"/\0/none\0\0/unfinished"[..], &mut answers).unwrap();
        assert_eq!(answers, [1, 1, 1]);
    }
}
