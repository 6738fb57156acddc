//! Uses of a lockspace: it cannot be removed while it is in use.

use super::Table;
use crate::lock::model::error::Error;
use crate::lock::model::lock::Want;
use crate::lock::model::lockspace_kind::LockspaceKind;
use crate::lock::model::owner::OwnerId;
use crate::lock::text::escape::shown;

impl Table {
    /// Refuses the removal of the lockspace with this directory while it is in use.
    ///
    /// # Errors
    ///
    /// [`Error::Held`] with the holder of a lock in it, [`Error::LockspaceInUse`] for a suspended
    /// lock or a waiter in it.
    pub fn refuse_if_used(&self, kind: LockspaceKind, directory: &str) -> Result<(), Error> {
        let within = |want: &Want| want.lockspace == kind;
        if let Some(lock) = self.locks.values().find(|lock| within(&lock.want)) {
            return self.refuse_if_locked(&lock.want);
        }
        let used = |id: OwnerId, how| {
            let name = self.owners.get(&id).map(|owner| shown(&owner.name)).unwrap_or_default();
            Err(Error::LockspaceInUse { directory: directory.to_owned(), name, how })
        };
        if let Some(owner) =
            self.owners.values().find(|owner| owner.suspended.values().any(|want| within(want)))
        {
            return used(owner.id, "is suspended, and remembers a lease in it");
        }
        match self.queue.iter().find(|waiter| waiter.wants.iter().any(within)) {
            Some(waiter) => used(waiter.owner, "waits for a lease in it"),
            None => Ok(()),
        }
    }

    /// Refuses a resource that is locked, in any mode and at any stage.
    ///
    /// # Errors
    ///
    /// [`Error::Held`].
    pub fn refuse_if_locked(&self, want: &Want) -> Result<(), Error> {
        let exclusive = Want { mode: crate::lock::Mode::Exclusive, ..want.clone() };
        self.refuse_if_held(&exclusive, None, |_| true)
    }
}
