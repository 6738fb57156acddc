//! A directory of lock files.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, StatVfsMountFlags, fstat, fstatvfs, stat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::lock::model::error::Error;
use crate::lock::model::operation::Operation;
use crate::lock::path::fs_type::FsType;
use crate::lock::path::lookup;
use crate::lock::path::open::{self, Links, same_node};
use crate::lock::request::Asked;
use crate::lock::text::errno::errno_description;
use crate::lock::text::escape::shown_path;

/// The flags for opening lock files: for both modes, and without side effects if one is not a
/// regular file.
const FLAGS: OFlags = OFlags::RDWR
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// A directory of lock files, checked and opened once.
///
/// It remains the directory that was checked, even if its name changes.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Empty until the first use, if nothing may be opened before.
    opened: OnceLock<Opened>,
    /// Whether it was reported that holder records cannot be written in it.
    reported: AtomicBool,
}

/// An open directory, with what never changes of it.
#[derive(Debug)]
struct Opened {
    fd: OwnedFd,
    /// Its device and inode.
    node: (u64, u64),
    fs_type: FsType,
}

impl Directory {
    /// Creates a directory and its missing parents, and opens it, for an explicit request. The
    /// existing parent is checked before. `links` is the treatment of symbolic links in the path.
    ///
    /// # Errors
    ///
    /// As for [`Self::open`].
    pub fn make(path: &Path, links: Links) -> Result<Self, Error> {
        if path.is_absolute() && !path.components().any(|part| part == Component::ParentDir) {
            make_missing(path, links)
                .map_err(|why| Error::Lockspace { directory: shown_path(path), why })?;
        }
        Self::open(path)
    }

    /// Removes the directory, if it still exists and is empty. If a file system is mounted on it,
    /// it is kept, without an error.
    ///
    /// # Errors
    ///
    /// [`Error::System`]: `ENOTEMPTY`, and other errors of removing it.
    pub fn remove(&self) -> Result<(), Error> {
        match self.is_there() {
            Ok(true) => {}
            // The file that its path leads to by now never belonged to this lockspace.
            Ok(false) | Err(Error::System { errno: Errno::NOENT | Errno::NOTDIR, .. }) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        let failed = |error: io::Error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            Error::system(Operation::RemoveLockspace, shown_path(&self.path), errno)
        };
        let real = fs::canonicalize(&self.path).map_err(failed)?;
        if fs::read_dir(&real).map_err(failed)?.next().is_some() {
            let errno = Errno::NOTEMPTY;
            return Err(Error::system(Operation::RemoveLockspace, shown_path(&self.path), errno));
        }
        match fs::remove_dir(&real) {
            Err(error) if Errno::from_io_error(&error) != Some(Errno::BUSY) => Err(failed(error)),
            _ => Ok(()),
        }
    }

    /// Opens and checks a directory. It is not created: on shared storage that is not mounted yet,
    /// locks in an empty directory in its place would exclude no other host.
    ///
    /// # Errors
    ///
    /// [`Error::Lockspace`] if it is missing, read-only, or if another user than root (or the
    /// service's own user) could exchange it or its files.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let directory = Self::unopened(path);
        directory.opened()?;
        Ok(directory)
    }

    /// Returns a directory that is checked and opened on its first use: its storage may be dead,
    /// and a restart of the service must not wait for that.
    #[must_use]
    pub fn unopened(path: &Path) -> Self {
        Self { path: path.to_owned(), opened: OnceLock::new(), reported: AtomicBool::new(false) }
    }

    /// Opens the directory on its first use.
    ///
    /// # Errors
    ///
    /// As for [`Self::open`].
    fn opened(&self) -> Result<&Opened, Error> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let opened = check_and_open(&self.path)?;
        Ok(self.opened.get_or_init(|| opened))
    }

    fn fd(&self) -> Result<BorrowedFd<'_>, Error> {
        self.opened().map(|opened| opened.fd.as_fd())
    }

    /// Returns what is queried for a file in it: the open directory's file system, which no path
    /// has to be followed to, or its path as long as it is not opened.
    pub(in crate::lock) fn asks(&self) -> Asked<'_> {
        self.opened.get().map_or(Asked::path(&self.path), |opened| Asked::File(opened.fd.as_fd()))
    }

    /// Returns the type of its file system.
    ///
    /// # Errors
    ///
    /// As for [`Self::open`].
    pub(in crate::lock) fn fs_type(&self) -> Result<FsType, Error> {
        Ok(self.opened()?.fs_type)
    }

    /// Returns the device and inode of the directory.
    ///
    /// # Errors
    ///
    /// As for [`Self::open`].
    pub fn node(&self) -> Result<(u64, u64), Error> {
        Ok(self.opened()?.node)
    }

    /// Whether its path still leads to it.
    ///
    /// # Errors
    ///
    /// As for [`Self::open`], and errors of `stat(2)`.
    pub fn is_there(&self) -> Result<bool, Error> {
        let failed = |errno| Error::system(Operation::Stat, shown_path(&self.path), errno);
        let found = stat(&self.path).map_err(failed)?;
        Ok(self.node()? == (found.st_dev, found.st_ino))
    }

    /// Whether to report that holder records cannot be written in it: true only the first time.
    pub(in crate::lock) fn report_unwritten(&self) -> bool {
        !self.reported.swap(true, Ordering::Relaxed)
    }

    /// Returns its path when it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of one of its lock files.
    #[must_use]
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a lock file, created empty if it is missing, with an open file description of its own.
    ///
    /// # Errors
    ///
    /// [`Error::System`] with the errors of `openat2(2)`, which refuses links of all kinds;
    /// `EINVAL` for a node of another type.
    pub fn open_file(&self, name: &str) -> Result<File, Error> {
        let owner_only = Mode::RUSR | Mode::WUSR;
        Self::open_with(self.fd()?, name, FLAGS | OFlags::CREATE, owner_only)
            .map_err(|errno| self.failed(Operation::OpenLockFile, name, errno))
    }

    /// Opens an existing lock file; `None` if there is none.
    ///
    /// # Errors
    ///
    /// As for [`Self::open_file`].
    pub fn find_file(&self, name: &str) -> Result<Option<File>, Error> {
        match Self::open_with(self.fd()?, name, FLAGS, Mode::empty()) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed(Operation::OpenLockFile, name, errno)),
        }
    }

    fn failed(&self, operation: Operation, name: &str, errno: Errno) -> Error {
        Error::system(operation, shown_path(&self.path_of(name)), errno)
    }

    fn open_with(
        directory: BorrowedFd<'_>,
        name: &str,
        flags: OFlags,
        mode: Mode,
    ) -> Result<File, Errno> {
        let file = File::from(lookup::open_beneath(directory, name, flags, mode)?);
        let kind = FileType::from_raw_mode(fstat(&file)?.st_mode);
        if kind == FileType::RegularFile { Ok(file) } else { Err(Errno::INVAL) }
    }

    /// Whether a name still leads to the open file: another process may have removed it between the
    /// open and the lock.
    ///
    /// # Errors
    ///
    /// Errors of examining it, except for a missing name: the result is then false.
    pub fn still_names(&self, name: &str, file: &File) -> Result<bool, Error> {
        let found = match statat(self.fd()?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => fstat(file.as_fd()).map(|open| same_node(&found, &open)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        };
        found.map_err(|errno| self.failed(Operation::StatLockFile, name, errno))
    }

    /// Removes a lock file. Only for a caller that holds it exclusively.
    ///
    /// # Errors
    ///
    /// [`Error::System`] with the errors of `unlinkat(2)`.
    pub fn remove_file(&self, name: &str) -> Result<(), Error> {
        unlinkat(self.fd()?, name, AtFlags::empty())
            .map_err(|errno| self.failed(Operation::RemoveLockFile, name, errno))
    }
}

