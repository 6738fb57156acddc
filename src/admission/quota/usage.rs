//! The usage of one connection and of one user.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::call::AdmittedCall;
use super::token_bucket::{Rate, TokenBucket};
use crate::service::Limits;

/// The maximum number of calls with a bulk reply ([`AdmittedCall::bulk`]) of one user that are
/// answered at the same time.
const BULK_PER_USER: usize = 2;
/// The maximum number of such calls of all ordinary users that are answered at the same time.
const BULK_TOTAL: usize = 4;

/// A call that was dispatched and is not answered yet.
#[derive(Debug)]
pub(in crate::admission) struct DispatchedCall {
    pub(in crate::admission) no_reply: bool,
    pub(in crate::admission) bulk: bool,
    pub(in crate::admission) size: usize,
}

/// The state and the usage of one connection to the bus.
#[derive(Debug)]
pub(in crate::admission) struct ConnectionUsage {
    pub(in crate::admission) uid: Option<u32>,
    /// Whether the bus is being asked for the user.
    pub(in crate::admission) lookup_requested: bool,
    pub(in crate::admission) bucket: TokenBucket,
    pub(in crate::admission) in_flight: usize,
    /// By serial number, which a caller may use twice, and by a number of the scheduler.
    pub(in crate::admission) dispatched: BTreeMap<(u32, u64), DispatchedCall>,
    /// The calls that were received before the user was known. `size` is the number of their bytes.
    pub(in crate::admission) unidentified: Vec<AdmittedCall>,
    pub(in crate::admission) size: usize,
    pub(in crate::admission) has_left: bool,
}

/// The usage of one user, and its calls that wait to be dispatched.
#[derive(Debug)]
pub(in crate::admission) struct UserUsage {
    pub(in crate::admission) bucket: TokenBucket,
    pub(in crate::admission) in_flight: usize,
    pub(in crate::admission) size: usize,
    pub(in crate::admission) calls: VecDeque<AdmittedCall>,
    pub(in crate::admission) bulk_calls: VecDeque<AdmittedCall>,
    /// The number of calls with a bulk reply that are being answered.
    pub(in crate::admission) bulk: usize,
}

impl UserUsage {
    /// Creates the usage of a user with no call in flight.
    pub(in crate::admission) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            bucket: TokenBucket::full(Rate::per_second(limits.calls_per_second), now),
            in_flight: 0,
            size: 0,
            calls: VecDeque::new(),
            bulk_calls: VecDeque::new(),
            bulk: 0,
        }
    }

    /// Returns whether a call waits to be dispatched.
    pub(in crate::admission) fn has_queued_calls(&self) -> bool {
        !self.calls.is_empty() || !self.bulk_calls.is_empty()
    }

    /// Removes and returns the next call that may be dispatched. `all_bulk` is the number of calls
    /// with a bulk reply of all ordinary users that are being answered.
    pub(in crate::admission) fn next_call(&mut self, all_bulk: usize) -> Option<AdmittedCall> {
        if self.bulk < BULK_PER_USER && all_bulk < BULK_TOTAL {
            let first = self.bulk_calls.pop_front();
            if let Some(bulk) = first {
                self.bulk += 1;
                return Some(bulk);
            }
        }
        self.calls.pop_front()
    }
}
