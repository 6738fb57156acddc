//! The progress of a worker: a file in memory that the worker writes and the service reads.
//!
//! A worker that hangs cannot send a message, and one message for each process would fill the
//! socket while the service does not read it.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, memfd_create};

/// The process that a worker reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// The number of the process; 0 for none.
    pub(super) pid: u32,
    /// The user of the process.
    pub(super) uid: u32,
    /// The number of steps that the worker has done. While it does not change, the worker waits for
    /// the kernel.
    pub(super) steps: u64,
}

/// The file with the progress of a worker.
#[derive(Debug)]
pub(super) struct ProgressFile {
    file: File,
    current: Cell<Progress>,
}

impl ProgressFile {
    /// Creates a file.
    ///
    /// # Errors
    ///
    /// If there is no memory or no free descriptor.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self::from(memfd_create("position", MemfdFlags::CLOEXEC)?))
    }

    /// Records that the worker is about to read a process.
    pub(super) fn set_process(&self, pid: u32, uid: u32) {
        self.write(Progress { pid, uid, steps: self.current.get().steps + 1 });
    }

    /// Records a step within the same process.
    pub(super) fn advance(&self) {
        let current = self.current.get();
        self.write(Progress { steps: current.steps + 1, ..current });
    }

    /// Records that the worker reads no process.
    pub(super) fn clear(&self) {
        self.set_process(0, 0);
    }

    fn write(&self, current: Progress) {
        self.current.set(current);
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&current.pid.to_ne_bytes());
        bytes[4..8].copy_from_slice(&current.uid.to_ne_bytes());
        bytes[8..].copy_from_slice(&current.steps.to_ne_bytes());
        // If this fails, the worker still works. Only the process at which it hangs is unknown.
        let _ = self.file.write_at(&bytes, 0);
    }

    /// Returns the progress of the worker.
    #[must_use]
    pub(super) fn read(&self) -> Progress {
        let mut bytes = [0; 16];
        if self.file.read_exact_at(&mut bytes, 0).is_err() {
            return Progress::default();
        }
        let (mut pid, mut uid, mut steps) = ([0; 4], [0; 4], [0; 8]);
        pid.copy_from_slice(&bytes[..4]);
        uid.copy_from_slice(&bytes[4..8]);
        steps.copy_from_slice(&bytes[8..]);
        Progress {
            pid: u32::from_ne_bytes(pid),
            uid: u32::from_ne_bytes(uid),
            steps: u64::from_ne_bytes(steps),
        }
    }
}

impl From<OwnedFd> for ProgressFile {
    fn from(file: OwnedFd) -> Self {
        Self { file: File::from(file), current: Cell::default() }
    }
}

impl AsFd for ProgressFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_reads_the_progress_of_the_worker() {
        let worker = ProgressFile::new().unwrap();
        let service = ProgressFile::from(worker.as_fd().try_clone_to_owned().unwrap());
        assert_eq!(service.read(), Progress::default());
        worker.set_process(7, 1000);
        worker.advance();
        assert_eq!(service.read(), Progress { pid: 7, uid: 1000, steps: 2 });
        worker.clear();
        assert_eq!(service.read(), Progress { pid: 0, uid: 0, steps: 3 });
    }
}
