//! Opens files that another program named or passed, without side effects.
//!
//! Opening a file can have side effects: a FIFO blocks, a tape rewinds, a watchdog arms, a file
//! lease delays the opener for up to 45 seconds. So a name is first turned into an `O_PATH`
//! descriptor, which opens nothing. Then the type and the file system of that descriptor are
//! checked. Only then is *that descriptor* opened, through `/proc/self/fd`, with `O_NONBLOCK`. No
//! name is looked up twice in between, so no process can exchange the file that it leads to. A
//! descriptor that a caller passed is treated likewise. It is never locked itself, since the caller
//! shares its description and could unlock it.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat2, readlink};
use rustix::io::Errno;

use super::fs_type::FsType;
use super::lookup;
use crate::lock::model::error::Error;
use crate::lock::model::identity::Identity;
use crate::lock::model::operation::Operation;

/// The treatment of symbolic links in a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// They are followed.
    Follow,
    /// They are refused, wherever they lead.
    Refuse,
}

/// Turns a name into a descriptor of the file that it leads to, without opening that.
///
/// Links may be followed, except the magic ones of `/proc/PID/fd`, which lead wherever a process
/// chooses.
///
/// # Errors
///
/// Errors of `openat2(2)`; `ELOOP` also for a link that may not be followed.
pub fn locate(path: &Path, links: Links) -> Result<OwnedFd, Errno> {
    lookup::locate(path, links)
}

/// Turns a name into a descriptor as [`locate`] does, but only if the kernel has all of it cached
/// and need not query any file system. If `openat2(2)` is not available, the name is accepted if no
/// file system of another host or process has to be queried.
///
/// # Errors
///
/// Errors of `openat2(2)`; `EAGAIN` if a file system would have to be queried.
pub fn locate_cached(path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::NO_MAGICLINKS | ResolveFlags::CACHED;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match openat2(CWD, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS) => lookup::locate_local(path),
        found => found,
    }
}

/// Returns the kernel's name for a descriptor, in the mount namespace of this process.
///
/// For a descriptor that another process has passed, this is only a hint: the sender may have made
/// the mount that the name goes through. Compare the file that the name leads to.
///
/// # Errors
///
/// Errors of `readlink(2)`.
pub fn name_of(fd: BorrowedFd<'_>) -> Result<PathBuf, Errno> {
    readlink(proc_name(fd), Vec::new()).map(path_from)
}

/// A disk that was located or passed, as it is known without being opened.
#[derive(Debug)]
pub struct Examined {
    /// Its status.
    pub stat: Stat,
    /// Its identity.
    pub identity: Identity,
    /// The type of its file system.
    pub fs_type: FsType,
}

/// Returns the number of the mount that a file was opened through; 0 on a kernel before 5.8. The
/// kernel answers this without access to the file system.
///
/// # Errors
///
/// Errors of `statx(2)`.
pub fn mount_number(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    lookup::mount_of(fd)
}

/// Checks that a located or passed descriptor is of a regular file or a block device, on a file
/// system that stores disks.
///
/// # Errors
///
/// [`Error::NotLockable`] with the type, [`Error::System`] if the file cannot be examined.
pub fn examine(fd: BorrowedFd<'_>, name: &str) -> Result<Examined, Error> {
    let stat = fstat(fd).map_err(|errno| Error::system(Operation::Stat, name, errno))?;
    let identity = Identity::of(&stat).ok_or_else(|| Error::not_lockable(name, kind_of(&stat)))?;
    if identity.is_unknown() {
        return Err(Error::not_lockable(
            name,
            "its disk sequence number cannot be read from sysfs",
        ));
    }
    if stat.st_nlink == 0 {
        return Err(Error::not_lockable(name, "it has been deleted"));
    }
    let fs_type =
        FsType::of(fd).map_err(|errno| Error::system(Operation::StatFileSystem, name, errno))?;
    if let Some(kind) = fs_type.artificial_name() {
        return Err(Error::not_lockable(name, format!("it is on {kind}, which holds no disks")));
    }
    Ok(Examined { stat, identity, fs_type })
}

