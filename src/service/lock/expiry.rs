//! Expiry: the task that ends reservations at their deadlines.

use std::sync::Arc;
use std::time::Duration;

use crate::lock::OwnerId;
use crate::lock::table::Reclaimable;
use crate::service::components::Components;
use crate::service::core::clock::since_boot;
use crate::service::lock::{end, reservations};

/// The longest sleep of the task: a timer does not count the time while the host is suspended.
const MAX_SLEEP: Duration = Duration::from_secs(3600);

/// Ends reservations at their deadlines, for as long as the service runs.
pub(in crate::service) async fn end_reservations(components: Arc<Components>) {
    loop {
        let next = components.state().schedule_expiry();
        let deadline = async {
            match next {
                Some(until) => {
                    let left = Duration::from_micros(until.saturating_sub(since_boot()));
                    tokio::time::sleep(left.min(MAX_SLEEP)).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = deadline => {}
            () = components.reservation_added.notified() => {}
        }
        let expired = components.state().table.end_reclaims(since_boot());
        remove_expired(&components, &expired);
    }
}

/// Removes the records of ended reservations, and closes the owners that nothing else keeps
/// alive.
fn remove_expired(components: &Arc<Components>, expired: &[Reclaimable]) {
    if expired.is_empty() {
        return;
    }
    let numbers: Vec<u64> = expired.iter().map(|reserved| reserved.lock.id).collect();
    reservations::remove_records(&components.journal, &numbers);
    let mut owners: Vec<OwnerId> = expired.iter().map(|reserved| reserved.lock.owner).collect();
    owners.dedup();
    tracing::debug!(?numbers, "reservations of released locks {numbers:?} have expired");
    let components = Arc::clone(components);
    tokio::task::spawn_blocking(move || {
        for owner in owners {
            end::end_if_idle(&components, owner);
        }
    });
}
