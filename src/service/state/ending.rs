//! The end of an owner, as the table decides it.

use std::sync::Arc;

use crate::lock::acquire::handle::LockHandle;
use crate::lock::table::{Ended, Move};
use crate::lock::{Event, OwnerId};
use crate::service::core::clock::now;
use crate::service::core::error::Error;
use crate::service::persist::journal::OwnerRecords;
use crate::service::state::State;
use crate::service::state::events::Publication;

/// The end of an owner: decided in the table, not performed yet.
#[derive(Debug)]
pub(in crate::service) struct Ending {
    pub(in crate::service) records: OwnerRecords,
    pub(in crate::service) held: Vec<(u64, Option<Arc<LockHandle>>)>,
    /// The locks that return to their former owners.
    pub(in crate::service) returns: Vec<Move>,
    /// The command lock of the owner.
    pub(in crate::service) command_lock: Arc<tokio::sync::Mutex<()>>,
    /// The owner itself, if it had no locks and is removed already.
    pub(in crate::service) closed: Vec<OwnerRecords>,
    pub(in crate::service) publication: Publication,
}

impl State {
    /// Starts the end of an owner: removes its locks from the list, publishes the events, closes
    /// the service's ends of its lifelines, and drops its command lock.
    pub(in crate::service) fn end(
        &mut self,
        id: OwnerId,
        gives_back: bool,
    ) -> Result<Ending, Error> {
        let owner = self.table.living(id)?;
        let anchors = owner.anchors.keys().copied().collect();
        let suspended = owner.suspended.keys().copied();
        let unheld_locks = suspended.chain(self.table.reclaimable_by(id)).collect();
        let offer = owner.offer.map(|offer| offer.record);
        let Ended { held, returns, events } = self.table.end_owner(id, gives_back, now())?;
        let owner_state = self.owners.remove(&id);
        let record = owner_state.as_ref().map_or(0, |owner_state| owner_state.record);
        let command_lock = owner_state
            .as_ref()
            .map(|owner_state| Arc::clone(&owner_state.command_lock))
            .unwrap_or_default();
        let records = OwnerRecords { owner: id, record, anchors, unheld_locks, offer };
        self.ended_owners.insert(id, records.clone());
        let held = held.into_iter().map(|lock| (lock, self.held.remove(&lock))).collect();
        let closed = self.closed(&events);
        Ok(Ending {
            records,
            held,
            returns,
            command_lock,
            closed,
            publication: self.events.publish(events),
        })
    }

    /// Returns the owners that these events remove, so that their records can be removed.
    pub(in crate::service) fn closed(&mut self, events: &[Event]) -> Vec<OwnerRecords> {
        let closed = events.iter().filter_map(|event| match event {
            Event::OwnerClosed(id) => self.ended_owners.remove(id),
            _ => None,
        });
        closed.collect()
    }
}
