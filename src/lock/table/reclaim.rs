//! Released locks that are reserved for their former owner.
//!
//! libvirt releases the locks of a guest that it pauses for a purpose of its own (a snapshot, a
//! migration that fails) and acquires them again an instant later. During this grace period the
//! table refuses the resource to every other owner, and grants it to no waiter; the former owner
//! *reclaims* it ahead of all waiters. The byte itself is unlocked, as libvirt expects, so a
//! foreign holder can lock it.
//!
//! A reservation ends when its owner acquires the resource, when the owner or the last of its
//! processes ends, or when its time is over. Another process of the same VM is not kept off by it:
//! libvirt acquires the disks of a VM that moves within the host in the name of the new process.
//! The table has no clock: instants are microseconds since boot, passed by the caller.

use std::collections::{BTreeMap, BTreeSet};

use super::Table;
use crate::lock::model::event::{Event, Reason};
use crate::lock::model::extent::Extent;
use crate::lock::model::identity::Identity;
use crate::lock::model::lock::{Lock, Stage, Want};
use crate::lock::model::mode::Mode;
use crate::lock::model::owner::OwnerId;
use crate::lock::model::refusal::Holder;
use crate::lock::table::index::ResourceIndex;
use crate::lock::table::queue::Waiter;

/// A released lock that its former owner may reclaim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reclaimable {
    /// The lock as it was held.
    pub lock: Lock,
    /// When the reservation ends, in microseconds since boot.
    pub until: u64,
}

/// All reservations.
#[derive(Debug, Default)]
pub(super) struct Reclaims {
    locks: BTreeMap<u64, Reclaimable>,
    index: ResourceIndex<u64>,
    by_end: BTreeSet<(u64, u64)>,
    by_owner: BTreeSet<(OwnerId, u64)>,
}

impl Reclaims {
    fn insert(&mut self, lock: Lock, until: u64) {
        self.remove(lock.id);
        self.index.insert(&lock.want, lock.id);
        self.by_end.insert((until, lock.id));
        self.by_owner.insert((lock.owner, lock.id));
        self.locks.insert(lock.id, Reclaimable { lock, until });
    }

    fn remove(&mut self, number: u64) -> Option<Reclaimable> {
        let removed = self.locks.remove(&number)?;
        self.index.remove(&removed.lock.want, number);
        self.by_end.remove(&(removed.until, number));
        self.by_owner.remove(&(removed.lock.owner, number));
        Some(removed)
    }

    fn of_owner(&self, id: OwnerId) -> impl Iterator<Item = u64> {
        let all = self.by_owner.range((id, 0)..=(id, u64::MAX));
        all.map(|(_, number)| *number)
    }

    fn overlapping(&self, want: &Want) -> impl Iterator<Item = &Reclaimable> {
        let numbers =
            if self.locks.is_empty() { BTreeSet::new() } else { self.index.overlapping(want) };
        numbers.into_iter().filter_map(|number| self.locks.get(&number))
    }

    /// Returns all reservations, for tests.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Reclaimable> {
        self.locks.values()
    }

    /// Returns the sizes of the indexes, for tests.
    #[cfg(test)]
    pub(super) fn census(&self) -> [usize; 4] {
        [self.locks.len(), self.index.census().0, self.by_end.len(), self.by_owner.len()]
    }
}

impl Table {
    /// Ends releases as [`Self::finish_release`] does, and reserves the resources for their former
    /// owner until `until`. At most `limit` reservations exist; beyond that, and for an owner that
    /// has ended, a resource is free at once. Returns the numbers of the locks that are reserved.
    pub fn finish_release_reserved(
        &mut self,
        numbers: &[u64],
        until: u64,
        limit: usize,
    ) -> (Vec<Event>, Vec<u64>) {
        let mut reserved = Vec::with_capacity(numbers.len());
        for number in numbers {
            let Some(lock) = self.locks.get(number) else { continue };
            let is_below_limit = self.reclaims.locks.len() < limit;
            if self.living(lock.owner).is_ok() && lock.want.mode != Mode::None && is_below_limit {
                let lock = Lock { stage: Stage::Held, ..(**lock).clone() };
                self.reclaims.insert(lock, until);
                reserved.push(*number);
            }
        }
        // The waiters that this wakes are blocked by the reservations.
        (self.finish_release(numbers, Reason::Released), reserved)
    }

    /// Adds a reservation that existed before the service was restarted, unless another owner has
    /// been granted the resource since.
    pub fn restore_reclaimable(&mut self, lock: Lock, until: u64) {
        let granted =
            |other: &Lock| other.owner != lock.owner && other.want.mode.conflicts(lock.want.mode);
        self.count_from(lock.id);
        if self.living(lock.owner).is_ok() && !self.locks_overlapping(&lock.want).any(granted) {
            self.reclaims.insert(lock, until);
        }
    }

    /// Returns the earliest end of a reservation, in microseconds since boot.
    #[must_use]
    pub fn next_reclaim_end(&self) -> Option<u64> {
        self.reclaims.by_end.first().map(|(until, _)| *until)
    }

