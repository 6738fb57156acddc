//! The rules for the release of the locks of others, which may need force.

use std::collections::BTreeSet;

use crate::lock::{Anchor, Front, OwnerId};
use crate::phrases::NO_PROCESS;
use crate::service::core::error::Error;
use crate::service::core::limits::Exempt;
use crate::service::state::State;

/// A caller's request that all locks of an owner are released, suspended or handed over.
#[derive(Debug, Clone, Copy)]
pub struct OwnerRelease<'r> {
    /// The owner.
    pub owner: OwnerId,
    /// For another user's owner, the locks that the caller is authorized to release: if the owner
    /// has acquired more since the authorization, nothing is done.
    pub authorized: &'r BTreeSet<u64>,
    /// The user of the caller on the bus.
    pub by: u32,
    /// Whether the locks of a living owner of another user or frontend are released, too.
    pub force: bool,
}

impl OwnerRelease<'_> {
    /// Whether the caller's user and frontend are those of the owner.
    pub(super) fn is_own(&self, state: &State) -> Result<bool, Error> {
        let front = state.table.living(self.owner)?.front;
        Ok(self.by == self.owner.uid && front == Front::Dbus)
    }

    /// Checks that the caller may release all locks of the owner.
    pub(super) fn check(&self, state: &State, exempt: Exempt) -> Result<(), Error> {
        if self.is_own(state)? {
            return Ok(());
        }
        let locks = &state.table.living(self.owner)?.locks;
        if self.by != self.owner.uid && !locks.is_subset(self.authorized) {
            return Err(Error::MoreLocks);
        }
        if !self.force {
            let locks: Vec<u64> = locks.iter().copied().collect();
            refuse_unforced(state, exempt, self.owner, &locks)?;
        }
        Ok(())
    }
}

/// Refuses to release these locks of an owner without force.
pub(super) fn refuse_unforced(
    state: &State,
    exempt: Exempt,
    id: OwnerId,
    locks: &[u64],
) -> Result<(), Error> {
    let owner = state.table.living(id)?;
    match locks.first() {
        // In the instance of one user, all owners belong to that user, whatever their uid.
        Some(lock) if exempt != Exempt::All => {
            let is_manual = owner.anchors.values().all(|anchor| *anchor == Anchor::Manual);
            let how = if is_manual { NO_PROCESS } else { "is alive" };
            Err(Error::NeedsForce { lock: *lock, name: owner.name.clone(), uid: id.uid, how })
        }
        _ => Ok(()),
    }
}
