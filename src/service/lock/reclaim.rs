//! Reservations of released resources for their former owners, until the end of the grace period.
//!
//! A resource that a VM releases over virtlockd's protocol while it is alive is reserved for this
//! VM (see `lock/table/reclaim`). The reservation is recorded in the state file, so it outlives the
//! service; after a restart it lasts for a full grace period again. One task ends reservations at
//! their deadlines, which wakes the waiters.

use std::time::Duration;

use crate::keep::EntryStage;
use crate::lock::table::Reclaimable;
use crate::lock::{Anchor, Event, Front, OwnerId};
use crate::service::core::state::State;
use crate::service::lock::transfer::since_boot;
use crate::service::{Service, now};

/// The default grace period.
pub(in crate::service) const GRACE: Duration = Duration::from_secs(10);
/// The longest sleep of the task: a timer does not count the time while the host is suspended.
const NAP: Duration = Duration::from_secs(3600);

/// Returns the end of a reservation that begins now, in microseconds since boot.
pub(in crate::service) fn end_of(grace: Duration) -> u64 {
    since_boot().saturating_add(u64::try_from(grace.as_micros()).unwrap_or(u64::MAX))
}

/// Converts an instant from microseconds since boot to microseconds since 1970.
#[must_use]
pub fn wall_clock_of(instant: u64) -> u64 {
    let (boot, wall) = (since_boot(), now());
    wall.saturating_add(instant).saturating_sub(boot)
}

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
}

impl Service {
    /// Ends reservations at their deadlines, for as long as the service runs.
    pub(in crate::service) async fn end_reservations(self) {
        loop {
            let next = self.state().table.next_reclaim_end();
            let over = async {
                match next {
                    Some(until) => {
                        let left = Duration::from_micros(until.saturating_sub(since_boot()));
                        tokio::time::sleep(left.min(NAP)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => {}
                () = self.0.reserved.notified() => {}
            }
            let over = self.state().table.end_reclaims(since_boot());
            self.forget_reservations(&over);
        }
    }

    /// Removes the records of ended reservations, and closes the owners that nothing else keeps
    /// alive.
    fn forget_reservations(&self, over: &[Reclaimable]) {
        if over.is_empty() {
            return;
        }
        let numbers: Vec<u64> = over.iter().map(|reserved| reserved.lock.id).collect();
        self.mark_reservations_gone(&numbers);
        let mut owners: Vec<OwnerId> = over.iter().map(|reserved| reserved.lock.owner).collect();
        owners.dedup();
        tracing::debug!(?numbers, "reservations of released locks {numbers:?} have expired");
        let service = self.clone();
        tokio::task::spawn_blocking(move || {
            for owner in owners {
                service.leave(owner);
            }
        });
    }

    /// Returns the grace period of releases that were in progress when the service ended.
    pub(in crate::service) fn grace_of(&self, id: OwnerId) -> Option<Duration> {
        let state = self.state();
        let by_libvirt = state.table.owner(id).is_some_and(|owner| owner.front == Front::Virtlockd);
        state.settings.release_grace.filter(|_| by_libvirt)
    }

    /// Removes the records of reservations.
    pub(in crate::service) fn mark_reservations_gone(&self, numbers: &[u64]) {
        if numbers.is_empty() {
            return;
        }
        if let Err(error) = self.keep().mark_locks(numbers, EntryStage::Removed) {
            tracing::error!(%error, "cannot remove the record of a reservation that ended");
        }
    }

    /// Wakes the task for a new reservation, if it is the first one to end.
    pub(in crate::service) fn reservation_begun(&self, until: Option<u64>) {
        if self.state().table.next_reclaim_end() >= until {
            self.0.reserved.notify_one();
        }
    }
}
