//! Moves locks from one owner to another: one write to the journal changes the owner of all of
//! them.
//!
//! A crash before this write leaves the locks with the source, a crash after it with the target. No
//! byte or descriptor is changed.

use crate::failpoint::failpoint;
use crate::keep::{EntryStage, FormerLock, LockRecord, Record, StateEntry};
use crate::lock::Event;
use crate::lock::table::Move;
use crate::service::components::Components;
use crate::service::core::error::{CancelReason, Error};
use crate::service::report::event_log::EventBatch;
use crate::service::state::events::Publication;

/// Performs steps 3 to 5 of a transfer ([`super::transfer`]) on a worker thread. An error includes
/// the locks that now have no owner and must be released.
pub(in crate::service) fn change_owner(
    components: &Components,
    moved: &Move,
) -> Result<Publication, (Error, Vec<u64>)> {
    let Move { from, to, remembered, locks } = moved;
    let resumes =
        components.state().table.owner(*to).map(|owner| owner.suspended.keys().copied().collect());
    let resumes: Vec<u64> = resumes.filter(|_| !*remembered).unwrap_or_default();
    let mut entries = Vec::with_capacity(locks.len());
    for (old, lock) in locks {
        let held = components.state().held.get(old).cloned();
        let stashed = held.map_or((*from, *old), |held| held.kept_as(*from, *old));
        let former = FormerLock::new(*from, *old, *remembered);
        let stashed_as = FormerLock::new(stashed.0, stashed.1, false);
        let record = LockRecord::from(lock).transferred(former, stashed_as, resumes.clone());
        let entry = StateEntry {
            stage: EntryStage::Held,
            mode: Some(lock.want.mode),
            record: Record::Lock(Box::new(record)),
        };
        entries.push(entry);
    }
    let old: Vec<u64> = locks.iter().map(|(old, _)| *old).collect();
    let new: Vec<u64> = locks.iter().map(|(_, lock)| lock.id).collect();
    failpoint("move-decided");
    let recorded = components.journal.put_moved(&entries).and_then(|()| {
        failpoint("move-noted");
        let left = if *remembered { EntryStage::Suspended } else { EntryStage::Removed };
        components.journal.mark_locks(&old, left)?;
        components.journal.mark_locks(&resumes, EntryStage::Removed)
    });
    failpoint("move-marked");
    let ended = recorded.and_then(|()| change_table(components, moved));
    match ended {
        Ok(publication) => {
            components.records.rewrite(*to);
            failpoint("move-done");
            Ok(publication)
        }
        Err(error) => {
            // Rollback: the source's records first, so that every lock has a record at each
            // moment.
            let back = components.journal.mark_locks(&old, EntryStage::Held);
            let back = back.and(components.journal.mark_locks(&resumes, EntryStage::Suspended));
            if let Err(error) = back.and(components.journal.mark_locks(&new, EntryStage::Removed)) {
                tracing::error!(%error, "cannot remove the record of a handover that failed");
            }
            Err((error, components.state().table.cancel_move(moved)))
        }
    }
}

/// Performs step 5.
fn change_table(components: &Components, moved: &Move) -> Result<Publication, Error> {
    let mut state = components.state();
    let (events, _) = state.table.end_move(moved)?;
    for (old, lock) in &moved.locks {
        if let Some(held) = state.held.remove(old) {
            state.held.insert(lock.id, held);
        }
    }
    if moved.remembered {
        // Like a suspended owner, the source must not acquire further locks. Under the same
        // mutex: a waiting upgrade of one of these locks is cancelled and does not fail with a
        // missing lock.
        state.cancel_waits(|waiter| waiter.owner == moved.from, CancelReason::Cancelled);
    }
    let publication = state.events.publish(events.clone());
    components.metrics.moved(&events);
    components.verifier.verify_these(moved.locks.iter().map(|(_, lock)| lock));
    let acquired = events.into_iter().filter(|event| matches!(event, Event::LockAcquired(_)));
    Ok(publication.and_log(EventBatch::new(state.name_of(moved.to), acquired.collect())))
}
