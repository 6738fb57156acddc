//! Requests that only query an inspector wait for their turn on the event loop.
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
use crate::service::{Error, Service};
use crate::sync;

/// The turns of all requesters.
#[derive(Debug)]
pub(in crate::service) struct Turns {
    /// One permit for each worker that ordinary users may occupy.
    ordinary: Arc<Semaphore>,
    /// One permit for each requester that is in turn or waits for its turn.
    requesters: Mutex<HashMap<Requester, Arc<Semaphore>>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            ordinary: Arc::new(Semaphore::new(MAX_ORDINARY_WORKERS)),
            requesters: Mutex::default(),
        }
    }
}

/// The turn of a requester, until it is dropped.
#[derive(Debug)]
pub(in crate::service) struct Turn(
    #[expect(dead_code, reason = "it is released when dropped")] [Option<OwnedSemaphorePermit>; 2],
);

impl Turns {
    async fn next(&self, requester: Requester) -> Turn {
        let own = {
            let mut requesters = sync::lock(&self.requesters);
            // Removes requesters to which only this map refers.
            requesters.retain(|_, turns| Arc::strong_count(turns) > 1);
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
        Turn([own, ordinary])
    }
}

impl Service {
    /// Waits for the turn of a requester.
    ///
    /// # Errors
    ///
    /// [`inspector::Error::Late`].
    pub(in crate::service) async fn inspector_turn(
        &self,
        requester: Requester,
        patience: Duration,
    ) -> Result<Turn, inspector::Error> {
        let turn = timeout(patience, self.0.turns.next(requester)).await;
        turn.map_err(|_| inspector::Error::Late)
    }

    /// Performs a request that only queries an inspector.
    ///
    /// # Errors
    ///
    /// [`Error::Abandoned`].
    pub(in crate::service) async fn run_in_turn<W: Work>(
        &self,
        turn: Turn,
        work: W,
    ) -> Result<W::Answer, Error> {
        self.storage().run(InTurn { work, turn }).await
    }
}

/// A request with its turn, held until it is performed even if its caller has disconnected.
struct InTurn<W> {
    work: W,
    turn: Turn,
}

impl<W: Work> Work for InTurn<W> {
    type Answer = W::Answer;

    fn perform(self) -> W::Answer {
        let Self { work, turn } = self;
        let answer = work.perform();
        drop(turn);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_refused(turns: &Turns, requester: Requester) -> bool {
        timeout(Duration::ZERO, turns.next(requester)).await.is_err()
    }

    #[tokio::test]
    async fn a_requester_has_one_turn_and_ordinary_users_leave_workers_to_root() {
        let turns = Turns::default();
        let first = turns.next(Requester::User(7)).await;
        assert!(is_refused(&turns, Requester::User(7)).await);
        let mut others = Vec::new();
        for uid in 8..7 + u32::try_from(MAX_ORDINARY_WORKERS).unwrap() {
            others.push(turns.next(Requester::User(uid)).await);
        }
        assert!(is_refused(&turns, Requester::User(100)).await);
        let root = turns.next(Requester::User(0)).await;
        drop(first);
        others.push(turns.next(Requester::User(100)).await);
        drop((root, others));
        drop(turns.next(Requester::User(7)).await);
        assert_eq!(sync::lock(&turns.requesters).len(), 1);
    }
}