/// Creates the missing components of a path, accessible to their owner only.
fn make_missing(path: &Path, links: Links) -> Result<(), String> {
    let found = path.ancestors().find(|step| step.symlink_metadata().is_ok());
    if let (Some(found), Links::Refuse) = (found, links) {
        let describe = |errno: Errno| match errno {
            Errno::LOOP => "leads through a symbolic link, which only root may use".to_owned(),
            errno => format!("cannot be resolved: {}", errno_description(errno)),
        };
        open::locate(found, links).map_err(describe)?;
    }
    match found {
        Some(found) if found != path => {
            check_trusted(found, Part::Parent)?;
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|error| format!("cannot be created: {error}"))
        }
        _ => Ok(()),
    }
}

fn check_and_open(path: &Path) -> Result<Opened, Error> {
    let refuse = |why: String| Error::Lockspace { directory: shown_path(path), why };
    if !path.is_absolute() {
        return Err(refuse("is not an absolute path".into()));
    }
    check_trusted(path, Part::Lockspace).map_err(refuse)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| refuse(format!("cannot be opened: {}", errno_description(errno))))?;
    let unknown = |errno| refuse(format!("cannot be examined: {}", errno_description(errno)));
    let file_system = fstatvfs(&fd).map_err(unknown)?;
    if file_system.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(refuse("is on a read-only file system".into()));
    }
    let fs_type = FsType::of(&fd).map_err(unknown)?;
    let stat = fstat(&fd).map_err(unknown)?;
    Ok(Opened { fd, node: (stat.st_dev, stat.st_ino), fs_type })
}

/// The role of a directory in a check.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// It contains lock files.
    Lockspace,
    /// It is a parent of one that does.
    Parent,
}

/// Checks that only root and the service's user can exchange the directory or one of its parents.
///
/// The path as configured and the path after resolving all links are both checked. A sticky
/// directory like `/tmp` is accepted as a parent (what is in it belongs to root, so other users
/// cannot rename it), but not as the lockspace itself, where other users could create files.
fn check_trusted(path: &Path, part: Part) -> Result<(), String> {
    let real = fs::canonicalize(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist (create it with mkdir -m 0700)".to_owned(),
        _ => format!("cannot be resolved: {error}"),
    })?;
    let own_uid = geteuid().as_raw();
    for step in path.ancestors().chain(real.ancestors()) {
        let shown = shown_path(step);
        let info = fs::metadata(step).map_err(|error| format!("{shown}: {error}"))?;
        if !info.is_dir() {
            return Err(format!("{shown} is not a directory"));
        }
        if info.uid() != 0 && info.uid() != own_uid {
            return Err(format!("{shown} belongs to uid {}, which could replace it", info.uid()));
        }
        let (others_write, sticky) = (info.mode() & 0o022 != 0, info.mode() & 0o1000 != 0);
        let is_lockspace = part == Part::Lockspace && (step == path || step == real);
        if others_write && (!sticky || is_lockspace) {
            return Err(format!("{shown} is writable by its group or by all"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
