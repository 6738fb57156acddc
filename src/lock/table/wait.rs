//! Priority of waiting requests.
//!
//! A waiter has priority for a resource only while it is blocked on it: by a holder, or by an
//! earlier waiter that has priority for it. A later request, whether it would wait or not, never
//! overtakes a waiter with priority. This prevents starvation: a stream of readers cannot delay for
//! ever a writer that waits for the present readers to end. A waiter has no priority for a free
//! resource, not even while it waits for it *and* for one that is not free. Otherwise a request for
//! two disks would keep one of them from all others while it waits for the other.
//!
//! A waiter that is no longer blocked is *woken*. Until it has tried, it has priority for all
//! resources that it wants.
//!
//! A holder of a shared lock that waits for an upgrade to exclusive comes before all owners that
//! hold nothing of the resource: they cannot get it while the lock is held. Two upgrades of one
//! resource would deadlock, so the table permits one.

use std::collections::{BTreeMap, BTreeSet};

use super::Table;
use crate::lock::model::error::Error;
use crate::lock::model::identity::Identity;
use crate::lock::model::lock::{Lock, Want};
use crate::lock::model::mode::Mode;
use crate::lock::model::owner::{Owner, OwnerId};
use crate::lock::model::process_search::Processes;
use crate::lock::model::refusal::{Ahead, ForeignHolder, Holder, Refusal};
use crate::lock::table::queue::{Purpose, Status, Ticket, Waiter};

/// The ticket of a request that is not queued: behind all others.
pub(super) const LAST: Ticket = Ticket::MAX;

/// Returns the sort key of a waiter: upgrades come first, then the order is by ticket.
fn rank(waiter: &Waiter) -> (bool, Ticket) {
    (!matches!(waiter.purpose, Purpose::Upgrade(_)), waiter.ticket)
}

/// The waiters whose state a change has altered.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wakeups {
    /// Waiters to retry now, in this order.
    pub woken: Vec<Ticket>,
    /// Waiters that are cancelled because their owner has ended.
    pub ended: Vec<Ticket>,
}

impl Table {
    /// Queues a request that has just been refused.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchOwner`]; [`Error::Held`] for a second upgrade of the same resource.
    pub fn enqueue(
        &mut self,
        id: OwnerId,
        wants: &[Want],
        purpose: Purpose,
        since: u64,
    ) -> Result<Ticket, Error> {
        self.living(id)?;
        if let Purpose::Upgrade(lock) = purpose {
            self.refuse_second_upgrade(lock, wants)?;
        }
        Ok(self.queue.add(id, since, wants.to_vec(), purpose, Status::Waiting))
    }

