//! Suspended owners, which have released their locks and remember them.

use std::sync::Arc;

use super::Table;
use crate::lock::model::error::Error;
use crate::lock::model::lock::{Stage, Want};
use crate::lock::model::owner::OwnerId;

impl Table {
    /// Begins to release all locks of an owner, which will remember them.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchOwner`]; [`Error::NotLockable`] if one of them could not be found again.
    pub fn begin_suspension(&mut self, id: OwnerId) -> Result<Vec<u64>, Error> {
        let owner = self.living(id)?;
        let held: Vec<u64> =
            owner.locks.iter().copied().filter(|lock| self.lock(*lock).is_some()).collect();
        for lock in held.iter().filter_map(|lock| self.lock(*lock)) {
            if !lock.want.can_be_found() {
                let why = "it has no name by which it could be found again";
                return Err(Error::not_lockable(&lock.want.resource, why));
            }
        }
        for number in &held {
            if let Some(lock) = self.lock_mut(*number) {
                lock.stage = Stage::Releasing;
            }
        }
        Ok(held)
    }

    /// Refuses a command that a suspended owner may not use.
    ///
    /// # Errors
    ///
    /// [`Error::Suspended`], [`Error::NoSuchOwner`].
    pub fn check_running(&self, id: OwnerId) -> Result<(), Error> {
        let owner = self.living(id)?;
        if owner.is_suspended() { Err(Error::Suspended(id)) } else { Ok(()) }
    }

    /// Returns the resources that an owner remembers, in the order of the numbers that its locks
    /// had.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchOwner`].
    pub fn remembered(&self, id: OwnerId) -> Result<Vec<Want>, Error> {
        Ok(self.living(id)?.suspended.values().map(|want| Want::clone(want)).collect())
    }

    /// Adds a resource to those that an owner remembers.
    pub fn remember(&mut self, id: OwnerId, number: u64, want: Want) {
        if let Some(owner) = self.owners.get_mut(&id) {
            owner.suspended.insert(number, Arc::new(want));
        }
    }

    /// Clears what an owner remembers, since it has acquired it again. Returns the numbers that its
    /// locks had.
    pub fn resume(&mut self, id: OwnerId) -> Vec<u64> {
        let Some(owner) = self.owners.get_mut(&id) else { return Vec::new() };
        owner.handed_to = None;
        std::mem::take(&mut owner.suspended).into_keys().collect()
    }
}
