//! Recovery of locks that were held before the service was restarted.

use super::Table;
use crate::lock::model::error::Error;
use crate::lock::model::lock::{Lock, Proof};

impl Table {
    /// Adds a lock that existed before the service was restarted, at its previous stage and with
    /// its previous number. An overlapping lock of another owner is no error: the disks have come
    /// to lie on something else since, and neither lock may be lost ([`Self::conflicts`]).
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchOwner`]; [`Error::Held`] if another owner has a lock on the same resource:
    /// then the state contradicts itself.
    pub fn restore(&mut self, lock: Lock) -> Result<(), Error> {
        if !self.owners.contains_key(&lock.owner) {
            return Err(Error::NoSuchOwner(lock.owner));
        }
        self.refuse_if_held(&lock.want, Some(lock.owner), |other| {
            other.owner != lock.owner && other.want.is_same(&lock.want)
        })?;
        let number = lock.id;
        self.count_from(number);
        self.insert_lock(lock);
        self.record_conflicts(number);
        Ok(())
    }

    /// Returns a lock number that was never used.
    pub fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Ensures that new locks get numbers above `last`.
    pub fn count_from(&mut self, last: u64) {
        self.last = self.last.max(last);
    }

    /// Records whether a held lock was verified.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchLock`].
    pub fn set_proof(&mut self, number: u64, proof: Proof) -> Result<&Lock, Error> {
        let lock = self.held_lock_mut(number).ok_or(Error::NoSuchLock(number))?;
        lock.proof = proof;
        Ok(lock)
    }
}
