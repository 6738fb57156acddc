//! Waiting: what a place in the queue is worth.
//!
//! Who waits *claims* a resource while he is really held up there: somebody else holds it, or one
//! who came before him claims it. Nobody who comes later gets past a claim, with or without waiting
//! himself; so a writer that waits for its readers to go is not overtaken by further readers. What
//! is free nobody claims, also if somebody waits for it *and* for something that is not free: else
//! one who waits for two disks would keep one from everybody.
//!
//! Somebody whose way is free is *called*: until he has tried, he claims all that he wants.
//!
//! Who holds a resource shared and wants it alone comes before all who hold nothing of it: they
//! can't have it while he does. Two such on one resource would wait for each other for ever, so
//! there is but one.

use std::collections::{BTreeMap, BTreeSet};

use super::Table;
use crate::lock::foreign::fdinfo::Processes;
use crate::lock::model::error::Error;
use crate::lock::model::identity::Identity;
use crate::lock::model::lock::{Lock, Want};
use crate::lock::model::mode::Mode;
use crate::lock::model::owner::{Owner, OwnerId};
use crate::lock::model::refusal::{Ahead, Holder, Refusal, Stranger};
use crate::lock::table::queue::{Purpose, Status, Ticket, Waiter};

/// The place of somebody who has none: behind all others.
pub(super) const LAST: Ticket = Ticket::MAX;

/// Who comes first: whoever holds something already and wants it alone; then by place.
fn rank(waiter: &Waiter) -> (bool, Ticket) {
    (!matches!(waiter.purpose, Purpose::Strengthen(_)), waiter.ticket)
}

/// What has changed for those who wait.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// These are to try now, in this order.
    pub called: Vec<Ticket>,
    /// These wait no more, as their owner has ended.
    pub ended: Vec<Ticket>,
}

impl Table {
    /// Has somebody wait for what was just refused.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchOwner`]; [`Error::Held`] for a second one that wants to be alone.
    pub fn enqueue(
        &mut self,
        id: OwnerId,
        wants: &[Want],
        purpose: Purpose,
        since: u64,
    ) -> Result<Ticket, Error> {
        self.living(id)?;
        if let Purpose::Strengthen(lock) = purpose {
            self.refuse_second_strengthening(lock, wants)?;
        }
        Ok(self.queue.add(id, since, wants.to_vec(), purpose, Status::Waiting))
    }

