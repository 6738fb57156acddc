//! Opens files that another program named or passed, without side effects.
//!
//! Opening a file can have side effects: a FIFO blocks, a tape rewinds, a watchdog arms, a file
//! lease delays the opener for up to 45 seconds. So a name is first turned into an `O_PATH`
//! descriptor, which opens nothing. Then the type and the file system of that descriptor are
//! checked. Only then is *that descriptor* opened, through `/proc/self/fd`, with `O_NONBLOCK`. No
//! name is looked up twice in between, so no process can exchange the file that it leads to. A
//! descriptor that a caller passed is treated likewise. It is never locked itself, since the caller
//! shares its description and could unlock it.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, readlink};
use nix::sys::stat::{FileStat, Mode as Permissions, SFlag, fstat};
use nix::sys::statfs::{self, FsType, fstatfs};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

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
pub fn locate_known(path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::NO_MAGICLINKS | ResolveFlags::CACHED;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve) {
        Err(rustix::io::Errno::NOSYS) => lookup::locate_local(path),
        found => found.map_err(|errno| Errno::from_raw(errno.raw_os_error())),
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
    readlink(proc_name(fd).as_str()).map(PathBuf::from)
}

/// Checks that a located or passed descriptor is of a regular file or a block device, on a file
/// system that stores disks. Returns its status and identity.
///
/// # Errors
///
/// [`Error::NotLockable`] with the type, [`Error::System`] if the file cannot be examined.
pub fn examine(fd: BorrowedFd<'_>, name: &str) -> Result<(FileStat, Identity), Error> {
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
    if let Some(kind) = artificial(file_system(fd, name)?) {
        return Err(Error::not_lockable(name, format!("it is on {kind}, which holds no disks")));
    }
    Ok((stat, identity))
}

/// Whether the file is on FUSE. There, a process of any user may answer requests for it, or never
/// answer.
///
/// # Errors
///
/// [`Error::System`] if the file cannot be examined.
pub fn is_fuse(fd: BorrowedFd<'_>, name: &str) -> Result<bool, Error> {
    Ok(file_system(fd, name)? == statfs::FUSE_SUPER_MAGIC)
}

/// Whether the file is on an overlay.
///
/// # Errors
///
/// Errors of `fstatfs(2)`.
pub fn is_overlay(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(fstatfs(fd)?.filesystem_type() == statfs::OVERLAYFS_SUPER_MAGIC)
}

/// Whether a file that is reached through a mount of another process may be on FUSE without showing
/// it: any user can mount an overlay over its own FUSE in a namespace of its own.
///
/// # Errors
///
/// [`Error::System`] if the file cannot be examined.
pub fn may_hide_fuse(fd: BorrowedFd<'_>, name: &str) -> Result<bool, Error> {
    Ok(file_system(fd, name)? == statfs::OVERLAYFS_SUPER_MAGIC || may_hang(fd, name)?)
}

/// Whether closing a file of this file system may block for ever and uninterruptibly.
///
/// FUSE sends a request to its server on each close. Other file systems with a server write back
/// dirty data. Local ones do neither, and a process that waits for NFS can be killed (`nfs(5)`, on
/// `intr`). An unknown file system may do anything.
///
/// # Errors
///
/// [`Error::System`] if the file cannot be examined.
pub fn may_hang(fd: BorrowedFd<'_>, name: &str) -> Result<bool, Error> {
    let kind = file_system(fd, name)?;
    let waits = [statfs::OVERLAYFS_SUPER_MAGIC, statfs::NFS_SUPER_MAGIC];
    Ok(!is_local(kind) && !waits.contains(&kind))
}

/// Whether this host's kernel alone serves a type of file system, which lies on no other one.
#[must_use]
pub fn is_local(kind: FsType) -> bool {
    let local = [
        statfs::EXT4_SUPER_MAGIC, // and ext2 and ext3
        statfs::XFS_SUPER_MAGIC,
        statfs::BTRFS_SUPER_MAGIC,
        statfs::TMPFS_MAGIC,
        statfs::F2FS_SUPER_MAGIC,
        statfs::ISOFS_SUPER_MAGIC,
        statfs::MSDOS_SUPER_MAGIC,
        statfs::REISERFS_SUPER_MAGIC,
        statfs::HUGETLBFS_MAGIC,
        // From <linux/magic.h> and the sources of the file systems.
        FsType(0x2fc1_2fc1), // zfs
        FsType(0xca45_1a4e), // bcachefs
        FsType(0x3153_464a), // jfs
        FsType(0x7366_746e), // ntfs3
        FsType(0x2011_bab0), // exfat
        FsType(0x7371_7368), // squashfs
        FsType(0x8584_58f6), // ramfs
    ];
    local.contains(&kind)
}

