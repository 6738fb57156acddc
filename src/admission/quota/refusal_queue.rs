//! Throttles the answers to refused calls.
//!
//! A refusal costs the bus as much as any reply, and replies to other callers wait in the same
//! socket. Therefore refusals are sent at a bounded rate for each user, which also slows down a
//! caller that waits for the answers to its calls. For a user that does not wait, a bounded number
//! of refusals is queued; further calls are dropped without an answer. One refusal for each
//! connection is queued in any case, so that a caller that waits for each answer gets it. The time
//! is passed in.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::call::RefusedCall;
use super::token_bucket::{Rate, TokenBucket};
use crate::sync::KeyedCounts;

/// The rate at which calls of one user are refused.
const RATE: Rate = Rate { per_second: 1000, burst: 100 };
/// The maximum number of queued refusals of one user, in addition to one for each connection.
const PER_USER: usize = 1024;
/// The maximum number of queued refusals of all users, in addition to one for each connection.
const TOTAL: usize = 16 * PER_USER;

/// The queued refusals.
#[derive(Debug, Default)]
pub(in crate::admission) struct RefusalQueue {
    /// The queues by user. All connections whose user is not known share one queue.
    users: HashMap<Option<u32>, UserRefusals>,
    total: usize,
}

/// The queued refusals of one user.
#[derive(Debug)]
struct UserRefusals {
    refused: VecDeque<RefusedCall>,
    /// The number of queued refusals for each connection.
    connections: KeyedCounts<Arc<str>>,
    bucket: TokenBucket,
}

impl UserRefusals {
    fn pop(&mut self) -> Option<RefusedCall> {
        let refused = self.refused.pop_front()?;
        self.connections.decrement(&refused.sender);
        Some(refused)
    }
}

impl RefusalQueue {
    /// Queues a refusal, unless its caller wants no reply or the queue is full.
    pub(in crate::admission) fn push(&mut self, refused: RefusedCall, now: Instant) {
        if refused.no_reply {
            return;
        }
        let waiting = self.users.entry(refused.uid).or_insert_with(|| UserRefusals {
            refused: VecDeque::new(),
            connections: KeyedCounts::default(),
            bucket: TokenBucket::full(RATE, now),
        });
        let is_first = waiting.connections.of(&refused.sender) == 0;
        if is_first || (waiting.refused.len() < PER_USER && self.total < TOTAL) {
            waiting.connections.increment(Arc::clone(&refused.sender));
            waiting.refused.push_back(refused);
            self.total += 1;
        }
    }

    /// Removes refusals that are due, and passes each to `send`, until `send` returns `false`.
    pub(in crate::admission) fn pop_due(
        &mut self,
        now: Instant,
        mut send: impl FnMut(RefusedCall) -> bool,
    ) {
        let mut wanted = true;
        for waiting in self.users.values_mut() {
            while wanted && !waiting.refused.is_empty() && waiting.bucket.try_take(RATE, now) {
                if let Some(refused) = waiting.pop() {
                    self.total -= 1;
                    wanted = send(refused);
                }
            }
        }
        self.users.retain(|_, user| !user.refused.is_empty() || !user.bucket.is_full(RATE, now));
    }

    /// Returns the time until a refusal is due; `None` if none is queued.
    pub(in crate::admission) fn delay(&self) -> Option<Duration> {
        let waiting = self.users.values().filter(|waiting| !waiting.refused.is_empty());
        waiting.map(|waiting| waiting.bucket.delay(RATE)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::quota::refusal::IdentificationError;

    fn refused(uid: u32, serial: u32) -> RefusedCall {
        let reason = IdentificationError::NotFound.into();
        RefusedCall { sender: ":1.1".into(), uid: Some(uid), serial, no_reply: false, reason }
    }

    fn sent(refusals: &mut RefusalQueue, now: Instant) -> Vec<(u32, u32)> {
        let mut sent = Vec::new();
        refusals.pop_due(now, |refused| {
            sent.push((refused.uid.unwrap(), refused.serial));
            true
        });
        sent
    }

    #[test]
    fn refusals_are_sent_in_order_at_a_bounded_rate_for_each_user() {
        let (mut refusals, start) = (RefusalQueue::default(), Instant::now());
        assert_eq!(refusals.delay(), None);
        for serial in 0..2000 {
            refusals.push(refused(1, serial), start);
        }
        refusals.push(refused(2, 7), start);
        let mut first = sent(&mut refusals, start);
        first.retain(|(uid, _)| *uid == 1);
        assert_eq!(first, (0..100).map(|serial| (1, serial)).collect::<Vec<_>>());
        assert_eq!(refusals.delay(), Some(Duration::from_millis(1)));
        let later = start + Duration::from_millis(2);
        assert_eq!(sent(&mut refusals, later), [(1, 100), (1, 101)]);
        // The rest was dropped.
        let much_later = start + Duration::from_secs(100);
        let rest: usize =
            (0..100).map(|n| sent(&mut refusals, much_later + Duration::from_secs(n)).len()).sum();
        assert_eq!(102 + rest, PER_USER);
        assert_eq!(refusals.delay(), None);
        assert!(refusals.users.is_empty());
    }

    #[test]
    fn a_connection_that_waits_for_each_answer_gets_one() {
        let (mut refusals, start) = (RefusalQueue::default(), Instant::now());
        for serial in 0..2000 {
            refusals.push(refused(1, serial), start);
        }
        let other = |serial| RefusedCall { sender: ":1.2".into(), ..refused(1, serial) };
        refusals.push(other(5000), start);
        refusals.push(other(5001), start);
        assert_eq!(refusals.total, PER_USER + 1);
        let mut last = 0;
        for n in 0..100 {
            refusals.pop_due(start + Duration::from_secs(n), |refused| {
                last = refused.serial;
                true
            });
        }
        assert_eq!(last, 5000);
    }

    #[test]
    fn a_call_without_reply_is_not_answered() {
        let (mut refusals, start) = (RefusalQueue::default(), Instant::now());
        refusals.push(RefusedCall { no_reply: true, ..refused(1, 1) }, start);
        assert_eq!(refusals.delay(), None);
    }

    #[test]
    fn the_queue_of_all_users_is_bounded() {
        let (mut refusals, start) = (RefusalQueue::default(), Instant::now());
        for uid in 0..100 {
            for serial in 0..1000 {
                refusals.push(refused(uid, serial), start);
            }
        }
        assert!((TOTAL..TOTAL + 100).contains(&refusals.total));
        let total = refusals.total;
        // A refusal that `send` does not ask for stays queued.
        refusals.pop_due(start, |_| false);
        assert_eq!(refusals.total, total - 1);
    }
}