    /// Everybody who waits, in order.
    pub fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.queue.iter()
    }

    /// Somebody who waits.
    #[must_use]
    pub fn waiter(&self, ticket: Ticket) -> Option<&Waiter> {
        self.queue.get(ticket)
    }

    /// How many requests of the owners that `counts` selects wait for what this lock is on.
    #[must_use]
    pub fn waiting_for(&self, lock: &Lock, counts: impl Fn(OwnerId) -> bool) -> usize {
        let waiters = self.queue.for_resource(&lock.want).map(|(waiter, ..)| waiter);
        let tickets = waiters.filter(|waiter| counts(waiter.owner)).map(|waiter| waiter.ticket);
        tickets.collect::<BTreeSet<_>>().len()
    }

    /// Takes somebody out of the queue: he has what he wanted, or gives up.
    pub fn leave_queue(&mut self, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.queue.remove(ticket)?;
        self.touch(&waiter.wants);
        Some(waiter)
    }

    /// Puts somebody back who was called, and has not got what he wants; his place stays.
    pub fn wait_on(&mut self, ticket: Ticket) {
        self.set_status(ticket, Status::Waiting);
    }

    /// The same for one who met a stranger, at this place of his request.
    pub fn wait_for_stranger(&mut self, ticket: Ticket, place: usize, stranger: Stranger) {
        self.set_status(ticket, Status::Elsewhere(place, Box::new(stranger)));
    }

    /// Exchanges what a waiter wants, since its names lead to other disks by now. It keeps its
    /// place, which is that of its request, and is about to try.
    pub fn want_instead(&mut self, ticket: Ticket, wants: &[Want]) {
        let Some(before) = self.queue.replace(ticket, wants.to_vec()) else { return };
        self.touch(&before);
        self.set_status(ticket, Status::Called);
    }

    /// Enters what is known by now of the foreign holder that a waiter has met.
    pub fn name_stranger(&mut self, ticket: Ticket, stranger: &Stranger) {
        if let Some(waiter) = self.queue.get_mut(ticket)
            && let Status::Elsewhere(_, known) = &mut waiter.status
            && known.resource == stranger.resource
        {
            known.clone_from(&Box::new(stranger.clone()));
        }
    }

    /// The stranger whom a waiter has met at this place of his request.
    #[must_use]
    pub fn stranger_of(&self, ticket: Ticket, place: usize) -> Option<Stranger> {
        match &self.queue.get(ticket)?.status {
            Status::Elsewhere(at, known) if *at == place => Some((**known).clone()),
            _ => None,
        }
    }

    /// The same for one whose owner is busy with something else.
    pub fn wait_busy(&mut self, ticket: Ticket) {
        self.set_status(ticket, Status::Busy);
    }

    fn set_status(&mut self, ticket: Ticket, status: Status) {
        let Some(waiter) = self.queue.get_mut(ticket) else { return };
        waiter.status = status;
        let wants = waiter.wants.clone();
        self.touch(&wants);
    }

    /// Looks again at those who wait for what has changed since, and calls who may go on.
    pub fn call(&mut self) -> News {
        let ended = std::mem::take(&mut self.ended);
        let touched = std::mem::take(&mut self.touched);
        // In their order, whatever they wait for: with what each wants of that.
        let mut waiting: BTreeMap<(bool, Ticket), Vec<(Identity, Mode)>> = BTreeMap::new();
        for want in &touched {
            // A claim on a whole disk keeps others from its parts, and lapses with what was in its
            // own way: so all are looked at who have to do with each other.
            let waiters = self.queue.around(want);
            for (waiter, _, wanted) in
                waiters.filter(|(waiter, ..)| waiter.status == Status::Waiting)
            {
                waiting.entry(rank(waiter)).or_default().push((wanted.identity, wanted.mode));
            }
        }
        let mut called = Vec::new();
        // What somebody is about to take for himself alone: nobody who comes after him gets it, and
        // there may be hundreds.
        let mut taken = BTreeSet::new();
        for ((_, ticket), of) in waiting {
            let Some(waiter) = self.queue.get(ticket) else { continue };
            let takes = !self.is_for_nothing(waiter);
            let late = takes && of.iter().any(|(identity, _)| taken.contains(identity));
            if late || !self.may_go_on(waiter) {
                continue;
            }
            if takes {
                let alone = of.iter().filter(|(_, mode)| *mode == Mode::Exclusive);
                taken.extend(alone.map(|(identity, _)| *identity));
            }
            if let Some(waiter) = self.queue.get_mut(ticket) {
                waiter.status = Status::Called;
                called.push(ticket);
            }
        }
        News { called, ended }
    }

    /// Whether there is anything to be looked at.
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.touched.is_empty() || !self.ended.is_empty()
    }

    /// Whether the lock that somebody wants to strengthen was released: that is to be told, and
    /// nobody kept off by it any longer.
    fn is_for_nothing(&self, waiter: &Waiter) -> bool {
        matches!(waiter.purpose, Purpose::Strengthen(own) if self.lock(own).is_none())
    }

    fn may_go_on(&self, waiter: &Waiter) -> bool {
        if self.is_for_nothing(waiter) {
            return true;
        }
        waiter.wants.iter().all(|want| {
            let claim = || self.claim_on(want, waiter.owner, waiter.ticket);
            !self.is_held_up(waiter, want)
                && !self.is_after_own(waiter, want)
                && (self.precedes_claims(waiter.owner, want) || claim().is_none())
        })
    }

    /// Whether somebody else who waits for the same owner is about to try for this, and came first:
    /// one owner's commands are not in each other's way, but they keep their order.
    fn is_after_own(&self, waiter: &Waiter, want: &Want) -> bool {
        self.queue.for_resource(want).any(|(other, ..)| {
            other.owner == waiter.owner
                && other.status == Status::Called
                && rank(other) < rank(waiter)
        })
    }

    /// Whether an owner has a lock on this already: nobody who waits for it can be overtaken by that.
    fn has(&self, id: OwnerId, want: &Want) -> bool {
        self.own(id, want).is_some()
    }

    /// Whether no claim keeps an owner from this: it has a lock on it, or may reclaim one.
    fn precedes_claims(&self, id: OwnerId, want: &Want) -> bool {
        self.has(id, want) || self.may_reclaim(id, want)
    }

    /// Whether another owner's lock or reservation blocks a waiter.
    fn is_held_up(&self, waiter: &Waiter, want: &Want) -> bool {
        if self.reserved_for_others(want, Some(waiter.owner)).next().is_some() {
            return true;
        }
        self.met_by(want).any(|lock| {
            lock.want.mode.conflicts(want.mode)
                && match waiter.purpose {
                    Purpose::Strengthen(own) => lock.id != own && lock.hinders(waiter.owner, want),
                    Purpose::Acquire | Purpose::Resume => lock.owner != waiter.owner,
                }
        })
    }

    /// The first claim that is in the way of an owner with this place.
    fn claim_on(&self, want: &Want, id: OwnerId, place: Ticket) -> Option<&Waiter> {
        let mut standing: Vec<(&Want, OwnerId)> = Vec::new();
        let mut waiters: Vec<_> = self.queue.around(want).collect();
        // They come by place already.
        waiters.sort_by_key(|(waiter, ..)| rank(waiter));
        for (waiter, n, wanted) in waiters {
            if rank(waiter) >= (true, place) {
                break;
            }
            let behind = |(claimed, owner): &(&Want, OwnerId)| {
                claimed.mode.conflicts(wanted.mode)
                    && *owner != waiter.owner
                    && claimed.meets(wanted)
            };
            let claims = match &waiter.status {
                Status::Called => true,
                Status::Elsewhere(at, _) if *at == n => true,
                Status::Elsewhere(..) | Status::Waiting | Status::Busy => {
                    standing.iter().any(behind) || self.is_held_up(waiter, wanted)
                }
            };
            if claims {
                if wanted.mode.conflicts(want.mode) && waiter.owner != id && wanted.meets(want) {
                    return Some(waiter);
                }
                standing.push((wanted, waiter.owner));
            }
        }
        None
    }

    /// Refuses what somebody with an earlier place claims.
    pub(super) fn refuse_if_claimed(
        &self,
        want: &Want,
        id: OwnerId,
        place: Ticket,
    ) -> Result<(), Error> {
        if self.queue.is_empty() {
            return Ok(());
        }
        match self.claim_on(want, id, place) {
            None => Ok(()),
            Some(waiter) => Err(self.behind(want, id, waiter)),
        }
    }

    /// The refusal for one who would overtake a waiter: it says for whom that one waits.
    fn behind(&self, want: &Want, id: OwnerId, waiter: &Waiter) -> Error {
        if let Status::Elsewhere(_, stranger) = &waiter.status {
            let resource = want.resource.clone();
            return Error::HeldElsewhere(Box::new(Stranger { resource, ..(**stranger).clone() }));
        }
        let counts = |lock: &&Lock| lock.owner != id && lock.want.mode != Mode::None;
        let others = self.met_by(want).filter(counts);
        let mut holders = others.map(|lock| self.holder_of(lock, want)).collect();
        let reserved = self.reserved_on(want).filter(|reserved| reserved.lock.owner != id);
        self.add_reserved_holders(&mut holders, want, reserved);
        let ahead = Some(self.ahead(waiter));
        Error::Held(Box::new(Refusal {
            resource: want.resource.clone(),
            holders,
            ahead,
            users: Processes::default(),
        }))
    }

    /// Why somebody waits; `None` where nobody of ours is in his way.
    #[must_use]
    pub fn refusal_of(&self, waiter: &Waiter) -> Option<Error> {
        if let Status::Elsewhere(_, stranger) = &waiter.status {
            return Some(Error::HeldElsewhere(stranger.clone()));
        }
        waiter.wants.iter().find_map(|want| {
            let others = |lock: &Lock| match waiter.purpose {
                Purpose::Strengthen(own) => lock.id != own && lock.hinders(waiter.owner, want),
                Purpose::Acquire | Purpose::Resume => lock.owner != waiter.owner,
            };
            let held = self.refuse_if_held(want, Some(waiter.owner), others);
            let claimed = || match waiter.purpose {
                Purpose::Strengthen(_) => Ok(()),
                _ if self.precedes_claims(waiter.owner, want) => Ok(()),
                _ => self.refuse_if_claimed(want, waiter.owner, waiter.ticket),
            };
            held.and_then(|()| claimed()).err()
        })
    }

    /// The stranger who really holds what one of those who wait for him is just trying again to get,
    /// where that is all that is in the way.
    pub(super) fn stranger_met_on(&self, want: &Want, holders: &[Holder]) -> Option<Stranger> {
        let tries =
            |holder: &Holder| holder.reserved_until.is_none() && self.lock(holder.lock).is_none();
        if !holders.iter().all(tries) {
            return None;
        }
        let mut waiters = self.queue.for_resource(want).map(|(waiter, ..)| waiter);
        let stranger = waiters.find_map(|waiter| match &waiter.status {
            Status::Elsewhere(_, stranger)
                if holders.iter().any(|holder| holder.owner == waiter.owner) =>
            {
                Some((**stranger).clone())
            }
            _ => None,
        });
        let resource = want.resource.clone();
        stranger.map(|stranger| Stranger { resource, ..stranger })
    }

    fn ahead(&self, waiter: &Waiter) -> Ahead {
        let name = self.owners.get(&waiter.owner).map(|owner: &Owner| owner.name.clone());
        Ahead { owner: waiter.owner, name: name.unwrap_or_default(), since: waiter.since }
    }

    fn refuse_second_strengthening(&self, lock: u64, wants: &[Want]) -> Result<(), Error> {
        for want in wants {
            let other = |waiter: &&Waiter| matches!(waiter.purpose, Purpose::Strengthen(other) if other != lock);
            let mut waiters = self.queue.for_resource(want).map(|(waiter, ..)| waiter);
            if let (Some(other), Some(own)) = (waiters.find(other), self.lock(lock)) {
                return Err(self.behind(want, own.owner, other));
            }
        }
        Ok(())
    }

    /// Notes that something has changed for those who wait for these.
    pub(super) fn touch(&mut self, wants: &[Want]) {
        if !self.queue.is_empty() {
            self.touched.extend_from_slice(wants);
        }
    }

    /// Those who wait for an owner that ends wait no more.
    pub(super) fn end_waiters(&mut self, id: OwnerId) {
        let of_owner = self.queue.iter().filter(|waiter| waiter.owner == id);
        let tickets: Vec<Ticket> = of_owner.map(|waiter| waiter.ticket).collect();
        for ticket in tickets {
            self.leave_queue(ticket);
            self.ended.push(ticket);
        }
    }
}

#[cfg(test)]
mod tests;