/// Opens the file of a descriptor again, with an open file description of its own.
///
/// # Errors
///
/// Errors of `open(2)`: `EAGAIN` if a file lease conflicts, `EROFS`, `EACCES`, `EPERM` and
/// `ETXTBSY` if the file cannot be written.
pub fn reopen(fd: BorrowedFd<'_>, for_writing: bool) -> Result<File, Errno> {
    let access = if for_writing { OFlag::O_RDWR } else { OFlag::O_RDONLY };
    // No O_NOFOLLOW: the link in /proc has to be followed.
    let flags = access | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    nix::fcntl::open(proc_name(fd).as_str(), flags, Permissions::empty()).map(File::from)
}

/// Returns an `O_PATH` descriptor of the same file: closing it sends no request to a file system.
///
/// # Errors
///
/// Errors of `open(2)`.
pub fn pin(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    nix::fcntl::open(proc_name(fd).as_str(), flags, Permissions::empty())
}

/// Returns an `O_PATH` descriptor of the file that a name leads to, also through a link of `/proc`.
///
/// # Errors
///
/// Errors of `open(2)`.
pub fn pin_name(name: &Path) -> Result<OwnedFd, Errno> {
    nix::fcntl::open(name, OFlag::O_PATH | OFlag::O_CLOEXEC, Permissions::empty())
}

/// Claims a block device for an instant, as a mount does permanently.
///
/// # Errors
///
/// Errors of `open(2)`: `EBUSY` if the device, or a part of it, is claimed.
pub fn claim(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // Without O_CREAT, O_EXCL on a block device is a claim.
    let flags = OFlag::O_RDONLY | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    nix::fcntl::open(proc_name(fd).as_str(), flags, Permissions::empty()).map(drop)
}

/// Whether a name without links leads to the same node as a descriptor: same device, same inode.
///
/// # Errors
///
/// Errors of examining either, except for a name that leads nowhere: the result is then false.
pub fn leads_to(path: &Path, stat: &FileStat) -> Result<bool, Errno> {
    match locate(path, Links::Refuse) {
        Ok(there) => Ok(same_node(&fstat(&there)?, stat)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Whether two statuses are of one node.
#[must_use]
pub fn same_node(a: &FileStat, b: &FileStat) -> bool {
    (a.st_dev, a.st_ino, a.st_rdev) == (b.st_dev, b.st_ino, b.st_rdev)
}

fn proc_name(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn file_system(fd: BorrowedFd<'_>, name: &str) -> Result<FsType, Error> {
    fstatfs(fd)
        .map(|found| found.filesystem_type())
        .map_err(|errno| Error::system(Operation::StatFileSystem, name, errno))
}

/// Returns the name of a file system whose content the kernel generates: it contains no disks, and
/// opening some of its files for writing has effects.
fn artificial(kind: FsType) -> Option<&'static str> {
    [
        (statfs::PROC_SUPER_MAGIC, "proc"),
        (statfs::SYSFS_MAGIC, "sysfs"),
        (statfs::DEBUGFS_MAGIC, "debugfs"),
        (statfs::TRACEFS_MAGIC, "tracefs"),
        (statfs::SECURITYFS_MAGIC, "securityfs"),
        (statfs::CGROUP_SUPER_MAGIC, "a cgroup file system"),
        (statfs::CGROUP2_SUPER_MAGIC, "a cgroup file system"),
        (statfs::DEVPTS_SUPER_MAGIC, "devpts"),
        (statfs::BPF_FS_MAGIC, "bpffs"),
        (statfs::NSFS_MAGIC, "nsfs"),
        // From <linux/magic.h>: nix has no constants for these.
        (FsType(0x6265_6570), "configfs"),
        (FsType(0xf97c_ff8c), "selinuxfs"),
        (FsType(0xde5e_81e4), "efivarfs"),
        (FsType(0x5049_4446), "pidfs"),
        (FsType(0x6165_676c), "pstore"),
        (FsType(0x4249_4e4d), "binfmt_misc"),
        (FsType(0x1980_0202), "mqueue"),
    ]
    .into_iter()
    .find_map(|(magic, name)| (magic == kind).then_some(name))
}

/// Describes a node that is neither a file nor a block device and so cannot be locked.
fn kind_of(stat: &FileStat) -> &'static str {
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => "it is a directory",
        SFlag::S_IFIFO => "it is a FIFO",
        SFlag::S_IFSOCK => "it is a socket",
        SFlag::S_IFCHR => "it is a character device",
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
        assert_eq!(magic.unwrap_err(), Errno::ELOOP);
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
