//! Rollback of an acquisition that failed after its locks were reserved.

use std::sync::Arc;

use crate::keep::EntryStage;
use crate::lock::acquire::handle::LockHandle;
use crate::lock::table::queue::Purpose;
use crate::lock::{self, OwnerId, Want};
use crate::service::components::Components;
use crate::service::core::error::Error;
use crate::service::lock::{owner_records, release};
use crate::service::state::wait_queue::{Enqueued, WaitState};

/// Releases the acquired locks and removes their records. If a foreign holder is the cause and
/// the command may wait, it enters the queue before any other request can reserve the resource.
///
/// `fresh` are the reserved locks, each with the index of its resource in the request; the first of
/// them are locked, with the handles `held`.
pub(super) fn roll_back(
    components: &Components,
    (id, wants, purpose): (OwnerId, &[Want], Purpose),
    fresh: &[(u64, usize)],
    held: Vec<Arc<LockHandle>>,
    error: Error,
    wait: WaitState,
) -> Result<Enqueued, (Error, Option<WaitState>)> {
    let failed = fresh.get(held.len()).map(|(_, n)| *n);
    let numbers: Vec<u64> = fresh.iter().map(|(lock, _)| *lock).collect();
    let held = held.into_iter().map(Some);
    let failures =
        release::unlock_all(&components.journal, id, numbers.iter().copied().zip(held).collect());
    if let Err(error) = components.journal.mark_locks(&numbers, EntryStage::Removed) {
        tracing::error!(%error, "cannot remove the record of a lock that was not granted");
    }
    let (closed, outcome) = {
        let mut state = components.state();
        let outcome = match (error, failed) {
            (Error::Lock(lock::Error::HeldElsewhere(foreign)), Some(blocked))
                if failures.is_empty() && wait.may_wait() =>
            {
                let queued = state.enqueue_for_foreign_holder(
                    &components.state,
                    components.exempt,
                    (id, wants, purpose),
                    wait,
                    (blocked, *foreign),
                );
                queued.map_err(|error| (error, None))
            }
            (error, _) => Err((error.with_undo(failures), Some(wait))),
        };
        let events = state.table.cancel(&numbers);
        let closed = state.closed(&events);
        // The owner may have ended meanwhile; no caller waits for these events to be published.
        drop(state.events.publish(events));
        (closed, outcome)
    };
    owner_records::remove(&components.journal, &closed);
    components.owner_removed.notify_waiters();
    outcome
}
