//! Where a worker is: a file in memory that the worker writes and the service reads.
//!
//! A message could not be sent by a worker that hangs, and one for each process would fill the
//! socket of a service that is not reading.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, memfd_create};

/// The process that a worker looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Its number; 0 for none.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// How many steps the worker has done: while this does not change, it waits for the kernel.
    pub step: u64,
}

/// The file.
#[derive(Debug)]
pub struct Position {
    file: File,
    place: Cell<Place>,
}

impl Position {
    /// Makes a new one.
    ///
    /// # Errors
    ///
    /// Where there is no memory or no descriptor.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self::from(memfd_create("position", MemfdFlags::CLOEXEC)?))
    }

    /// Writes down that the worker is about to look at a process.
    pub fn at(&self, pid: u32, uid: u32) {
        self.write(Place { pid, uid, step: self.place.get().step + 1 });
    }

    /// Writes down that it goes on with the same process.
    pub fn step(&self) {
        let place = self.place.get();
        self.write(Place { step: place.step + 1, ..place });
    }

    /// Writes down that it looks at no process any more.
    pub fn leave(&self) {
        self.at(0, 0);
    }

    fn write(&self, place: Place) {
        self.place.set(place);
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&place.pid.to_ne_bytes());
        bytes[4..8].copy_from_slice(&place.uid.to_ne_bytes());
        bytes[8..].copy_from_slice(&place.step.to_ne_bytes());
        // Without it the worker is as useful; only a process at which it hangs is not known.
        let _ = self.file.write_at(&bytes, 0);
    }

    /// Reads where the worker is.
    #[must_use]
    pub fn read(&self) -> Place {
        let mut bytes = [0; 16];
        if self.file.read_exact_at(&mut bytes, 0).is_err() {
            return Place::default();
        }
        let (mut pid, mut uid, mut step) = ([0; 4], [0; 4], [0; 8]);
        pid.copy_from_slice(&bytes[..4]);
        uid.copy_from_slice(&bytes[4..8]);
        step.copy_from_slice(&bytes[8..]);
        Place {
            pid: u32::from_ne_bytes(pid),
            uid: u32::from_ne_bytes(uid),
            step: u64::from_ne_bytes(step),
        }
    }
}

impl From<OwnedFd> for Position {
    fn from(file: OwnedFd) -> Self {
        Self { file: File::from(file), place: Cell::default() }
    }
}

impl AsFd for Position {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_writes_the_other_reads() {
        let worker = Position::new().unwrap();
        let service = Position::from(worker.as_fd().try_clone_to_owned().unwrap());
        assert_eq!(service.read(), Place::default());
        worker.at(7, 1000);
        worker.step();
        assert_eq!(service.read(), Place { pid: 7, uid: 1000, step: 2 });
        worker.leave();
        assert_eq!(service.read(), Place { pid: 0, uid: 0, step: 3 });
    }
}