    /// Returns all waiters, in order.
    pub fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.queue.iter()
    }

    /// Returns the waiter with this ticket.
    #[must_use]
    pub fn waiter(&self, ticket: Ticket) -> Option<&Waiter> {
        self.queue.get(ticket)
    }

    /// Returns how many requests of the owners that `counts` selects wait for the resource of this
    /// lock.
    #[must_use]
    pub fn waiting_for(&self, lock: &Lock, counts: impl Fn(OwnerId) -> bool) -> usize {
        let waiters = self.queue.for_resource(&lock.want).map(|(waiter, ..)| waiter);
        let tickets = waiters.filter(|waiter| counts(waiter.owner)).map(|waiter| waiter.ticket);
        tickets.collect::<BTreeSet<_>>().len()
    }

    /// Removes a waiter from the queue, because its request is granted or cancelled.
    pub fn leave_queue(&mut self, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.queue.remove(ticket)?;
        self.touch(&waiter.wants);
        Some(waiter)
    }

    /// Marks a woken waiter as waiting again after a failed attempt. It keeps its place.
    pub fn wait_on(&mut self, ticket: Ticket) {
        self.set_status(ticket, Status::Waiting);
    }

    /// Marks a waiter as blocked by a foreign holder on the resource with this index in its
    /// request.
    pub fn wait_for_foreign_holder(
        &mut self,
        ticket: Ticket,
        index: usize,
        foreign: ForeignHolder,
    ) {
        self.set_status(ticket, Status::Elsewhere(index, Box::new(foreign)));
    }

    /// Replaces the resources that a waiter wants, because its names lead to other disks by now. It
    /// keeps the place of its request, and is about to try.
    pub fn want_instead(&mut self, ticket: Ticket, wants: &[Want]) {
        let Some(before) = self.queue.replace(ticket, wants.to_vec()) else { return };
        self.touch(&before);
        self.set_status(ticket, Status::Woken);
    }

    /// Stores newer information on the foreign holder that a waiter has met.
    pub fn name_foreign_holder(&mut self, ticket: Ticket, foreign: &ForeignHolder) {
        if let Some(waiter) = self.queue.get_mut(ticket)
            && let Status::Elsewhere(_, stored) = &mut waiter.status
            && stored.resource == foreign.resource
        {
            stored.clone_from(&Box::new(foreign.clone()));
        }
    }

    /// Returns the foreign holder that a waiter has met on the resource with this index in its
    /// request.
    #[must_use]
    pub fn foreign_holder_of(&self, ticket: Ticket, index: usize) -> Option<ForeignHolder> {
        match &self.queue.get(ticket)?.status {
            Status::Elsewhere(at, stored) if *at == index => Some((**stored).clone()),
            _ => None,
        }
    }

    /// Marks a waiter as waiting for its owner to finish another command.
    pub fn wait_busy(&mut self, ticket: Ticket) {
        self.set_status(ticket, Status::Busy);
    }

    fn set_status(&mut self, ticket: Ticket, status: Status) {
        let Some(waiter) = self.queue.get_mut(ticket) else { return };
        waiter.status = status;
        let wants = waiter.wants.clone();
        self.touch(&wants);
    }

    /// Checks the waiters that the changes since the last call may concern, and wakes those that
    /// are no longer blocked.
    pub fn wake_waiters(&mut self) -> Wakeups {
        let ended = std::mem::take(&mut self.ended);
        let touched = std::mem::take(&mut self.touched);
        // In the order of the queue, each with the resources among the changed ones that it wants.
        let mut waiting: BTreeMap<(bool, Ticket), Vec<(Identity, Mode)>> = BTreeMap::new();
        for want in &touched {
            // A waiter's priority for a whole disk keeps others from its parts, and ends with what
            // blocks that waiter. So all waiters are checked that are connected through any
            // resource.
            let waiters = self.queue.connected_to(want);
            let waiters = waiters.filter(|(waiter, ..)| waiter.status == Status::Waiting);
            for (waiter, _, wanted) in waiters {
                waiting.entry(rank(waiter)).or_default().push((wanted.identity, wanted.mode));
            }
        }
        let mut woken = Vec::new();
        // The resources that a woken waiter is about to lock exclusively. No waiter behind it gets
        // them, and there may be hundreds: these need no further check.
        let mut locked = BTreeSet::new();
        for ((_, ticket), changed) in waiting {
            let Some(waiter) = self.queue.get(ticket) else { continue };
            let will_lock = !self.cannot_succeed(waiter);
            let is_late =
                will_lock && changed.iter().any(|(identity, _)| locked.contains(identity));
            if is_late || !self.is_unblocked(waiter) {
                continue;
            }
            if will_lock {
                let exclusive = changed.iter().filter(|(_, mode)| *mode == Mode::Exclusive);
                locked.extend(exclusive.map(|(identity, _)| *identity));
            }
            if let Some(waiter) = self.queue.get_mut(ticket) {
                waiter.status = Status::Woken;
                woken.push(ticket);
            }
        }
        Wakeups { woken, ended }
    }

    /// Whether [`Self::wake_waiters`] has something to do.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.touched.is_empty() || !self.ended.is_empty()
    }

    /// Whether the lock that a waiter wants to upgrade has been released. Then the waiter is woken
    /// in order to fail, and keeps no other waiter from the resource.
    fn cannot_succeed(&self, waiter: &Waiter) -> bool {
        matches!(waiter.purpose, Purpose::Upgrade(own) if self.lock(own).is_none())
    }

    fn is_unblocked(&self, waiter: &Waiter) -> bool {
        if self.cannot_succeed(waiter) {
            return true;
        }
        waiter.wants.iter().all(|want| {
            let earlier = || self.waiter_with_priority(want, waiter.owner, waiter.ticket);
            !self.is_blocked(waiter, want)
                && !self.follows_own_waiter(waiter, want)
                && (self.may_overtake(waiter.owner, want) || earlier().is_none())
        })
    }

    /// Whether an earlier waiter of the same owner is woken for this resource. Requests of one
    /// owner do not conflict, but they keep their order.
    fn follows_own_waiter(&self, waiter: &Waiter, want: &Want) -> bool {
        self.queue.for_resource(want).any(|(other, ..)| {
            other.owner == waiter.owner
                && other.status == Status::Woken
                && rank(other) < rank(waiter)
        })
    }

    /// Whether an owner already has a lock on this resource, so that a further lock overtakes no
    /// waiter.
    fn has_lock_on(&self, id: OwnerId, want: &Want) -> bool {
        self.own(id, want).is_some()
    }

    /// Whether an owner may pass the waiters for this resource, since it has a lock on it or may
    /// reclaim one.
    fn may_overtake(&self, id: OwnerId, want: &Want) -> bool {
        self.has_lock_on(id, want) || self.may_reclaim(id, want)
    }

    /// Whether another owner's lock or reservation blocks a waiter.
    fn is_blocked(&self, waiter: &Waiter, want: &Want) -> bool {
        if self.reserved_for_others(want, Some(waiter.owner)).next().is_some() {
            return true;
        }
        self.locks_overlapping(want).any(|lock| {
            lock.want.mode.conflicts(want.mode)
                && match waiter.purpose {
                    Purpose::Upgrade(own) => lock.id != own && lock.blocks(waiter.owner, want),
                    Purpose::Acquire | Purpose::Resume => lock.owner != waiter.owner,
                }
        })
    }

    /// Returns the first waiter that has priority over a request of this owner with this ticket.
    fn waiter_with_priority(&self, want: &Want, id: OwnerId, ticket: Ticket) -> Option<&Waiter> {
        let mut with_priority: Vec<(&Want, OwnerId)> = Vec::new();
        let mut waiters: Vec<_> = self.queue.connected_to(want).collect();
        // The waiters are in the order of their tickets already.
        waiters.sort_by_key(|(waiter, ..)| rank(waiter));
        for (waiter, n, wanted) in waiters {
            if rank(waiter) >= (true, ticket) {
                break;
            }
            let is_behind = |(prior, owner): &(&Want, OwnerId)| {
                prior.mode.conflicts(wanted.mode)
                    && *owner != waiter.owner
                    && prior.overlaps(wanted)
            };
            let has_priority = match &waiter.status {
                Status::Woken => true,
                Status::Elsewhere(at, _) if *at == n => true,
                Status::Elsewhere(..) | Status::Waiting | Status::Busy => {
                    with_priority.iter().any(is_behind) || self.is_blocked(waiter, wanted)
                }
            };
            if has_priority {
                if wanted.mode.conflicts(want.mode) && waiter.owner != id && wanted.overlaps(want) {
                    return Some(waiter);
                }
                with_priority.push((wanted, waiter.owner));
            }
        }
        None
    }

    /// Refuses a resource for which an earlier waiter has priority.
    pub(super) fn refuse_if_overtaking(
        &self,
        want: &Want,
        id: OwnerId,
        ticket: Ticket,
    ) -> Result<(), Error> {
        if self.queue.is_empty() {
            return Ok(());
        }
        match self.waiter_with_priority(want, id, ticket) {
            None => Ok(()),
            Some(waiter) => Err(self.refusal_behind(want, id, waiter)),
        }
    }

    /// Returns the refusal of a request that would overtake a waiter. It names what blocks that
    /// waiter.
    fn refusal_behind(&self, want: &Want, id: OwnerId, waiter: &Waiter) -> Error {
        if let Status::Elsewhere(_, foreign) = &waiter.status {
            let resource = want.resource.clone();
            return Error::HeldElsewhere(Box::new(ForeignHolder {
                resource,
                ..(**foreign).clone()
            }));
        }
        let counts = |lock: &&Lock| lock.owner != id && lock.want.mode != Mode::None;
        let others = self.locks_overlapping(want).filter(counts);
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

    /// Returns why a waiter is blocked; `None` if no lock, reservation or waiter in this table
    /// blocks it.
    #[must_use]
    pub fn refusal_of(&self, waiter: &Waiter) -> Option<Error> {
        if let Status::Elsewhere(_, foreign) = &waiter.status {
            return Some(Error::HeldElsewhere(foreign.clone()));
        }
        waiter.wants.iter().find_map(|want| {
            let others = |lock: &Lock| match waiter.purpose {
                Purpose::Upgrade(own) => lock.id != own && lock.blocks(waiter.owner, want),
                Purpose::Acquire | Purpose::Resume => lock.owner != waiter.owner,
            };
            let held = self.refuse_if_held(want, Some(waiter.owner), others);
            let check_order = || match waiter.purpose {
                Purpose::Upgrade(_) => Ok(()),
                _ if self.may_overtake(waiter.owner, want) => Ok(()),
                _ => self.refuse_if_overtaking(want, waiter.owner, waiter.ticket),
            };
            held.and_then(|()| check_order()).err()
        })
    }

    /// Returns the foreign holder that has locked a resource, if nothing blocks it but attempts of
    /// waiters that wait for this foreign holder.
    pub(super) fn foreign_on(&self, want: &Want, holders: &[Holder]) -> Option<ForeignHolder> {
        let is_attempt =
            |holder: &Holder| holder.reserved_until.is_none() && self.lock(holder.lock).is_none();
        if !holders.iter().all(is_attempt) {
            return None;
        }
        let mut waiters = self.queue.for_resource(want).map(|(waiter, ..)| waiter);
        let foreign = waiters.find_map(|waiter| match &waiter.status {
            Status::Elsewhere(_, foreign)
                if holders.iter().any(|holder| holder.owner == waiter.owner) =>
            {
                Some((**foreign).clone())
            }
            _ => None,
        });
        let resource = want.resource.clone();
        foreign.map(|foreign| ForeignHolder { resource, ..foreign })
    }

    fn ahead(&self, waiter: &Waiter) -> Ahead {
        let name = self.owners.get(&waiter.owner).map(|owner: &Owner| owner.name.clone());
        Ahead { owner: waiter.owner, name: name.unwrap_or_default(), since: waiter.since }
    }

    fn refuse_second_upgrade(&self, lock: u64, wants: &[Want]) -> Result<(), Error> {
        for want in wants {
            let other = |waiter: &&Waiter| matches!(waiter.purpose, Purpose::Upgrade(other) if other != lock);
            let mut waiters = self.queue.for_resource(want).map(|(waiter, ..)| waiter);
            if let (Some(other), Some(own)) = (waiters.find(other), self.lock(lock)) {
                return Err(self.refusal_behind(want, own.owner, other));
            }
        }
        Ok(())
    }

    /// Records that the state of these resources has changed, so that their waiters are checked.
    pub(super) fn touch(&mut self, wants: &[Want]) {
        if !self.queue.is_empty() {
            self.touched.extend_from_slice(wants);
        }
    }

    /// Cancels the waiters of an owner that ends.
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
