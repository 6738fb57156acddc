//! One service for one runtime directory.
//!
//! Before anything is read or changed there, its `lock` file is locked; whoever comes second finds
//! it taken and who has it. The kernel frees it however the service ends.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::errno::Errno;

use crate::lock::Mode;
use crate::lock::ofd;
use crate::lock::printable::shown_path;

/// The name of the lock file in the runtime directory.
const FILE: &str = "lock";

/// The right to be the service of a runtime directory, for as long as it lives.
#[derive(Debug)]
pub struct Instance {
    file: File,
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another one is there.
    #[error("already running, pid {pid} (it holds {file})")]
    Running {
        /// Its process, as it wrote it down itself.
        pid: String,
        /// Its lock file.
        file: String,
    },
    /// The runtime directory can't be used.
    #[error("runtime directory {directory}: {cause}")]
    Directory {
        /// The directory.
        directory: String,
        /// The cause.
        cause: io::Error,
    },
}

impl Instance {
    /// Takes the right. The directory is made if it is missing. `inherited` is the lock of the
    /// program that this one replaced, which was never given up.
    ///
    /// # Errors
    ///
    /// [`Error::Running`], having changed nothing; [`Error::Directory`].
    pub fn begin(directory: &Path, inherited: Option<OwnedFd>) -> Result<Self, Error> {
        let failed = |cause| Error::Directory { directory: shown_path(directory), cause };
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
        let path = directory.join(FILE);
        let inherited = inherited.map(File::from).filter(|file| leads_to(&path, file));
        let mut file = inherited.map_or_else(|| open(&path), Ok).map_err(failed)?;
        if !lock(&file).map_err(failed)? {
            let mut pid = String::new();
            // One that has just begun may not have written it yet: then it is said as unknown.
            let read = file.read_to_string(&mut pid).is_ok_and(|read| read > 0);
            let pid = if read { pid.trim().to_owned() } else { "unknown".to_owned() };
            return Err(Error::Running { pid, file: shown_path(&path) });
        }
        // In place and always as long, so that it needs no room where one was written before.
        let pid = format!("{:<10}\n", std::process::id());
        if let Err(error) = file.write_all_at(pid.as_bytes(), 0) {
            let path = shown_path(&path);
            tracing::warn!(%error, "cannot write the process number of this service to {path}");
        }
        Ok(Self { file })
    }
}

impl AsFd for Instance {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Opens the lock file. A read-only file system that has one is no reason not to start.
fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    match options.open(path) {
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => File::open(path),
        opened => opened,
    }
}

/// Locks the file; `false` where another service has it locked.
///
/// A description that can't be written can have a shared lock only, which excludes every service that
/// could open the file for writing; `flock(2)` excludes those that could not, either.
fn lock(file: &File) -> io::Result<bool> {
    match ofd::try_lock(file, Mode::Exclusive) {
        Err(Errno::EBADF) if !ofd::try_lock(file, Mode::Shared)? => Ok(false),
        Err(Errno::EBADF) => match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        },
        locked => Ok(locked?),
    }
}

/// Whether a path is that of an open file.
fn leads_to(path: &Path, file: &File) -> bool {
    let looked = path.metadata().and_then(|there| Ok((there, file.metadata()?)));
    looked.is_ok_and(|(there, open)| (there.dev(), there.ino()) == (open.dev(), open.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let first = Instance::begin(&path, None).unwrap();
        let error = Instance::begin(&path, None).unwrap_err().to_string();
        assert!(error.starts_with(&format!("already running, pid {} ", std::process::id())));
        drop(first);
        Instance::begin(&path, None).unwrap();
    }

    #[test]
    fn descriptions_that_cannot_be_written_exclude_each_other_and_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        drop(open(&path).unwrap());
        let read_only = || File::open(&path).unwrap();
        let first = read_only();
        assert!(lock(&first).unwrap());
        // Once more by a program that replaced the first one.
        assert!(lock(&first.try_clone().unwrap()).unwrap());
        assert!(!lock(&read_only()).unwrap());
        assert!(!lock(&open(&path).unwrap()).unwrap());
        drop(first);
        let writable = open(&path).unwrap();
        assert!(lock(&writable).unwrap());
        assert!(!lock(&read_only()).unwrap());
    }

    #[test]
    fn the_process_number_is_written_over_a_longer_text() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "1234567890\n").unwrap();
        let _instance = Instance::begin(dir.path(), None).unwrap();
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert_eq!(text.trim_end(), std::process::id().to_string());
    }
}