    /// Ends the reservations whose time is over at `now`, and returns them.
    pub fn end_reclaims(&mut self, now: u64) -> Vec<Reclaimable> {
        let expired = self.reclaims.by_end.range(..=(now, u64::MAX));
        let expired: Vec<u64> = expired.map(|(_, number)| *number).collect();
        self.remove_reclaims(&expired)
    }

    /// Ends the reservations for the locks `fresh`, which the owner has just acquired. Returns the
    /// numbers of the locks that had been released.
    pub fn reclaim(&mut self, id: OwnerId, fresh: &[u64]) -> Vec<u64> {
        let mut reclaimed = Vec::new();
        for number in fresh {
            let Some(lock) = self.locks.get(number) else { continue };
            let mut own = self.reserved_on(&lock.want).filter(|reserved| {
                reserved.lock.owner == id && reserved.lock.want.is_same(&lock.want)
            });
            let first = own.next().map(|reserved| reserved.lock.id);
            drop(own);
            reclaimed.extend(first.iter().copied());
            self.remove_reclaims(first.as_slice());
        }
        reclaimed
    }

    /// Returns the numbers of the locks that are reserved for an owner.
    #[must_use]
    pub fn reclaimable_by(&self, id: OwnerId) -> Vec<u64> {
        self.reclaims.of_owner(id).collect()
    }

    /// Returns the locks that are reserved on a resource, on the layers below it, and on the layers
    /// above it.
    pub fn reserved_on(&self, want: &Want) -> impl Iterator<Item = &Reclaimable> {
        self.reclaims.overlapping(want)
    }

    /// Returns the owners for which a disk or lease is reserved, or a layer below or above it.
    #[must_use]
    pub fn reserved_holders(&self, identity: Identity, below: &[Extent]) -> Vec<Holder> {
        let numbers: BTreeSet<u64> = self.reclaims.index.on(identity, below).collect();
        let reserved = numbers.into_iter().filter_map(|number| self.reclaims.locks.get(&number));
        let holder = |reserved: &Reclaimable| Holder {
            reserved_until: Some(reserved.until),
            ..self.holder(&reserved.lock)
        };
        reserved.map(holder).collect()
    }

    /// Ends all reservations of an owner, and returns the numbers of the locks.
    pub fn end_reclaims_of(&mut self, id: OwnerId) -> Vec<u64> {
        let all = self.reclaimable_by(id);
        self.remove_reclaims(&all);
        all
    }

    /// Returns the reservations that keep owner `id` from this resource; for `None`, all that
    /// conflict with it.
    pub(super) fn reserved_for_others(
        &self,
        want: &Want,
        id: Option<OwnerId>,
    ) -> impl Iterator<Item = &Reclaimable> {
        let mode = want.mode;
        self.reserved_on(want).filter(move |Reclaimable { lock, .. }| {
            !id.is_some_and(|id| id.is_same_vm(lock.owner)) && lock.want.mode.conflicts(mode)
        })
    }

    /// Returns the owners for which resources of a waiting request are reserved, the first one for
    /// each resource, with the indexes of these resources in the request.
    #[must_use]
    pub fn reserved_for(&self, waiter: &Waiter) -> Vec<(usize, Holder)> {
        let first = |want| {
            let reserved = self.reserved_for_others(want, Some(waiter.owner)).next()?;
            Some(self.reserved_holder_of(reserved, want))
        };
        let wants = waiter.wants.iter().enumerate();
        wants.filter_map(|(n, want)| Some((n, first(want)?))).collect()
    }

    /// Adds the owners for which a resource is reserved to its holders, each owner once.
    pub(super) fn add_reserved_holders<'t>(
        &self,
        holders: &mut Vec<Holder>,
        want: &Want,
        reserved: impl Iterator<Item = &'t Reclaimable>,
    ) {
        for reserved in reserved {
            if !holders.iter().any(|holder| holder.owner == reserved.lock.owner) {
                holders.push(self.reserved_holder_of(reserved, want));
            }
        }
    }

    /// Returns the owner for which `reserved` is reserved, as a refusal of `want` names it.
    fn reserved_holder_of(&self, reserved: &Reclaimable, want: &Want) -> Holder {
        let reserved_until = Some(reserved.until);
        Holder { reserved_until, ..self.holder_of(&reserved.lock, want) }
    }

    /// Whether the resource is reserved for this owner in this mode or in a stronger one. If so,
    /// the owner does not queue behind the waiters.
    pub(super) fn may_reclaim(&self, id: OwnerId, want: &Want) -> bool {
        self.reserved_on(want).any(|Reclaimable { lock, .. }| {
            let covers = lock.want.mode == want.mode || lock.want.mode == Mode::Exclusive;
            lock.owner == id && covers && lock.want.is_same(want)
        })
    }

    fn remove_reclaims(&mut self, numbers: &[u64]) -> Vec<Reclaimable> {
        let removed = numbers.iter().filter_map(|number| self.reclaims.remove(*number));
        let removed: Vec<Reclaimable> = removed.collect();
        for reserved in &removed {
            self.touch(std::slice::from_ref(&reserved.lock.want));
        }
        removed
    }
}
