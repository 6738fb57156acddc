//! Suspects, the disks and leases that damaged lock records name: their owner, and the gate that
//! delays requests while they are locked again.
//!
//! A disk whose record does not even show its identity is locked by its name once the service
//! accepts requests. A request of another owner must not come first; but requests are delayed for a
//! bounded time only, since storage may not respond.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use uuid::Uuid;

use crate::lock::OwnerId;
use crate::sync;

/// The owner of the locks on suspects, with a fixed UUID so that it can be searched for.
pub(in crate::service) const SUSPECT: OwnerId =
    OwnerId::new(0, Uuid::from_bytes(*b"vmlockd:suspect\0"));
/// The name of this owner.
pub(in crate::service) const SUSPECT_NAME: &str = "suspect";

/// The maximum delay of a request.
pub(in crate::service) const LIMIT: Duration = Duration::from_secs(5);

/// A gate for requests, open unless it was closed.
#[derive(Debug, Default)]
pub(in crate::service) struct SuspectsGate {
    is_closed: Mutex<bool>,
    threads: Condvar,
    tasks: Notify,
}

impl SuspectsGate {
    fn is_closed(&self) -> MutexGuard<'_, bool> {
        sync::lock(&self.is_closed)
    }

    /// Delays requests from now on.
    pub(in crate::service) fn close(&self) {
        *self.is_closed() = true;
    }

    /// Admits requests again.
    pub(in crate::service) fn open(&self) {
        *self.is_closed() = false;
        self.threads.notify_all();
        self.tasks.notify_waiters();
    }

    /// Returns once the gate is open.
    pub(in crate::service) async fn pass(&self) {
        loop {
            // Created before the check, so that no opening is missed.
            let opened = self.tasks.notified();
            if !*self.is_closed() {
                return;
            }
            opened.await;
        }
    }

    /// Blocks the calling thread until the gate is open.
    pub(in crate::service) fn pass_here(&self) {
        let mut is_closed = self.is_closed();
        while *is_closed {
            is_closed = self.threads.wait(is_closed).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn requests_pass_once_the_gate_is_open() {
        let gate = Arc::new(SuspectsGate::default());
        gate.pass().await;
        gate.pass_here();
        gate.close();
        let task = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.pass().await }
        });
        let thread = std::thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.pass_here()
        });
        tokio::task::yield_now().await;
        assert!(!task.is_finished() && !thread.is_finished());
        gate.open();
        task.await.unwrap();
        thread.join().unwrap();
    }
}
