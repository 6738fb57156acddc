//! Rollback of an acquisition that failed after its locks were reserved.

use std::sync::Arc;

use crate::keep::EntryStage;
use crate::lock;
use crate::lock::acquire::handle::LockHandle;
use crate::service::lock::acquire::Request;
use crate::service::wait::ticket::{Entry, Queued};
use crate::service::{Error, Service};

impl Service {
    /// Releases the acquired locks and removes their records. If a foreign holder is the cause and
    /// the command may wait, it enters the queue before any other request can reserve the resource.
    pub(super) fn undo(
        &self,
        request: &Request,
        fresh: &[(u64, usize)],
        held: Vec<Arc<LockHandle>>,
        error: Error,
        entry: Entry,
    ) -> Result<Queued, (Error, Option<Entry>)> {
        let id = request.id;
        let met = fresh.get(held.len()).map(|(_, n)| *n);
        let numbers: Vec<u64> = fresh.iter().map(|(lock, _)| *lock).collect();
        let held = held.into_iter().map(Some);
        let failures = self.unlock_all(id, numbers.iter().copied().zip(held).collect());
        if let Err(error) = self.keep().mark_locks(&numbers, EntryStage::Removed) {
            tracing::error!(%error, "cannot remove the record of a lock that was not granted");
        }
        let (closed, outcome) = {
            let mut state = self.state();
            let outcome = match (error, met) {
                (Error::Lock(lock::Error::HeldElsewhere(foreign)), Some(met))
                    if failures.is_empty() && entry.may_wait() =>
                {
                    let wants = request.wants();
                    // A retry that only checked for the foreign holder has learnt nothing new about
                    // it.
                    let known = entry
                        .ticket()
                        .and_then(|ticket| state.table.foreign_holder_of(ticket, met));
                    let foreign = known.unwrap_or(*foreign);
                    let error = lock::Error::HeldElsewhere(Box::new(foreign.clone()));
                    let queued = state.queue(self, id, &wants, request.purpose, entry, error);
                    let queued = queued.inspect(|queued| {
                        state.table.wait_for_foreign_holder(queued.place.ticket, met, foreign);
                    });
                    queued.map_err(|error| (error, None))
                }
                (error, _) => Err((error.with_undo(failures), Some(entry))),
            };
            let events = state.table.cancel(&numbers);
            let closed = state.closed(&events);
            // The owner may have ended meanwhile; no caller waits for these events to be published.
            drop(state.publish(events));
            (closed, outcome)
        };
        self.forget(&closed);
        self.owner_went();
        outcome
    }
}
