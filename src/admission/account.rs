//! What is counted of a connection and of a user.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::call::Admitted;
use super::rate::{Bucket, Rate};
use crate::service::Limits;

/// How many calls with a long reply ([`Admitted::listing`]) of one user are answered at one time.
const LISTINGS_PER_USER: usize = 2;
/// How many such calls of all users but the privileged one are answered at one time.
const LISTINGS_TOTAL: usize = 4;

/// A call that was dispatched and is not answered yet.
#[derive(Debug)]
pub(super) struct Dispatched {
    pub(super) no_reply: bool,
    pub(super) listing: bool,
    pub(super) size: usize,
}

/// What is known and counted of one connection to the bus.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) uid: Option<u32>,
    /// Whether the bus is being asked for the user.
    pub(super) asked: bool,
    pub(super) bucket: Bucket,
    pub(super) in_flight: usize,
    /// By serial number, which a caller may use twice, and a number of our own.
    pub(super) dispatched: BTreeMap<(u32, u64), Dispatched>,
    /// Calls that came before the user was known, and their bytes.
    pub(super) unidentified: Vec<Admitted>,
    pub(super) size: usize,
    pub(super) has_left: bool,
}

/// What is counted of one user, and what waits to be dispatched.
#[derive(Debug)]
pub(super) struct User {
    pub(super) bucket: Bucket,
    pub(super) in_flight: usize,
    pub(super) size: usize,
    pub(super) calls: VecDeque<Admitted>,
    pub(super) listings: VecDeque<Admitted>,
    /// How many listings are being answered.
    pub(super) listing: usize,
}

impl User {
    /// A user with nothing in flight.
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            bucket: Bucket::full(Rate::per_second(limits.calls_per_second), now),
            in_flight: 0,
            size: 0,
            calls: VecDeque::new(),
            listings: VecDeque::new(),
            listing: 0,
        }
    }

    /// Whether a call waits to be dispatched.
    pub(super) fn has_queued(&self) -> bool {
        !self.calls.is_empty() || !self.listings.is_empty()
    }

    /// Takes the next call that may be dispatched.
    pub(super) fn take(&mut self, listings: usize) -> Option<Admitted> {
        if self.listing < LISTINGS_PER_USER && listings < LISTINGS_TOTAL {
            let first = self.listings.pop_front();
            if let Some(listing) = first {
                self.listing += 1;
                return Some(listing);
            }
        }
        self.calls.pop_front()
    }
}
