//! The queue for the inspector: requests that only query it wait on the event loop.
//!
//! A requester has one query at a time, and an answer may take seconds. A request that waited for
//! it on a worker thread would take that thread from the requests of other users.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::inspector::MAX_ORDINARY_WORKERS;
use crate::inspector::{self, Requester};
use crate::lock::request::Work;
use crate::service::core::error::Error;
use crate::service::process::Inspection;
use crate::sync;

/// Admits requesters to the inspector.
#[derive(Debug)]
pub(in crate::service) struct InspectorQueue {
    /// One permit for each worker that ordinary users may occupy.
    ordinary: Arc<Semaphore>,
    /// One semaphore for each requester that has a permit or waits for one.
    requesters: Mutex<HashMap<Requester, Arc<Semaphore>>>,
}

impl Default for InspectorQueue {
    fn default() -> Self {
        Self {
            ordinary: Arc::new(Semaphore::new(MAX_ORDINARY_WORKERS)),
            requesters: Mutex::default(),
        }
    }
}

/// Permits a requester to query an inspector, until it is dropped.
#[derive(Debug)]
pub(in crate::service) struct InspectorPermit(
    #[expect(dead_code, reason = "it is released when dropped")] [Option<OwnedSemaphorePermit>; 2],
);

impl InspectorQueue {
    async fn acquire(&self, requester: Requester) -> InspectorPermit {
        let own = {
            let mut requesters = sync::lock(&self.requesters);
            // Removes requesters to which only this map refers.
            requesters.retain(|_, permits| Arc::strong_count(permits) > 1);
            Arc::clone(requesters.entry(requester).or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        // They are never closed. The requester's own permit comes first, so that a requester waits
        // for the shared permits only once, which prevents starvation of the others.
        let own = own.acquire_owned().await.ok();
        let ordinary = if requester.is_privileged() {
            None
        } else {
            Arc::clone(&self.ordinary).acquire_owned().await.ok()
        };
        InspectorPermit([own, ordinary])
    }
}

impl Inspection {
    /// Waits until a requester may query an inspector.
    ///
    /// # Errors
    ///
    /// [`inspector::Error::Late`].
    pub(in crate::service) async fn inspector_permit(
        &self,
        requester: Requester,
        patience: Duration,
    ) -> Result<InspectorPermit, inspector::Error> {
        let permit = timeout(patience, self.queue.acquire(requester)).await;
        permit.map_err(|_| inspector::Error::Late)
    }

    /// Performs a request that only queries an inspector.
    ///
    /// # Errors
    ///
    /// [`Error::Abandoned`].
    pub(in crate::service) async fn run_with_permit<W: Work>(
        &self,
        permit: InspectorPermit,
        work: W,
    ) -> Result<W::Answer, Error> {
        self.executor.run(WithPermit { work, permit }).await
    }
}

/// A request with its permit, held until it is performed even if its caller has disconnected.
struct WithPermit<W> {
    work: W,
    permit: InspectorPermit,
}

impl<W: Work> Work for WithPermit<W> {
    type Answer = W::Answer;

    fn perform(self) -> W::Answer {
        let Self { work, permit } = self;
        let answer = work.perform();
        drop(permit);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_refused(queue: &InspectorQueue, requester: Requester) -> bool {
        timeout(Duration::ZERO, queue.acquire(requester)).await.is_err()
    }

    #[tokio::test]
    async fn a_requester_has_one_permit_and_ordinary_users_leave_workers_to_root() {
        let queue = InspectorQueue::default();
        let first = queue.acquire(Requester::User(7)).await;
        assert!(is_refused(&queue, Requester::User(7)).await);
        let mut others = Vec::new();
        for uid in 8..7 + u32::try_from(MAX_ORDINARY_WORKERS).unwrap() {
            others.push(queue.acquire(Requester::User(uid)).await);
        }
        assert!(is_refused(&queue, Requester::User(100)).await);
        let root = queue.acquire(Requester::User(0)).await;
        drop(first);
        others.push(queue.acquire(Requester::User(100)).await);
        drop((root, others));
        drop(queue.acquire(Requester::User(7)).await);
        assert_eq!(sync::lock(&queue.requesters).len(), 1);
    }
}
