//! Somebody else who wants the lock: another process, as the kernel tells lock owners apart.
//!
//! No program to do that is built or shipped. The test binary runs itself again, and the ignored
//! test at the end of this file is the rival's main function.

use std::{
    env,
    fs::OpenOptions,
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};

use super::{DEADLINE, process::spawn};

const PATH: &str = "VMLOCKD_TEST_RIVAL_PATH";
const LOCK: &str = "VMLOCKD_TEST_RIVAL_LOCK";

/// Who owns the lock for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The process: `F_SETLK`, virtlockd's.
    Posix,
    /// The open file description: `F_OFD_SETLK`, QEMU's and ours.
    Ofd,
}

/// A process that holds a lock on byte 0 of a file, until it is dropped.
#[derive(Debug)]
pub(crate) struct Rival {
    child: Child,
    /// The rival's standard input, and where it says what became of the lock. It ends when the
    /// other end is closed, so also when this binary is killed.
    control: UnixStream,
}

impl Rival {
    /// Has another process take the lock. An error is the one that the kernel gave it.
    pub(crate) fn hold(
        path: impl AsRef<Path>,
        kind: Kind,
        exclusive: bool,
    ) -> Result<Rival, Errno> {
        let (control, theirs) = UnixStream::pair().expect("a socket pair");
        control.set_read_timeout(Some(DEADLINE)).expect("a timeout can be set");
        let mut command = Command::new(env::current_exe().expect("this binary has a path"));
        command.args(main_function(concat!(module_path!(), "::rival_main")));
        command.env(PATH, path.as_ref()).env(LOCK, format!("{kind:?} {exclusive}"));
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        let child = spawn(command).expect("this binary can be run again");
        let mut rival = Rival { child, control };
        let mut answer = [0; 4];
        rival.control.read_exact(&mut answer).expect("the rival says what became of the lock");
        match i32::from_ne_bytes(answer) {
            0 => Ok(rival),
            errno => Err(Errno::from_raw(errno)),
        }
    }

    /// Has another process try for the lock and give it back.
    pub(crate) fn try_once(
        path: impl AsRef<Path>,
        kind: Kind,
        exclusive: bool,
    ) -> Result<(), Errno> {
        Rival::hold(path, kind, exclusive).map(Rival::release)
    }

    /// The rival's process number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives the lock back: by ending, as processes that hold locks mostly do.
    pub(crate) fn release(self) {
        drop(self);
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        // On a thread that is another user's for a while, only the first of these works.
        let _ = self.control.shutdown(Shutdown::Both);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The arguments with which this binary does nothing but what the ignored test `path` says.
pub(super) fn main_function(path: &'static str) -> [&'static str; 4] {
    let (_, test) = path.split_once("::").expect("a test is in a module");
    ["--exact", test, "--ignored", "--nocapture"]
}

/// Takes or tries a lock on byte 0 of an open file.
pub(crate) fn lock(file: impl AsFd, kind: Kind, exclusive: bool) -> Result<(), Errno> {
    let wanted = libc::flock {
        l_type: (if exclusive { libc::F_WRLCK } else { libc::F_RDLCK }).try_into().unwrap(),
        l_whence: libc::SEEK_SET.try_into().unwrap(),
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    };
    let request = match kind {
        Kind::Posix => FcntlArg::F_SETLK(&wanted),
        Kind::Ofd => FcntlArg::F_OFD_SETLK(&wanted),
    };
    fcntl(file, request).map(|_| ())
}

#[test]
#[ignore = "it is the main function of the rival that other tests start"]
fn rival_main() {
    let (Some(path), Ok(lock_wanted)) = (env::var_os(PATH), env::var(LOCK)) else {
        return;
    };
    let exclusive = lock_wanted.ends_with("true");
    let kind = if lock_wanted.starts_with("Posix") { Kind::Posix } else { Kind::Ofd };
    let stdin = io::stdin().as_fd().try_clone_to_owned().expect("standard input is open");
    let mut control = UnixStream::from(stdin);
    let file = OpenOptions::new().read(true).write(exclusive).open(path);
    let outcome = match &file {
        Ok(file) => lock(file, kind, exclusive),
        Err(e) => Err(Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))),
    };
    let answer = outcome.map_or_else(|errno| errno as i32, |()| 0);
    control.write_all(&answer.to_ne_bytes()).expect("whoever started us listens");
    // Hold the lock until the other end is closed.
    let _ = control.read(&mut [0]);
}
