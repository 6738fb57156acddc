//! One service for one runtime directory.
//!
//! Before anything is read or changed there, its `lock` file is locked; whoever comes second finds
//! it taken and who has it. The kernel frees it however the service ends.
//!
//! It frees it late where the service was killed during a request to a file system that does not
//! answer. No start is refused for that: the next service makes a lock file of its own.

mod dead;

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::lock::Mode;
use crate::lock::ofd;
use crate::lock::printable::{reason, shown_path};

/// The name of the lock file in the runtime directory.
const FILE: &str = "lock";
/// The name of a new lock file until it takes the place of the former.
const NEW: &str = "lock.new";
/// How often a lock file that was replaced is opened anew.
const TRIES: usize = 16;
/// How long another service that begins may take until it has the lock or not.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked whether it has.
const PAUSE: Duration = Duration::from_millis(10);

/// The right to be the service of a runtime directory, for as long as it lives.
#[derive(Debug)]
pub struct Instance {
    file: File,
    former: Option<u32>,
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another one is there.
    #[error("another instance is already running, pid {pid} (it holds {file})")]
    Running {
        /// Its process, as it wrote it down itself.
        pid: String,
        /// Its lock file.
        file: String,
    },
    /// The runtime directory can't be used.
    #[error("cannot use runtime directory {directory}: {}", reason(cause))]
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
        if let Some(file) = inherited {
            if !lock(&file).map_err(failed)? {
                return Err(running(&file, &path));
            }
            write_number(&file, &path);
            return Ok(Self { file, former: None });
        }
        for _ in 0..TRIES {
            let (file, writable) = open(&path).map_err(failed)?;
            if !writable {
                return if lock(&file).map_err(failed)? {
                    Ok(Self { file, former: None })
                } else {
                    Err(running(&file, &path))
                };
            }
            // Whatever begins here does so one after the other: what a lock file says is true while
            // this is held.
            if !lock_start(&file).map_err(failed)? {
                return Err(running(&file, &path));
            }
            // Replaced since it was opened: by the service that took over from a killed one.
            if !leads_to(&path, &file) {
                continue;
            }
            if lock(&file).map_err(failed)? {
                write_number(&file, &path);
                file.unlock().map_err(failed)?;
                return Ok(Self { file, former: None });
            }
            let former = number(&file).filter(|pid| dead::holds(*pid, &path, &file));
            let Some(former) = former else { return Err(running(&file, &path)) };
            let file = take_over(directory, &path).map_err(failed)?;
            tracing::warn!(
                "replacing process {former}: it was killed, but hangs in a request to a file system \
                 that is not responding"
            );
            return Ok(Self { file, former: Some(former) });
        }
        Err(failed(io::Error::other("its lock file was replaced repeatedly")))
    }

    /// The process of the service before this one, where that was killed and is not gone.
    #[must_use]
    pub fn former(&self) -> Option<u32> {
        self.former
    }
}

/// Replaces the lock file that a dead process keeps locked by a new one, which is locked before it
/// has the name. Only while [`lock_start`] is held on the former.
fn take_over(directory: &Path, path: &Path) -> io::Result<File> {
    let new = directory.join(NEW);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&new)?;
    if !lock(&file)? {
        return Err(ErrorKind::WouldBlock.into());
    }
    file.write_all_at(own_number().as_bytes(), 0)?;
    fs::rename(&new, path)?;
    Ok(file)
}

/// Locks the file against other services that begin. Returns whether it could be had in time; a
/// service that can't write its lock file keeps it.
fn lock_start(file: &File) -> io::Result<bool> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn running(file: &File, path: &Path) -> Error {
    // One that has just begun may not have written it yet: then it is said as unknown.
    let pid = number(file).map_or("unknown".to_owned(), |pid| pid.to_string());
    Error::Running { pid, file: shown_path(path) }
}

/// The process number in a lock file.
fn number(file: &File) -> Option<u32> {
    let mut text = [0; 16];
    let length = file.read_at(&mut text, 0).ok()?;
    str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
}

/// In place and always as long, so that it needs no room where one was written before.
fn own_number() -> String {
    format!("{:<10}\n", std::process::id())
}

fn write_number(file: &File, path: &Path) {
    if let Err(error) = file.write_all_at(own_number().as_bytes(), 0) {
        let path = shown_path(path);
        tracing::warn!(%error, "cannot write the process number of this service to {path}");
    }
}

impl AsFd for Instance {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Opens the lock file, and returns whether it can be written. A read-only file system that has one is no reason not to start.
fn open(path: &Path) -> io::Result<(File, bool)> {
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    match options.open(path) {
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => {
            Ok((File::open(path)?, false))
        }
        opened => Ok((opened?, true)),
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
        assert!(error.starts_with(&format!(
            "another instance is already running, pid {} ",
            std::process::id()
        )));
        drop(first);
        Instance::begin(&path, None).unwrap();
    }

    #[test]
    fn descriptions_that_cannot_be_written_exclude_each_other_and_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        drop(open(&path).unwrap().0);
        let read_only = || File::open(&path).unwrap();
        let first = read_only();
        assert!(lock(&first).unwrap());
        // Once more by a program that replaced the first one.
        assert!(lock(&first.try_clone().unwrap()).unwrap());
        assert!(!lock(&read_only()).unwrap());
        assert!(!lock(&open(&path).unwrap().0).unwrap());
        drop(first);
        let (writable, _) = open(&path).unwrap();
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
