//! Resources that are kept for an owner: reserved ones, and locks that the service acquired again
//! by itself.

use crate::lock::{Anchor, Event, Lock, OwnerId, Want};
use crate::service::state::State;

impl State {
    /// Completes releases, and reserves the resources for their former owner. The number of
    /// reservations is limited by the number of locks.
    pub(in crate::service) fn finish_release_reserved(
        &mut self,
        numbers: &[u64],
        until: u64,
    ) -> (Vec<Event>, Vec<u64>) {
        let limit = self.settings.limits.locks_total;
        self.table.finish_release_reserved(numbers, until, limit)
    }

    /// Returns the first end of a reservation. The caller is the task that ends reservations, and
    /// sleeps until then: [`Self::must_wake_expiry`] tells whether it sleeps too long.
    pub(in crate::service) fn schedule_expiry(&mut self) -> Option<u64> {
        let next = self.table.next_reclaim_end();
        self.expiry_wakes_at = next.unwrap_or(u64::MAX);
        next
    }

    /// Whether the task that ends reservations must be woken for one that ends at `until`. Usually
    /// a later reservation ends later, and needs no wake-up even if the earlier one was reclaimed.
    pub(in crate::service) fn must_wake_expiry(&self, until: u64) -> bool {
        until < self.expiry_wakes_at
    }

    /// Ends the reservations of an owner without any live process: something else keeps the owner
    /// alive, such as a connection that another process has inherited.
    pub(in crate::service) fn end_reclaims_without_process(&mut self, id: OwnerId) -> Vec<u64> {
        let Some(owner) = self.table.owner(id) else { return Vec::new() };
        let process = |anchor: &Anchor| matches!(anchor, Anchor::Process { .. });
        if owner.anchors.values().any(process) {
            Vec::new()
        } else {
            self.table.end_reclaims_of(id)
        }
    }

    /// Returns the lock on this resource that was acquired again for this owner and is not adopted
    /// yet.
    pub(in crate::service) fn reacquired_lock(&self, id: OwnerId, want: &Want) -> Option<&Lock> {
        let locks = self.reacquired.iter().filter_map(|number| self.table.lock(*number));
        let mut matching = locks.filter(|lock| {
            lock.owner == id && lock.want.is_same(want) && lock.want.lockspace == want.lockspace
        });
        matching.next()
    }
}
