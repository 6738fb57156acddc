//! The queue of waiting requests, in order of arrival: stores, and decides nothing.
//!
//! A waiter has a ticket and keeps its place until its request is granted or cancelled. It holds no
//! lock meanwhile, so waiters cannot deadlock. The table (`table/wait.rs`) decides what priority a
//! place has.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::lock::model::lock::Want;
use crate::lock::model::owner::OwnerId;
use crate::lock::model::refusal::ForeignHolder;
use crate::lock::table::index::ResourceIndex;

/// A place in the queue; a later request has a higher one.
pub type Ticket = u64;

/// A waiting request.
#[derive(Debug, Clone)]
pub struct Waiter {
    /// Its place.
    pub ticket: Ticket,
    /// The owner whose request waits.
    pub owner: OwnerId,
    /// When the request was queued, in microseconds since 1970.
    pub since: u64,
    /// The resources that it wants, all of them at once.
    pub wants: Vec<Want>,
    /// The purpose of the request.
    pub purpose: Purpose,
    /// Its state.
    pub status: Status,
}

/// The purpose of a waiting request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To acquire locks.
    Acquire,
    /// To acquire the locks that the owner held before it was suspended.
    Resume,
    /// To upgrade this lock to exclusive.
    Upgrade(u64),
}

impl Purpose {
    /// Returns the word used on D-Bus.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acquire => "acquire",
            Self::Resume => "resume",
            Self::Upgrade(_) => "convert",
        }
    }
}

/// The state of a waiter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It is blocked by a lock, a reservation or another waiter.
    Waiting,
    /// It is woken: nothing blocks it, it is about to try, and no other request overtakes it.
    Woken,
    /// It has tried, and met a foreign holder on the resource with this index. Only another attempt
    /// shows whether the foreign holder has gone.
    Elsewhere(usize, Box<ForeignHolder>),
    /// Nothing blocks it but its owner, which is executing another command, for longer than other
    /// owners should be delayed. It tries when that command has ended.
    Busy,
}

/// All waiting requests.
#[derive(Debug, Default)]
pub(in crate::lock) struct Queue {
    waiters: BTreeMap<Ticket, Arc<Waiter>>,
    /// By ticket and index of the resource in the request.
    index: ResourceIndex<(Ticket, usize)>,
    last: Ticket,
}

impl Queue {
    /// Appends a request.
    pub(in crate::lock) fn add(
        &mut self,
        owner: OwnerId,
        since: u64,
        wants: Vec<Want>,
        purpose: Purpose,
        status: Status,
    ) -> Ticket {
        self.last += 1;
        let ticket = self.last;
        for (n, want) in wants.iter().enumerate() {
            self.index.insert(want, (ticket, n));
        }
        let waiter = Waiter { ticket, owner, since, wants, purpose, status };
        self.waiters.insert(ticket, Arc::new(waiter));
        ticket
    }

    /// Removes a request.
    pub(in crate::lock) fn remove(&mut self, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.waiters.remove(&ticket)?;
        for (n, want) in waiter.wants.iter().enumerate() {
            self.index.remove(want, (ticket, n));
        }
        Some(Arc::unwrap_or_clone(waiter))
    }

    /// Replaces the resources that a waiter wants, and returns the previous ones. It keeps its
    /// place.
    pub(in crate::lock) fn replace(
        &mut self,
        ticket: Ticket,
        wants: Vec<Want>,
    ) -> Option<Vec<Want>> {
        let waiter = Arc::make_mut(self.waiters.get_mut(&ticket)?);
        for (n, want) in waiter.wants.iter().enumerate() {
            self.index.remove(want, (ticket, n));
        }
        for (n, want) in wants.iter().enumerate() {
            self.index.insert(want, (ticket, n));
        }
        Some(std::mem::replace(&mut waiter.wants, wants))
    }

    pub(in crate::lock) fn get(&self, ticket: Ticket) -> Option<&Waiter> {
        self.waiters.get(&ticket).map(Arc::as_ref)
    }

    pub(in crate::lock) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Waiter> {
        self.waiters.get_mut(&ticket).map(Arc::make_mut)
    }

    /// Returns all waiters, in order.
    pub(in crate::lock) fn iter(&self) -> impl Iterator<Item = &Waiter> {
        self.waiters.values().map(Arc::as_ref)
    }

    /// Returns the waiters whose ticket is higher than this one, in order.
    pub(in crate::lock) fn after(&self, ticket: Ticket) -> impl Iterator<Item = &Arc<Waiter>> {
        self.waiters.range((Bound::Excluded(ticket), Bound::Unbounded)).map(|(_, waiter)| waiter)
    }

    pub(in crate::lock) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Returns the waiters for this resource, in order, with the resource that each wants.
    pub(in crate::lock) fn for_resource(
        &self,
        want: &Want,
    ) -> impl Iterator<Item = (&Waiter, usize, &Want)> {
        self.index.overlapping(want).into_iter().filter_map(|key| self.entry(key))
    }

    /// Returns the waiters for this resource and, transitively, the waiters for all resources that
    /// meet one of theirs. Two parts of a disk do not meet, but a request for the disk meets every
    /// request for a part.
    pub(in crate::lock) fn connected_to(
        &self,
        want: &Want,
    ) -> impl Iterator<Item = (&Waiter, usize, &Want)> {
        let mut found = self.index.overlapping(want);
        if !self.index.is_flat() {
            let mut pending: Vec<_> = found.iter().copied().collect();
            let mut visited = BTreeSet::from([want.identity]);
            while let Some((_, _, wanted)) = pending.pop().and_then(|key| self.entry(key)) {
                // Requests for the same identity meet the same resources.
                if visited.insert(wanted.identity) {
                    let more = self.index.overlapping(wanted);
                    pending.extend(more.into_iter().filter(|key| found.insert(*key)));
                }
            }
        }
        found.into_iter().filter_map(|key| self.entry(key))
    }

    fn entry(&self, (ticket, n): (Ticket, usize)) -> Option<(&Waiter, usize, &Want)> {
        let waiter = self.waiters.get(&ticket)?;
        Some((waiter, n, waiter.wants.get(n)?))
    }
}
