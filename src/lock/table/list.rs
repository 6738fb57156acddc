//! Ordered iteration from any position, for lists that are read page by page.

use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use super::Table;
use crate::lock::model::lock::{Lock, Stage, Want};
use crate::lock::model::owner::{Owner, OwnerId};
use crate::lock::table::queue::{Ticket, Waiter};

impl Table {
    /// Returns how many owners there are, those that are opening or ending included.
    #[must_use]
    pub fn owner_count(&self) -> usize {
        self.owners.len()
    }

    /// Returns how many anchors these owners have.
    #[must_use]
    pub fn anchor_count(&self) -> usize {
        self.anchors
    }

    /// Returns the held locks with a higher number than `after`, in the order of their numbers.
    pub fn locks_after(&self, after: u64) -> impl Iterator<Item = &Arc<Lock>> {
        let locks = self.locks.range((Excluded(after), Unbounded)).map(|(_, lock)| lock);
        locks.filter(|lock| lock.stage == Stage::Held)
    }

    /// Returns the held locks of one owner with a higher number than `after`, in order.
    pub fn locks_of(&self, owner: OwnerId, after: u64) -> impl Iterator<Item = &Arc<Lock>> {
        let numbers = self.owners.get(&owner).map(|owner| &owner.locks);
        let numbers = numbers.map(|locks| locks.range((Excluded(after), Unbounded)));
        let locks = numbers.into_iter().flatten().filter_map(|number| self.locks.get(number));
        locks.filter(|lock| lock.stage == Stage::Held)
    }

    /// Returns what an owner has suspended, from numbers higher than `after`, in order.
    pub fn suspended_of(
        &self,
        owner: OwnerId,
        after: u64,
    ) -> impl Iterator<Item = (u64, &Arc<Want>)> {
        let suspended = self.owners.get(&owner).map(|owner| &owner.suspended);
        let suspended = suspended.map(|wants| wants.range((Excluded(after), Unbounded)));
        suspended.into_iter().flatten().map(|(number, want)| (*number, want))
    }

    /// Returns the visible owners after this one, by user and UUID; all owners for `None`.
    pub fn owners_after(&self, after: Option<OwnerId>) -> impl Iterator<Item = &Owner> {
        let from = after.map_or(Unbounded, Excluded);
        let owners = self.owners.range((from, Unbounded)).map(|(_, owner)| owner);
        owners.filter(|owner| owner.opened && !owner.ended)
    }

    /// Returns the waiting requests with a higher ticket than `after`, in order.
    pub fn waiters_after(&self, after: Ticket) -> impl Iterator<Item = &Arc<Waiter>> {
        self.queue.after(after)
    }
}
