//! Examines a descriptor that a caller passed.
//!
//! Any user can pass any descriptor: of a file whose file system never responds, or of an epoll
//! instance whose mutex another thread keeps locked. So its type is determined by requests that
//! neither query its file system nor take its locks: `readlink(2)` below `/proc/self/fd`,
//! `statx(2)` with `AT_STATX_DONT_SYNC`, and `F_GETFL`. `/proc/self/fdinfo` is not one of them: to
//! generate it, the kernel calls an operation of the file.
//!
//! A file may be on a mount that only the caller's mount namespace has, and any user can mount FUSE
//! there, and an overlay over it. If no mount of this process has the same file system, a
//! subprocess that can be abandoned queries that file system for its type before any other request
//! is sent.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, fstat, makedev, open, statx};
use rustix::io::Errno;

use crate::lock::model::error::Error;
use crate::lock::model::identity::Identity;
use crate::lock::model::operation::Operation;
use crate::lock::mount::{Mount, Mounts};
use crate::lock::path::fs_type::FsType;
use crate::lock::path::open::{self as opening, name_of};
use crate::lock::path::subprocess;
use crate::lock::path::walk::remote_mount;
use crate::sync;

/// How long an unknown file system may take to return its type.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum number of pending queries of one user, including the abandoned ones.
const PER_USER: usize = 4;
/// The maximum number of pending queries of all users.
const TOTAL: usize = 64;
/// The kernel's name for the file of a pidfd.
const PROCESS: &str = "anon_inode:[pidfd]";

/// File systems that store files on a local disk or in memory, lie on no other file system, and
/// have no request for the close of a descriptor (`flush`) that could wait for another process.
/// Pseudo file systems are not among them: the effect of releasing a file differs from file to
/// file.
const LOCAL_TYPES: [&str; 14] = [
    "bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "iso9660", "ramfs",
    "squashfs", "tmpfs", "vfat", "xfs",
];

/// The user that passed a descriptor.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    /// The user.
    pub uid: u32,
    /// Whether it may also pass files on file systems that any process may serve.
    pub trusted: bool,
}

/// The properties of an open file that the kernel reports without a request to its file system.
#[derive(Debug)]
pub struct OpenFile {
    /// The kernel's name for it: a path, or a word such as `pipe:[7]`.
    name: PathBuf,
    kind: FileType,
    dev: u64,
    ino: u64,
    /// Whether no known name leads to it any more.
    deleted: bool,
    /// The number of the mount that it was opened through.
    mount: Option<u64>,
}

impl OpenFile {
    /// Examines an open file.
    ///
    /// # Errors
    ///
    /// Errors of `readlink(2)` and `statx(2)`.
    pub fn at(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        let name = name_of(fd)?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::NLINK | StatxFlags::MNT_ID;
        let status = statx(fd, "", flags, wanted)?;
        let kind = FileType::from_raw_mode(status.stx_mode.into());
        let reported = StatxFlags::from_bits_retain(status.stx_mask);
        let mount = if reported.contains(StatxFlags::MNT_ID) {
            Some(status.stx_mnt_id)
        } else if name.is_absolute() && kind == FileType::RegularFile {
            // For kernels before 5.8. Files of a file system add nothing of their own to `fdinfo`.
            mount_in_fdinfo(fd)
        } else {
            None
        };
        Ok(Self {
            kind,
            dev: makedev(status.stx_dev_major, status.stx_dev_minor),
            ino: status.stx_ino,
            deleted: reported.contains(StatxFlags::NLINK) && status.stx_nlink == 0,
            mount,
            name,
        })
    }

    /// Whether it is a pidfd. The name of a file begins with a slash, so no file has the name of a
    /// pidfd.
    #[must_use]
    pub fn is_process(&self) -> bool {
        self.name == Path::new(PROCESS)
    }

    /// Returns the number of the mount that it was opened through, in any mount namespace.
    #[must_use]
    pub(in crate::lock) fn mount_number(&self) -> Option<u64> {
        self.mount
    }

    /// Whether it is a regular file on a file system of a local disk or in memory. Closing a
    /// descriptor of such a file sends requests to this host's kernel only, whatever its sender
    /// does.
    ///
    /// This is true only for files on the service's own mounts: the file system of another mount
    /// namespace may be an overlay over FUSE that reports the device number of a local disk, and
    /// closing the last file of a detached mount unmounts it. It is false for block devices: a
    /// process may serve one (ublk, nbd, or a loop device on FUSE). It is false for pipes, sockets
    /// and pidfds, see [`super::closer`].
    pub(in crate::lock) fn is_local_file(&self, mounts: &Mounts) -> bool {
        let mount = self.mount.and_then(|number| mounts.numbered(number));
        self.kind == FileType::RegularFile
            && self.name.is_absolute()
            && mount.is_some_and(|mount| LOCAL_TYPES.contains(&mount.kind.as_str()))
    }

