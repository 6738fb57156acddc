//! What is counted of a connection and of a user.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::call::AdmittedCall;
use super::token_bucket::{Rate, TokenBucket};
use crate::service::Limits;

/// How many calls with a long reply ([`AdmittedCall::bulk`]) of one user are answered at one time.
const BULK_PER_USER: usize = 2;
/// How many such calls of all users but the privileged one are answered at one time.
const BULK_TOTAL: usize = 4;

/// A call that was dispatched and is not answered yet.
#[derive(Debug)]
pub(in crate::admission) struct DispatchedCall {
    pub(in crate::admission) no_reply: bool,
    pub(in crate::admission) bulk: bool,
    pub(in crate::admission) size: usize,
}

/// What is known and counted of one connection to the bus.
#[derive(Debug)]
pub(in crate::admission) struct ConnectionUsage {
    pub(in crate::admission) uid: Option<u32>,
    /// Whether the bus is being asked for the user.
    pub(in crate::admission) lookup_requested: bool,
    pub(in crate::admission) bucket: TokenBucket,
    pub(in crate::admission) in_flight: usize,
    /// By serial number, which a caller may use twice, and a number of our own.
    pub(in crate::admission) dispatched: BTreeMap<(u32, u64), DispatchedCall>,
    /// Calls that came before the user was known, and their bytes.
    pub(in crate::admission) unidentified: Vec<AdmittedCall>,
    pub(in crate::admission) size: usize,
    pub(in crate::admission) has_left: bool,
}

/// What is counted of one user, and what waits to be dispatched.
#[derive(Debug)]
pub(in crate::admission) struct UserUsage {
    pub(in crate::admission) bucket: TokenBucket,
    pub(in crate::admission) in_flight: usize,
    pub(in crate::admission) size: usize,
    pub(in crate::admission) calls: VecDeque<AdmittedCall>,
    pub(in crate::admission) bulk_calls: VecDeque<AdmittedCall>,
    /// How many bulk_calls are being answered.
    pub(in crate::admission) bulk: usize,
}

impl UserUsage {
    /// A user with nothing in flight.
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

    /// Whether a call waits to be dispatched.
    pub(in crate::admission) fn has_queued_calls(&self) -> bool {
        !self.calls.is_empty() || !self.bulk_calls.is_empty()
    }

    /// Takes the next call that may be dispatched.
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
