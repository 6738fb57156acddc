//! The rules for the release of the locks of others, which may need force.

use std::collections::BTreeSet;

use crate::lock::{Anchor, Front, OwnerId};
use crate::phrases::NO_PROCESS;
use crate::service::core::error::Error;
use crate::service::core::limits::Exempt;
use crate::service::state::State;

/// Checks that `by` may release all locks of an owner, by the rules of
/// [`close`](super::end::close).
pub(in crate::service) fn check(
    state: &State,
    exempt: Exempt,
    (id, known): (OwnerId, &BTreeSet<u64>),
    by: u32,
    force: bool,
) -> Result<(), Error> {
    let owner = state.table.living(id)?;
    if by == id.uid && owner.front == Front::Dbus {
        return Ok(());
    }
    if by != id.uid && !owner.locks.is_subset(known) {
        return Err(Error::MoreLocks);
    }
    if !force {
        let locks: Vec<u64> = owner.locks.iter().copied().collect();
        refuse_unforced(state, exempt, id, &locks)?;
    }
    Ok(())
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
