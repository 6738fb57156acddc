//! Who waits, in the order in which they came: remembers, and decides nothing.
//!
//! A waiter has a ticket and keeps its place until it gets what it asks for or gives up. It holds
//! nothing meanwhile, so nobody ever waits for a waiter that waits for him. What its place is worth
//! against others is decided in the table (`table/wait.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::lock::model::lock::Want;
use crate::lock::model::owner::OwnerId;
use crate::lock::model::refusal::Stranger;
use crate::lock::table::index::Spots;

/// A place in the queue; who came later has a higher one.
pub type Ticket = u64;

/// Somebody who waits.
#[derive(Debug, Clone)]
pub struct Waiter {
    /// Its place.
    pub ticket: Ticket,
    /// Who waits.
    pub owner: OwnerId,
    /// Since when, in microseconds since 1970.
    pub since: u64,
    /// What it wants, all at once.
    pub wants: Vec<Want>,
    /// What for.
    pub purpose: Purpose,
    /// How far it is.
    pub status: Status,
}

/// What somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// For locks.
    Acquire,
    /// For the locks that it held before it was suspended.
    Resume,
    /// To hold this lock alone.
    Strengthen(u64),
}

impl Purpose {
    /// The word used on the bus.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acquire => "acquire",
            Self::Resume => "resume",
            Self::Strengthen(_) => "convert",
        }
    }
}

/// How far a waiter is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Somebody is in its way.
    Waiting,
    /// Nobody is any more: it is about to try, and nobody gets before it.
    Called,
    /// It has tried, and met a stranger on one of the resources: whether he has gone is found out
    /// only by trying again.
    Elsewhere(usize, Box<Stranger>),
    /// Nobody is in its way, but its owner is busy with something else, for longer than others could
    /// be asked to wait: it will try when that is over.
    Busy,
}

/// All who wait.
#[derive(Debug, Default)]
pub(in crate::lock) struct Queue {
    waiters: BTreeMap<Ticket, Arc<Waiter>>,
    /// By ticket and place of the resource in the request.
    spots: Spots<(Ticket, usize)>,
    last: Ticket,
}

impl Queue {
    /// Adds somebody at the end.
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
            self.spots.insert(want, (ticket, n));
        }
        let waiter = Waiter { ticket, owner, since, wants, purpose, status };
        self.waiters.insert(ticket, Arc::new(waiter));
        ticket
    }

    /// Takes somebody out.
    pub(in crate::lock) fn remove(&mut self, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.waiters.remove(&ticket)?;
        for (n, want) in waiter.wants.iter().enumerate() {
            self.spots.remove(want, (ticket, n));
        }
        Some(Arc::unwrap_or_clone(waiter))
    }

    /// Exchanges what a waiter wants; returns what it wanted before. Its place stays.
    pub(in crate::lock) fn replace(
        &mut self,
        ticket: Ticket,
        wants: Vec<Want>,
    ) -> Option<Vec<Want>> {
        let waiter = Arc::make_mut(self.waiters.get_mut(&ticket)?);
        for (n, want) in waiter.wants.iter().enumerate() {
            self.spots.remove(want, (ticket, n));
        }
        for (n, want) in wants.iter().enumerate() {
            self.spots.insert(want, (ticket, n));
        }
        Some(std::mem::replace(&mut waiter.wants, wants))
    }

    pub(in crate::lock) fn get(&self, ticket: Ticket) -> Option<&Waiter> {
        self.waiters.get(&ticket).map(Arc::as_ref)
    }

    pub(in crate::lock) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Waiter> {
        self.waiters.get_mut(&ticket).map(Arc::make_mut)
    }

    /// Everybody, in order.
    pub(in crate::lock) fn iter(&self) -> impl Iterator<Item = &Waiter> {
        self.waiters.values().map(Arc::as_ref)
    }

    /// The requests whose ticket is higher than this one, in order.
    pub(in crate::lock) fn after(&self, ticket: Ticket) -> impl Iterator<Item = &Arc<Waiter>> {
        self.waiters.range((Bound::Excluded(ticket), Bound::Unbounded)).map(|(_, waiter)| waiter)
    }

    pub(in crate::lock) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Those who wait for this resource, in order, with what each wants of it.
    pub(in crate::lock) fn for_resource(
        &self,
        want: &Want,
    ) -> impl Iterator<Item = (&Waiter, usize, &Want)> {
        self.spots.meeting(want).into_iter().filter_map(|spot| self.at(spot))
    }

    /// The same, and those who wait for what meets that, and so on: the parts of a disk have nothing
    /// to do with each other, but who wants the disk has to do with all who want a part.
    pub(in crate::lock) fn around(
        &self,
        want: &Want,
    ) -> impl Iterator<Item = (&Waiter, usize, &Want)> {
        let mut found = self.spots.meeting(want);
        if !self.spots.is_flat() {
            let mut left: Vec<_> = found.iter().copied().collect();
            let mut known = BTreeSet::from([want.identity]);
            while let Some((_, _, wanted)) = left.pop().and_then(|spot| self.at(spot)) {
                // Who waits for the same meets the same.
                if known.insert(wanted.identity) {
                    let more = self.spots.meeting(wanted);
                    left.extend(more.into_iter().filter(|spot| found.insert(*spot)));
                }
            }
        }
        found.into_iter().filter_map(|spot| self.at(spot))
    }

    fn at(&self, (ticket, n): (Ticket, usize)) -> Option<(&Waiter, usize, &Want)> {
        let waiter = self.waiters.get(&ticket)?;
        Some((waiter, n, waiter.wants.get(n)?))
    }
}
