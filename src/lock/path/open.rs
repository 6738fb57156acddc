//! How a file is opened that somebody else named or passed.
//!
//! Opening has side effects: a FIFO blocks, a tape rewinds, a watchdog arms, a file lease stalls
//! the opener for up to 45 seconds. So a name is first turned into an `O_PATH` descriptor, which
//! touches nothing; its type and file system are looked at; and only then is *that descriptor*
//! opened, through `/proc/self/fd`, with `O_NONBLOCK`. No name is looked up twice in between, so
//! nobody can exchange what it leads to. A descriptor that a caller passed is treated likewise:
//! it is never locked itself, since he shares its description and could unlock it.

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

/// What becomes of symbolic links in a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// They are followed.
    Follow,
    /// They are refused, wherever they lead.
    Refuse,
}

/// Turns a name into a descriptor of what it leads to, without opening that.
///
/// Links may be followed, but not the magic ones of `/proc/PID/fd`, which lead wherever a process
/// likes.
///
/// # Errors
///
/// What `openat2(2)` says; `ELOOP` also for a link that may not be followed.
pub fn locate(path: &Path, links: Links) -> Result<OwnedFd, Errno> {
    lookup::locate(path, links)
}

/// Turns a name into a descriptor as [`locate`] does, but only if the kernel has all of it in
/// memory and need not ask any file system; where `openat2(2)` is not to be had, if no file system of
/// another host or process has to be asked.
///
/// # Errors
///
/// What `openat2(2)` says; `EAGAIN` where a file system would have to be asked.
pub fn locate_known(path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::NO_MAGICLINKS | ResolveFlags::CACHED;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve) {
        Err(rustix::io::Errno::NOSYS) => lookup::locate_local(path),
        found => found.map_err(|errno| Errno::from_raw(errno.raw_os_error())),
    }
}

/// The name that the kernel has for a descriptor, in our own mount namespace.
///
/// For one that came from elsewhere this is no more than a hint: its sender may have made the
/// mount that the name goes through. Compare what it leads to.
///
/// # Errors
///
/// What `readlink(2)` says.
pub fn name_of(fd: BorrowedFd<'_>) -> Result<PathBuf, Errno> {
    readlink(proc_name(fd).as_str()).map(PathBuf::from)
}

