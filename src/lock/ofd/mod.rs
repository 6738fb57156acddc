//! Locks, tests and unlocks one byte: the only `fcntl` locking in the program.
//!
//! Open file description locks (`F_OFD_SETLK`, `fcntl_locking(2)`) belong to the description, not
//! to the process: two descriptions of one file conflict even within one process, and closing
//! another descriptor of the file unlocks nothing. They conflict with the POSIX locks of virtlockd
//! on the same byte: byte 0, length 1 (libvirt's `src/util/virlockspace.c`). The length is never 0
//! ("to the end"): some NFS servers treat that as a mandatory lock, and it would cover the bytes
//! that QEMU uses (100 and up, 200 and up) and libvirt's byte 1.

pub mod description;

use std::io;
use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::io::Errno;

use crate::lock::model::mode::Mode;

/// The first and only byte of the lock.
const BYTE: libc::off_t = 0;
/// The number of locked bytes.
const LENGTH: libc::off_t = 1;

/// A conflicting lock, as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConflictingLock {
    /// Its mode.
    pub mode: Mode,
    /// The process that holds it, in the pid namespace of this process. The kernel reports it for
    /// POSIX locks only, and not for those of another host.
    pub pid: Option<u32>,
}

fn range(kind: libc::c_int) -> libc::flock {
    // The constants of l_type and l_whence are small; the fields are short by the ABI.
    #[allow(clippy::cast_possible_truncation)]
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: BYTE,
        l_len: LENGTH,
        l_pid: 0,
    }
}

fn kind(mode: Mode) -> libc::c_int {
    match mode {
        Mode::Shared => libc::F_RDLCK,
        Mode::Exclusive => libc::F_WRLCK,
        // Mode none has no byte lock, so no caller passes it.
        Mode::None => libc::F_UNLCK,
    }
}

/// Calls `fcntl(2)`, once. rustix has no locks of open file descriptions.
fn call(file: impl AsFd, operation: FcntlArg<'_>) -> Result<(), Errno> {
    // nix has one value for all error numbers that it does not know, so its error is not used.
    let error = |_| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO);
    fcntl(file, operation).map(drop).map_err(error)
}

/// Acquires the lock, or changes its mode, without waiting. Returns false if another lock
/// conflicts; then this description keeps the lock that it had before.
///
/// # Errors
///
/// `EBADF` if the description was not opened for the mode (writing for exclusive, reading for
/// shared), `ENOLCK` if the file system has no locks available, and errors of network file systems.
pub fn try_lock(file: impl AsFd, mode: Mode) -> Result<bool, Errno> {
    match call(file, FcntlArg::F_OFD_SETLK(&range(kind(mode)))) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Unlocks the byte, even if copies of the description exist.
///
/// # Errors
///
/// Errors of the file system; local ones never fail here.
pub fn unlock(file: impl AsFd) -> Result<(), Errno> {
    call(file, FcntlArg::F_OFD_SETLK(&range(libc::F_UNLCK)))
}

/// Acquires the lock as [`try_lock`] does, but as a POSIX lock of this process (`F_SETLK`), as
/// virtlockd does. Only the self-test uses it, to find out whether the two kinds conflict.
///
/// # Errors
///
/// As for [`try_lock`].
pub(super) fn try_lock_as_process(file: impl AsFd, mode: Mode) -> Result<bool, Errno> {
    match call(file, FcntlArg::F_SETLK(&range(kind(mode)))) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Returns a lock that conflicts with a lock of this mode and belongs to another description.
///
/// The description may be open for reading or for writing, whatever the mode.
///
/// # Errors
///
/// Errors of the file system.
pub fn conflicting_lock(file: impl AsFd, mode: Mode) -> Result<Option<ConflictingLock>, Errno> {
    let mut lock = range(kind(mode));
    call(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    let mode = match libc::c_int::from(lock.l_type) {
        libc::F_UNLCK => return Ok(None),
        libc::F_RDLCK => Mode::Shared,
        _ => Mode::Exclusive,
    };
    // -1 for an OFD lock, 0 for a process outside this pid namespace.
    let pid = u32::try_from(lock.l_pid).ok().filter(|pid| *pid != 0);
    Ok(Some(ConflictingLock { mode, pid }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn two() -> (File, File) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(file.path()).unwrap();
        (open(), open())
    }

    #[test]
    fn two_descriptions_of_one_file_conflict_in_one_process() {
        let (a, b) = two();
        assert!(try_lock(&a, Mode::Exclusive).unwrap());
        assert!(!try_lock(&b, Mode::Shared).unwrap());
        let other = conflicting_lock(&b, Mode::Shared).unwrap().unwrap();
        assert_eq!(other, ConflictingLock { mode: Mode::Exclusive, pid: None });
        assert_eq!(conflicting_lock(&a, Mode::Exclusive).unwrap(), None);
        unlock(&a).unwrap();
        assert!(try_lock(&b, Mode::Exclusive).unwrap());
    }

    #[test]
    fn a_failed_upgrade_keeps_the_lock() {
        let (a, b) = two();
        assert!(try_lock(&a, Mode::Shared).unwrap());
        assert!(try_lock(&b, Mode::Shared).unwrap());
        assert!(!try_lock(&a, Mode::Exclusive).unwrap());
        assert!(!try_lock(&b, Mode::Exclusive).unwrap());
        unlock(&b).unwrap();
        assert!(try_lock(&a, Mode::Exclusive).unwrap());
    }

    #[test]
    fn closing_another_descriptor_unlocks_nothing() {
        let (a, b) = two();
        assert!(try_lock(&a, Mode::Exclusive).unwrap());
        drop(a.try_clone().unwrap());
        assert!(!try_lock(&b, Mode::Exclusive).unwrap());
    }
}