    /// Returns the mount of this process that it is on, or one that has the same file system.
    #[must_use]
    pub fn mount<'m>(&self, mounts: &'m Mounts) -> Option<&'m Mount> {
        if !self.name.is_absolute() {
            return None;
        }
        let own = self.mount.and_then(|number| mounts.numbered(number));
        own.or_else(|| {
            let by_name = mounts.of(&self.name).filter(|mount| mount.dev == self.dev);
            by_name.or_else(|| mounts.iter().find(|mount| mount.dev == self.dev))
        })
        .or_else(|| {
            // Subvolumes of a btrfs have device numbers that the mount table does not have.
            let named = opening::locate_cached(&self.name).ok()?;
            let named = Self::at(named.as_fd()).ok()?;
            let same = (named.dev, named.ino) == (self.dev, self.ino);
            named.mount.filter(|_| same).and_then(|number| mounts.numbered(number))
        })
    }

    /// Returns why it cannot be locked, if it is neither a file nor a block device, or is deleted.
    fn refusal_reason(&self) -> Option<&'static str> {
        let in_file_system = self.name.is_absolute();
        match self.kind {
            FileType::RegularFile | FileType::BlockDevice if in_file_system => {
                self.deleted.then_some("it has been deleted")
            }
            FileType::RegularFile if !self.name.starts_with("anon_inode:") => {
                Some("it is on nsfs, which holds no disks")
            }
            FileType::Directory => Some("it is a directory"),
            FileType::Fifo => Some("it is a FIFO"),
            FileType::Socket => Some("it is a socket"),
            FileType::CharacterDevice => Some("it is a character device"),
            _ => Some("it is neither a regular file nor a block device"),
        }
    }
}

fn mount_in_fdinfo(fd: BorrowedFd<'_>) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// A passed file that was checked.
#[derive(Debug)]
pub struct Proven {
    /// Its name, if that may be looked up: no mount along the name sends requests to another host
    /// or process than the file's own mount does.
    pub name: Option<PathBuf>,
    /// Whether closing it sends requests to this host's kernel only.
    pub local: bool,
}

/// Checks that a passed descriptor is of a regular file or a block device, on a file system that
/// may be queried. A remote mount of this process was probed before, at its mount gate.
///
/// # Errors
///
/// [`Error::NotLockable`], [`Error::System`].
pub fn prove(fd: BorrowedFd<'_>, sender: Sender) -> Result<Proven, Error> {
    let (open_file, mounts) = examine(fd)?;
    if let Some(mount) = open_file.mount(&mounts) {
        let same = |remote: &Mount| remote.dev == mount.dev;
        let local = !mount.is_remote() && mount.kind != "overlay";
        let name =
            remote_mount(&mounts, &open_file.name).is_none_or(same).then_some(open_file.name);
        return Ok(Proven { name, local });
    }
    let local = query_type(fd, sender)?.is_local();
    if local || sender.trusted {
        return Ok(Proven { name: None, local });
    }
    Err(refused(
        "it may be on FUSE, which 'allow_fuse' does not allow: its file system is not mounted where \
         the service runs",
    ))
}

/// Returns the identity of a passed file or block device whose file system must not be queried,
/// since no mount of this process has it; `None` if a mount has it.
///
/// # Errors
///
/// [`Error::NotLockable`], [`Error::System`].
pub fn identify_without_query(fd: BorrowedFd<'_>) -> Result<Option<Identity>, Error> {
    let (open_file, mounts) = examine(fd)?;
    Ok(match open_file.mount(&mounts) {
        Some(_) => None,
        None => Identity::of_open(fd),
    })
}

fn examine(fd: BorrowedFd<'_>) -> Result<(OpenFile, Arc<Mounts>), Error> {
    let failed = |operation, name| move |errno| Error::system(operation, name, errno);
    let open_file = OpenFile::at(fd).map_err(failed(Operation::Stat, "the descriptor's file"))?;
    if let Some(why) = open_file.refusal_reason() {
        return Err(refused(why));
    }
    let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mounts = Mounts::current().map_err(errno);
    Ok((open_file, mounts.map_err(failed(Operation::Read, "the list of mounts"))?))
}

fn refused(why: impl Into<String>) -> Error {
    Error::not_lockable("the descriptor's file", why)
}

/// The number of pending queries of each user.
static PENDING: Mutex<BTreeMap<u32, usize>> = Mutex::new(BTreeMap::new());

/// A pending query, until it is dropped.
struct PendingQuery(u32);

impl PendingQuery {
    fn begin(uid: u32) -> Option<Self> {
        let mut pending = sync::lock(&PENDING);
        let total: usize = pending.values().sum();
        let own = pending.get(&uid).copied().unwrap_or_default();
        // Root has no quota, and its queries do not count against the quota of others.
        let free = uid == 0 || (own < PER_USER && total < TOTAL);
        if free {
            pending.insert(uid, own + 1);
        }
        // A query that has not begun must not be dropped: the drop would decrement the count.
        free.then(|| Self(uid))
    }
}

impl Drop for PendingQuery {
    fn drop(&mut self) {
        let mut pending = sync::lock(&PENDING);
        if let Some(count) = pending.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                pending.remove(&self.0);
            }
        }
    }
}

