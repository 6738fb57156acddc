//! What the table is told of locks that were there before the service was started again.

use super::Table;
use crate::lock::model::error::Error;
use crate::lock::model::lock::{Lock, Proof};

impl Table {
    /// Enters a lock that was there before the service was started again, at the stage where it
    /// was; it keeps its number. A lock of another owner that overlaps it is no obstacle: what their
    /// disks lie on has changed since, and neither may be lost ([`Self::conflicts`]).
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchOwner`]; [`Error::Held`] where another owner has a lock on the same resource: the
    /// records contradict each other.
    pub fn restore(&mut self, lock: Lock) -> Result<(), Error> {
        if !self.owners.contains_key(&lock.owner) {
            return Err(Error::NoSuchOwner(lock.owner));
        }
        self.refuse_if_held(&lock.want, Some(lock.owner), |other| {
            other.owner != lock.owner && other.want.is_same(&lock.want)
        })?;
        let number = lock.id;
        self.count_from(number);
        self.enter(lock);
        self.note_conflicts(number);
        Ok(())
    }

    /// Returns a number that no lock has had.
    pub fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// From now on only numbers above this one are given.
    pub fn count_from(&mut self, last: u64) {
        self.last = self.last.max(last);
    }

    /// Notes whether a held lock is there.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchLock`].
    pub fn set_proof(&mut self, number: u64, proof: Proof) -> Result<&Lock, Error> {
        let lock = self.held_mut(number).ok_or(Error::NoSuchLock(number))?;
        lock.proof = proof;
        Ok(lock)
    }
}