/// What a located or passed descriptor is: a regular file or a block device, on a file system
/// that holds disks.
///
/// # Errors
///
/// [`Error::NotLockable`] with the type, [`Error::System`] where the file can't be looked at.
pub fn examine(fd: BorrowedFd<'_>, name: &str) -> Result<(FileStat, Identity), Error> {
    let stat = fstat(fd).map_err(|errno| Error::system("stat", name, errno))?;
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

/// Whether the file lives on FUSE, where a process of any user may answer for it, or never answer.
///
/// # Errors
///
/// [`Error::System`] where the file can't be looked at.
pub fn is_fuse(fd: BorrowedFd<'_>, name: &str) -> Result<bool, Error> {
    Ok(file_system(fd, name)? == statfs::FUSE_SUPER_MAGIC)
}

/// Whether the file is on an overlay.
///
/// # Errors
///
/// What `fstatfs(2)` says.
pub fn is_overlay(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(fstatfs(fd)?.filesystem_type() == statfs::OVERLAYFS_SUPER_MAGIC)
}

/// Whether a file that is reached through somebody else's mount may be FUSE in disguise: any user
/// can lay an overlay over his own FUSE in a namespace of his own.
///
/// # Errors
///
/// [`Error::System`] where the file can't be looked at.
pub fn may_hide_fuse(fd: BorrowedFd<'_>, name: &str) -> Result<bool, Error> {
    Ok(file_system(fd, name)? == statfs::OVERLAYFS_SUPER_MAGIC || may_hang(fd, name)?)
}

/// Whether closing a file of this file system may wait for somebody who never answers, and can't
/// be killed meanwhile.
///
/// That of FUSE asks the process that serves it, by force. Others that ask a server write back
/// what is dirty. Local ones do not, and who waits for NFS can be killed (`nfs(5)`, on `intr`);
/// what is not known may do anything.
///
/// # Errors
///
/// [`Error::System`] where the file can't be looked at.
pub fn may_hang(fd: BorrowedFd<'_>, name: &str) -> Result<bool, Error> {
    let kind = file_system(fd, name)?;
    let waits = [statfs::OVERLAYFS_SUPER_MAGIC, statfs::NFS_SUPER_MAGIC];
    Ok(!is_local(kind) && !waits.contains(&kind))
}

/// Whether a type of file system is one that this host's kernel serves by itself, and lies on no
/// other.
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
        // From <linux/magic.h> and the file systems themselves.
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

/// Opens what a descriptor refers to afresh, as a description of our own.
///
/// # Errors
///
/// What `open(2)` says: `EAGAIN` where a lease is in the way, `EROFS`, `EACCES`, `EPERM` and
/// `ETXTBSY` where it can't be written.
pub fn reopen(fd: BorrowedFd<'_>, for_writing: bool) -> Result<File, Errno> {
    let access = if for_writing { OFlag::O_RDWR } else { OFlag::O_RDONLY };
    // No O_NOFOLLOW: the link in /proc is to be followed.
    let flags = access | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    nix::fcntl::open(proc_name(fd).as_str(), flags, Permissions::empty()).map(File::from)
}

/// Returns a descriptor of the same file that only names it (`O_PATH`): to close it asks no file
/// system.
///
/// # Errors
///
/// What `open(2)` says.
pub fn pin(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    nix::fcntl::open(proc_name(fd).as_str(), flags, Permissions::empty())
}

/// Returns a descriptor of what a name leads to, also through a link of `/proc`, that only names it
/// (`O_PATH`).
///
/// # Errors
///
/// What `open(2)` says.
pub fn pin_name(name: &Path) -> Result<OwnedFd, Errno> {
    nix::fcntl::open(name, OFlag::O_PATH | OFlag::O_CLOEXEC, Permissions::empty())
}

/// Claims a block device for an instant, as whoever mounts it does for good.
///
/// # Errors
///
/// What `open(2)` says: `EBUSY` where somebody has claimed it, or a part of it.
pub fn claim(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // Without O_CREAT, and for block devices, this is what O_EXCL means.
    let flags = OFlag::O_RDONLY | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    nix::fcntl::open(proc_name(fd).as_str(), flags, Permissions::empty()).map(drop)
}

/// Whether a name without links leads to the very node that a descriptor has open: same device, same
/// inode.
///
/// # Errors
///
/// What looking at either says, but for a name that leads nowhere: that is a plain no.
pub fn leads_to(path: &Path, stat: &FileStat) -> Result<bool, Errno> {
    match locate(path, Links::Refuse) {
        Ok(there) => Ok(same_node(&fstat(&there)?, stat)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Whether two looks saw one node.
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
        .map_err(|errno| Error::system("statfs the file system of", name, errno))
}

/// What the kernel makes up rather than stores: nothing there is a disk, and opening some of it
/// for writing does things.
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
        // From <linux/magic.h>, where nix has no name for them.
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

/// Why a node that is neither file nor block device can't be locked.
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
    fn only_files_and_block_devices() {
        assert_eq!(why("/dev/null"), "cannot lock /dev/null: it is a character device");
        assert_eq!(why("/tmp"), "cannot lock /tmp: it is a directory");
        assert!(why("/proc/self/mem").contains("proc, which holds no disks"));
        let magic = locate(Path::new("/proc/self/exe"), Links::Follow);
        assert_eq!(magic.unwrap_err(), Errno::ELOOP);
    }

    #[test]
    fn what_was_located_is_what_is_opened() {
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