/// Starts a subprocess that queries a file system for its type.
fn query_type(fd: BorrowedFd<'_>, sender: Sender) -> Result<FsType, Error> {
    let Some(pending) = PendingQuery::begin(sender.uid) else {
        let text =
            format!("file systems of files that uid {} has passed are not responding", sender.uid);
        return Err(refused(text));
    };
    // Another version may be installed by now; this is the program that knows the option. The
    // subprocess opens the file itself: a copy of the descriptor would have to be closed here.
    let mut command = Command::new("/proc/self/exe");
    let path = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
    command.arg("--file-system-type").arg(path).stdin(Stdio::null());
    let (output, ended) = subprocess::run_until_reaped(command, TIMEOUT, pending);
    let output = String::from_utf8_lossy(&output);
    match output.trim().parse() {
        Ok(magic) => Ok(FsType(magic)),
        Err(_) if ended => Err(refused("cannot start a process that examines its file system")),
        Err(_) => Err(refused("its file system is not responding")),
    }
}

/// Queries the file system of a file for its type and writes that: the work of the subprocess.
///
/// # Errors
///
/// Errors of the file system.
pub fn write_type(path: &Path, mut to: impl Write) -> io::Result<()> {
    let file = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    fstat(&file)?;
    let FsType(magic) = FsType::of(&file)?;
    writeln!(to, "{magic}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::OwnedFd;

    fn of(uid: u32) -> Sender {
        Sender { uid, trusted: false }
    }

    #[test]
    fn files_on_mounts_of_this_process_are_proven() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("disk");
        let file = File::create(&path).unwrap();
        assert_eq!(prove(file.as_fd(), of(1)).unwrap().name, Some(path.clone()));
        let open_file = OpenFile::at(file.as_fd()).unwrap();
        let mounts = Mounts::current().unwrap();
        assert!(open_file.mount(&mounts).is_some() && !open_file.is_process());
        assert!(!open_file.is_local_file(&Mounts::default()), "a mount that is not ours");
        std::fs::remove_file(&path).unwrap();
        let error = prove(file.as_fd(), of(1)).unwrap_err().to_string();
        assert!(error.ends_with("it has been deleted"), "{error}");
    }

    #[test]
    fn other_file_types_are_refused() {
        let (pipe, _) = io::pipe().unwrap();
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let namespace = File::open("/proc/self/ns/mnt").unwrap();
        let all: [(OwnedFd, &str); 4] = [
            (pipe.into(), "it is a FIFO"),
            (socket.into(), "it is a socket"),
            (namespace.into(), "it is on nsfs, which holds no disks"),
            (File::open("/dev/null").unwrap().into(), "it is a character device"),
        ];
        let mounts = Mounts::current().unwrap();
        for (fd, why) in all {
            assert!(!OpenFile::at(fd.as_fd()).unwrap().is_local_file(&mounts), "{why}");
            assert!(prove(fd.as_fd(), of(1)).unwrap_err().to_string().ends_with(why), "{why}");
        }
    }

    #[test]
    fn pending_queries_are_limited_per_user() {
        let mine: Vec<_> = (0..PER_USER).map(|_| PendingQuery::begin(7001).unwrap()).collect();
        assert!(PendingQuery::begin(7001).is_none());
        drop(PendingQuery::begin(7002).unwrap());
        drop(mine);
        assert!(PendingQuery::begin(7001).is_some());
    }

    #[test]
    fn the_type_of_a_file_system_is_written() {
        let mut output = Vec::new();
        write_type(Path::new("/proc/self/stat"), &mut output).unwrap();
        assert_eq!(output, b"40864\n");
        assert!(write_type(Path::new("/none/such"), output).is_err());
    }
}