/// Whether the file is on an overlay.
///
/// # Errors
///
/// Errors of `fstatfs(2)`.
pub fn is_overlay(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(FsType::of(fd)? == FsType::OVERLAY)
}

/// Opens the file of a descriptor again, with an open file description of its own.
///
/// # Errors
///
/// Errors of `open(2)`: `EAGAIN` if a file lease conflicts, `EROFS`, `EACCES`, `EPERM` and
/// `ETXTBSY` if the file cannot be written.
pub fn reopen(fd: BorrowedFd<'_>, for_writing: bool) -> Result<File, Errno> {
    let access = if for_writing { OFlags::RDWR } else { OFlags::RDONLY };
    // No O_NOFOLLOW: the link in /proc has to be followed.
    let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    open(proc_name(fd), flags, Mode::empty()).map(File::from)
}

/// Returns an `O_PATH` descriptor of the same file: closing it sends no request to a file system.
///
/// # Errors
///
/// Errors of `open(2)`.
pub fn pin(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    open(proc_name(fd), flags, Mode::empty())
}

/// Returns an `O_PATH` descriptor of the file that a name leads to, also through a link of `/proc`.
///
/// # Errors
///
/// Errors of `open(2)`.
pub fn pin_name(name: &Path) -> Result<OwnedFd, Errno> {
    open(name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// Claims a block device for an instant, as a mount does permanently.
///
/// # Errors
///
/// Errors of `open(2)`: `EBUSY` if the device, or a part of it, is claimed.
pub fn claim(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // Without O_CREAT, O_EXCL on a block device is a claim.
    let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NONBLOCK;
    open(proc_name(fd), flags, Mode::empty()).map(drop)
}

/// Whether a name without links leads to the same node as a descriptor: same device, same inode.
///
/// # Errors
///
/// Errors of examining either, except for a name that leads nowhere: the result is then false.
pub fn leads_to(path: &Path, stat: &Stat) -> Result<bool, Errno> {
    match locate(path, Links::Refuse) {
        Ok(found) => Ok(same_node(&fstat(&found)?, stat)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Whether two statuses are of one node.
#[must_use]
pub fn same_node(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino, a.st_rdev) == (b.st_dev, b.st_ino, b.st_rdev)
}

fn proc_name(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Returns the target of a symbolic link as a path.
pub(in crate::lock) fn path_from(target: CString) -> PathBuf {
    PathBuf::from(OsString::from_vec(target.into_bytes()))
}

/// Describes a node that is neither a file nor a block device and so cannot be locked.
fn kind_of(stat: &Stat) -> &'static str {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => "it is a directory",
        FileType::Fifo => "it is a FIFO",
        FileType::Socket => "it is a socket",
        FileType::CharacterDevice => "it is a character device",
        _ => "it is neither a regular file nor a block device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn why(path: &str) -> String {
        let fd = locate(Path::new(path), Links::Follow).unwrap();
        examine(fd.as_fd(), path).unwrap_err().to_string()
    }

    #[test]
    fn only_files_and_block_devices_are_lockable() {
        assert_eq!(why("/dev/null"), "cannot lock /dev/null: it is a character device");
        assert_eq!(why("/tmp"), "cannot lock /tmp: it is a directory");
        assert!(why("/proc/self/mem").contains("proc, which holds no disks"));
        let magic = locate(Path::new("/proc/self/exe"), Links::Follow);
        assert_eq!(magic.unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn the_located_file_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::write(&one, "1").unwrap();
        std::fs::write(&two, "22").unwrap();
        let fd = locate(&one, Links::Refuse).unwrap();
        std::fs::rename(&two, &one).unwrap();
        assert!(examine(fd.as_fd(), "one").unwrap_err().to_string().contains("deleted"));
        let stat = fstat(&fd).unwrap();
        assert!(!leads_to(&one, &stat).unwrap());
        assert!(!leads_to(&dir.path().join("none"), &stat).unwrap());
        assert!(same_node(&fstat(reopen(fd.as_fd(), true).unwrap()).unwrap(), &stat));
    }
}
