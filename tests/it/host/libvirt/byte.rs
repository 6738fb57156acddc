//! The lock byte of a file, as a foreign process sees it.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;
use std::thread;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use tokio::sync::oneshot;

use crate::fixture::within;

/// Byte 0 of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Byte {
    /// No process has locked it.
    Free,
    /// It is locked; others can have it for reading.
    Shared,
    /// It is locked for one alone.
    Exclusive,
}

impl Byte {
    /// Looks, and takes nothing.
    pub(super) fn of(path: &Path) -> Byte {
        let file = for_writing().open(path);
        let file = file.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut found = lock_for_writing();
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)).expect("a lock can be asked for");
        match i32::from(found.l_type) {
            libc::F_UNLCK => Byte::Free,
            libc::F_RDLCK => Byte::Shared,
            _ => Byte::Exclusive,
        }
    }

    /// Waits until the byte is free, by locking and unlocking it. A missing file counts as free.
    pub(super) async fn freed(path: &Path) {
        let file = match for_writing().open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            outcome => outcome.unwrap_or_else(|e| panic!("{}: {e}", path.display())),
        };
        let what = format!("{} is free", path.display());
        let (say, said) = oneshot::channel();
        // Not one of tokio's threads: a test that fails would have to wait for it.
        thread::spawn(move || {
            let outcome = fcntl(&file, FcntlArg::F_OFD_SETLKW(&lock_for_writing()));
            drop(file);
            say.send(outcome)
        });
        within(&what, said).await.expect("the thread answers").expect("a lock can be waited for");
    }
}

fn for_writing() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

/// Returns the lock that virtlockd and the service use.
fn lock_for_writing() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK.try_into().unwrap(),
        l_whence: libc::SEEK_SET.try_into().unwrap(),
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    }
}
