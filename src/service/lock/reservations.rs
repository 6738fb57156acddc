//! Reservations of released resources for their former owners, until the end of the grace period.
//!
//! A resource that a VM releases over virtlockd's protocol while it is alive is reserved for this
//! VM (see `lock/table/reclaim`). The reservation is recorded in the state file, so it outlives the
//! service; after a restart it lasts for a full grace period again. One task
//! ([`super::expiry`]) ends reservations at their deadlines, which wakes the waiters.

use std::time::Duration;

use crate::keep::EntryStage;
use crate::lock::{Front, OwnerId};
use crate::service::components::Components;
use crate::service::core::clock::since_boot;
use crate::service::persist::journal::Journal;

/// Returns the end of a reservation that begins now, in microseconds since boot.
pub(in crate::service) fn end_of(grace: Duration) -> u64 {
    since_boot().saturating_add(u64::try_from(grace.as_micros()).unwrap_or(u64::MAX))
}

/// Returns the grace period of releases that were in progress when the service ended.
pub(in crate::service) fn grace_of(components: &Components, id: OwnerId) -> Option<Duration> {
    let state = components.state();
    let by_libvirt = state.table.owner(id).is_some_and(|owner| owner.front == Front::Virtlockd);
    state.settings.release_grace.filter(|_| by_libvirt)
}

/// Removes the records of reservations.
pub(in crate::service) fn remove_records(journal: &Journal, numbers: &[u64]) {
    if numbers.is_empty() {
        return;
    }
    if let Err(error) = journal.mark_locks(numbers, EntryStage::Removed) {
        tracing::error!(%error, "cannot remove the record of a reservation that ended");
    }
}

/// Wakes the task for a new reservation, if it would sleep too long.
pub(in crate::service) fn added(components: &Components, until: u64) {
    if components.state().must_wake_expiry(until) {
        components.reservation_added.notify_one();
    }
}
