//! Ensures that one instance of the service uses a runtime directory.
//!
//! An instance locks the file `lock` in the directory before it reads or changes anything else there. A
//! second instance fails, and reports the process id of the first one. The kernel releases the lock
//! however the service ends.
//!
//! After a SIGKILL during a request to a file system that does not respond, the kernel releases the lock
//! late. The next instance starts nevertheless: it replaces the lock file by a new one.

mod killed;

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::lock::Mode;
use crate::lock::ofd;
use crate::lock::text::escape::{reason, shown_path};

/// The name of the lock file in the runtime directory.
const FILE: &str = "lock";
/// The name of a new lock file before it replaces the existing one.
const NEW_FILE: &str = "lock.new";
/// The number of attempts to open a lock file that other instances replace.
const MAX_ATTEMPTS: usize = 16;
/// How long another instance that starts may take until it has the lock or fails.
const START_TIMEOUT: Duration = Duration::from_secs(2);
/// The delay between attempts to lock while another instance starts.
const RETRY_DELAY: Duration = Duration::from_millis(10);

/// The lock on a runtime directory, held until it is dropped.
#[derive(Debug)]
pub struct Instance {
    file: File,
    killed: Option<u32>,
}

/// Why the runtime directory cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another instance has it locked.
    #[error("another instance is already running, pid {pid} (it holds {file})")]
    Running {
        /// The process id that it has written to the lock file.
        pid: String,
        /// The lock file.
        file: String,
    },
    /// The runtime directory cannot be used.
    #[error("cannot use runtime directory {directory}: {}", reason(cause))]
    Directory {
        /// The path of the directory.
        directory: String,
        /// The cause.
        cause: io::Error,
    },
}

impl Instance {
    /// Locks a runtime directory, which is created if necessary. `inherited` is the lock of the program
    /// before a re-execution, which was never released.
    ///
    /// # Errors
    ///
    /// [`Error::Running`], without any change; [`Error::Directory`].
    pub fn acquire(directory: &Path, inherited: Option<OwnedFd>) -> Result<Self, Error> {
        let failed = |cause| Error::Directory { directory: shown_path(directory), cause };
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
        let path = directory.join(FILE);
        let inherited = inherited.map(File::from).filter(|file| is_path_of(&path, file));
        if let Some(file) = inherited {
            if !lock(&file).map_err(failed)? {
                return Err(running(&file, &path));
            }
            write_pid(&file, &path);
            return Ok(Self { file, killed: None });
        }
        for _ in 0..MAX_ATTEMPTS {
            let (file, writable) = open(&path).map_err(failed)?;
            if !writable {
                return if lock(&file).map_err(failed)? {
                    Ok(Self { file, killed: None })
                } else {
                    Err(running(&file, &path))
                };
            }
            // Instances start one after the other. While this lock is held, the process id in the lock
            // file is current.
            if !lock_start(&file).map_err(failed)? {
                return Err(running(&file, &path));
            }
            // The file was replaced since it was opened, by an instance that replaced a killed one.
            if !is_path_of(&path, &file) {
                continue;
            }
            if lock(&file).map_err(failed)? {
                write_pid(&file, &path);
                file.unlock().map_err(failed)?;
                return Ok(Self { file, killed: None });
            }
            let killed = read_pid(&file).filter(|pid| killed::holds_lock(*pid, &path, &file));
            let Some(killed) = killed else { return Err(running(&file, &path)) };
            let file = take_over(directory, &path).map_err(failed)?;
            tracing::warn!(
                "replacing process {killed}: it was killed, but hangs in a request to a file system \
                 that is not responding"
            );
            return Ok(Self { file, killed: Some(killed) });
        }
        Err(failed(io::Error::other("its lock file was replaced repeatedly")))
    }

    /// Returns the process of the instance before this one, if it was killed and has not exited.
    #[must_use]
    pub fn killed(&self) -> Option<u32> {
        self.killed
    }
}

/// Replaces the lock file, which a killed process keeps locked, by a new file, which is locked before
/// it is renamed. The caller must hold [`lock_start`] on the old file.
fn take_over(directory: &Path, path: &Path) -> io::Result<File> {
    let new = directory.join(NEW_FILE);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&new)?;
    if !lock(&file)? {
        return Err(ErrorKind::WouldBlock.into());
    }
    file.write_all_at(own_pid().as_bytes(), 0)?;
    fs::rename(&new, path)?;
    Ok(file)
}

/// Locks the file against other instances that start (`flock(2)`). Returns whether that succeeded in
/// time. An instance that cannot write its lock file keeps this lock.
fn lock_start(file: &File) -> io::Result<bool> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if begun.elapsed() < START_TIMEOUT => {
                thread::sleep(RETRY_DELAY);
            }
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn running(file: &File, path: &Path) -> Error {
    // An instance that has just started may not have written it yet.
    let pid = read_pid(file).map_or("unknown".to_owned(), |pid| pid.to_string());
    Error::Running { pid, file: shown_path(path) }
}

/// Reads the process id in a lock file.
fn read_pid(file: &File) -> Option<u32> {
    let mut text = [0; 16];
    let length = file.read_at(&mut text, 0).ok()?;
    str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
}

/// Formats the process id of this process. Its length is constant, so that writing it in place needs no
/// space on the file system.
fn own_pid() -> String {
    format!("{:<10}\n", std::process::id())
}

fn write_pid(file: &File, path: &Path) {
    if let Err(error) = file.write_all_at(own_pid().as_bytes(), 0) {
        let path = shown_path(path);
        tracing::warn!(%error, "cannot write the process number of this service to {path}");
    }
}

impl AsFd for Instance {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Opens the lock file, and returns whether it can be written. On a read-only file system an existing
/// file is opened for reading.
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

/// Locks the file. Returns `false` if another instance has it locked.
///
/// An open file description without write access can have a shared lock only. It excludes every instance
/// that has opened the file for writing; `flock(2)` excludes the others.
fn lock(file: &File) -> io::Result<bool> {
    match ofd::try_lock(file, Mode::Exclusive) {
        Err(Errno::BADF) if !ofd::try_lock(file, Mode::Shared)? => Ok(false),
        Err(Errno::BADF) => match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        },
        locked => Ok(locked?),
    }
}

/// Whether `path` is the path of an open file.
fn is_path_of(path: &Path, file: &File) -> bool {
    let found = path.metadata().and_then(|there| Ok((there, file.metadata()?)));
    found.is_ok_and(|(there, open)| (there.dev(), there.ino()) == (open.dev(), open.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_instance_reports_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let first = Instance::acquire(&path, None).unwrap();
        let error = Instance::acquire(&path, None).unwrap_err().to_string();
        assert!(error.starts_with(&format!(
            "another instance is already running, pid {} ",
            std::process::id()
        )));
        drop(first);
        Instance::acquire(&path, None).unwrap();
    }

    #[test]
    fn descriptions_that_cannot_be_written_exclude_each_other_and_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        drop(open(&path).unwrap().0);
        let read_only = || File::open(&path).unwrap();
        let first = read_only();
        assert!(lock(&first).unwrap());
        // Again by the program after a re-execution.
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
        let _instance = Instance::acquire(dir.path(), None).unwrap();
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert_eq!(text.trim_end(), std::process::id().to_string());
    }
}
