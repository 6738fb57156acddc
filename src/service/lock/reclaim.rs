//! Reservations of released locks for their former owners, from the release to the end of the
//! grace period.
//!
//! A lock that a VM released by virtlockd's protocol while it lives is reserved for this VM (see
//! `lock/table/reclaim`). The reservation is marked in the state file, so it outlives the service;
//! after a restart it lasts for a whole grace period again. One task ends reservations when their
//! time is over, which wakes the waiters.

use std::time::Duration;

use crate::keep::line::Step;
use crate::lock::table::Reclaimable;
use crate::lock::{Anchor, Event, Front, OwnerId};
use crate::service::core::state::State;
use crate::service::lock::transfer::since_boot;
use crate::service::{Service, now};

/// How long a released lock is reserved for its former owner, by default.
pub(in crate::service) const GRACE: Duration = Duration::from_secs(10);
/// The longest time that the task sleeps: a host that sleeps does not count it.
const NAP: Duration = Duration::from_secs(3600);

/// Returns the instant at which a reservation that begins now ends, in microseconds since boot.
pub(in crate::service) fn end_of(grace: Duration) -> u64 {
    since_boot().saturating_add(u64::try_from(grace.as_micros()).unwrap_or(u64::MAX))
}

/// Returns an instant that is given in microseconds since boot in microseconds since 1970.
#[must_use]
pub fn wall_clock_of(instant: u64) -> u64 {
    let (boot, wall) = (since_boot(), now());
    wall.saturating_add(instant).saturating_sub(boot)
}

impl State {
    /// Ends releases, and reserves the resources for their former owner. There are at most as many
    /// reservations as there may be locks.
    pub(in crate::service) fn finish_release_reserved(
        &mut self,
        numbers: &[u64],
        until: u64,
    ) -> (Vec<Event>, Vec<u64>) {
        let limit = self.settings.limits.locks_total;
        self.table.finish_release_reserved(numbers, until, limit)
    }

    /// Ends the reservations of an owner of which no process is left: something else keeps it, such
    /// as a connection that another process has inherited.
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
    /// Ends reservations when their time is over, for as long as the service runs.
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

    /// Forgets reservations that have ended, and closes the owners that nothing else keeps.
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

    /// Returns for how long what an owner was releasing when the service ended is reserved for it.
    pub(in crate::service) fn grace_of(&self, id: OwnerId) -> Option<Duration> {
        let state = self.state();
        let by_libvirt = state.table.owner(id).is_some_and(|owner| owner.front == Front::Virtlockd);
        state.settings.release_grace.filter(|_| by_libvirt)
    }

    /// Marks reservations as gone in the state file.
    pub(in crate::service) fn mark_reservations_gone(&self, numbers: &[u64]) {
        if numbers.is_empty() {
            return;
        }
        if let Err(error) = self.keep().mark_locks(numbers, Step::Gone) {
            tracing::error!(%error, "cannot remove the record of a reservation that ended");
        }
    }

    /// Tells the task of a reservation that has begun, if it is the first to end.
    pub(in crate::service) fn reservation_begun(&self, until: Option<u64>) {
        if self.state().table.next_reclaim_end() >= until {
            self.0.reserved.notify_one();
        }
    }
}
