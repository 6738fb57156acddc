//! The lock table: decides who holds what, and performs no I/O.
//!
//! The table knows no bus, no clock and no file. Its caller executes what the table decided (locks
//! bytes, emits signals) and reports the outcome. So every change has two phases: *reserve*, then
//! *commit* or *cancel*; *begin* a release, then *finish* it. Between the phases a lock conflicts
//! with other requests, since its byte may or may not be locked.
//!
//! Invariants:
//! - two locks on one resource do not conflict; an owner has more than one of them only if it
//!   requested that ([`Again::Count`]);
//! - two locks of which one lies on the other, or which overlap, conflict only if one owner has
//!   both, or if a disk has come to lie on something else since it was locked: then both stay
//!   ([`Table::conflicts`]);
//! - a lock belongs to an existing owner, and is in that owner's list;
//! - the number of a lock is never reused.

pub(super) mod index;
pub mod queue;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use super::lockspace::LockspaceKind;
use crate::lock::model::error::Error;
use crate::lock::model::event::{Event, Reason};
use crate::lock::model::extent::Extent;
use crate::lock::model::identity::Identity;
use crate::lock::model::lock::{Lock, Proof, Stage, Want};
use crate::lock::model::mode::Mode;
use crate::lock::model::owner::{Anchor, AnchorId, Owner, OwnerId};
use crate::lock::table::index::ResourceIndex;
use crate::lock::table::queue::{Queue, Ticket};

/// The table of owners, locks and waiters.
#[derive(Debug, Default)]
pub struct Table {
    owners: BTreeMap<OwnerId, Owner>,
    /// Shared with the lists that are being built: a list costs a reference to each lock, not a
    /// copy.
    locks: BTreeMap<u64, Arc<Lock>>,
    index: ResourceIndex<u64>,
    /// By the hash of the name: the names of the results have to be compared.
    by_name: BTreeSet<(u64, u64)>,
    /// The number of anchors of all owners.
    anchors: usize,
    /// The locks on disks that may lie on something else by now.
    changeable: BTreeSet<u64>,
    /// The locks that conflicted with another owner's at the last check.
    conflicting: BTreeSet<u64>,
    last: u64,
    queue: Queue,
    reclaims: Reclaims,
    /// The resources that have changed since the waiters were last checked.
    touched: Vec<Want>,
    /// The waiters that are cancelled and not yet reported.
    ended: Vec<Ticket>,
}

impl Table {
    /// Adds an owner.
    ///
    /// # Errors
    ///
    /// [`Error::OwnerExists`], also if that owner is ending.
    pub fn open_owner(&mut self, owner: Owner) -> Result<(), Error> {
        if self.owners.contains_key(&owner.id) {
            return Err(Error::OwnerExists(owner.id));
        }
        self.anchors += owner.anchors.len();
        self.owners.insert(owner.id, owner);
        Ok(())
    }

    /// Returns an owner, also one that is ending.
    #[must_use]
    pub fn owner(&self, id: OwnerId) -> Option<&Owner> {
        self.owners.get(&id)
    }

    /// Returns an owner that accepts commands.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchOwner`], also if the owner is ending.
    pub fn living(&self, id: OwnerId) -> Result<&Owner, Error> {
        self.owners.get(&id).filter(|owner| !owner.ended).ok_or(Error::NoSuchOwner(id))
    }

    /// Returns all visible owners, by user and UUID.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.owners.values().filter(|owner| owner.opened && !owner.ended)
    }

    /// Returns the visible owners of one user.
    pub fn owners_of(&self, uid: u32) -> impl Iterator<Item = &Owner> {
        let first = OwnerId::new(uid, uuid::Uuid::nil());
        let last = OwnerId { process: u32::MAX, ..OwnerId::new(uid, uuid::Uuid::max()) };
        self.owners.range(first..=last).map(|(_, owner)| owner)
    }

    /// Returns a held lock.
    #[must_use]
    pub fn lock(&self, id: u64) -> Option<&Lock> {
        self.locks.get(&id).map(Arc::as_ref).filter(|lock| lock.stage == Stage::Held)
    }

    /// Returns the resource of a lock, also while it is being granted or released.
    #[must_use]
    pub fn want_of(&self, id: u64) -> Option<&Want> {
        self.locks.get(&id).map(|lock| &lock.want)
    }

    /// Returns all held locks, in the order in which they were granted.
    pub fn locks(&self) -> impl Iterator<Item = &Lock> {
        self.locks.values().map(Arc::as_ref).filter(|lock| lock.stage == Stage::Held)
    }

    /// Returns the number of locks, including those that are being granted or released.
    #[must_use]
    pub fn size(&self) -> usize {
        self.locks.len()
    }

    /// Whether an owner holds a lease, in any mode.
    #[must_use]
    pub fn has_lease(&self, id: OwnerId) -> bool {
        let locks = self.owners.get(&id).map(|owner| &owner.locks);
        let held = locks.into_iter().flatten().filter_map(|number| self.lock(*number));
        held.into_iter().any(|lock| lock.want.is_lease())
    }

    /// Adds an anchor to an owner.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchOwner`].
    pub fn add_anchor(
        &mut self,
        id: OwnerId,
        number: AnchorId,
        anchor: Anchor,
    ) -> Result<(), Error> {
        self.living(id)?;
        if let Some(owner) = self.owners.get_mut(&id)
            && owner.anchors.insert(number, anchor).is_none()
        {
            self.anchors += 1;
        }
        Ok(())
    }

    /// Removes an anchor. Returns whether it was the last, in which case the owner has to end;
    /// `None` if there is no such anchor.
    pub fn remove_anchor(&mut self, id: OwnerId, number: AnchorId) -> Option<bool> {
        let owner = self.owners.get_mut(&id).filter(|owner| !owner.ended)?;
        owner.anchors.remove(&number)?;
        self.anchors -= 1;
        Some(owner.anchors.is_empty())
    }

    /// Begins a release. From now on the lock is no longer listed, but still conflicts with other
    /// requests.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchLock`] if it is not held (any more).
    pub fn begin_release(&mut self, number: u64) -> Result<(), Error> {
        self.held_lock_mut(number).ok_or(Error::NoSuchLock(number))?.stage = Stage::Releasing;
        Ok(())
    }

    /// Finishes releases: the bytes are unlocked. An owner that has ended is removed with its last
    /// lock.
    pub fn finish_release(&mut self, numbers: &[u64], reason: Reason) -> Vec<Event> {
        let mut events = Vec::with_capacity(numbers.len());
        let mut owners = BTreeSet::new();
        for number in numbers {
            let Some(lock) = self.delete(*number) else { continue };
            owners.insert(lock.owner);
            if reason == Reason::Suspended {
                self.remember(lock.owner, lock.id, lock.want.clone());
            }
            events.push(Event::LockReleased(Box::new(lock), reason));
        }
        if reason == Reason::Suspended {
            events.extend(owners.iter().copied().map(Event::OwnerChanged));
        }
        events.extend(owners.into_iter().filter_map(|id| self.remove_if_ended(id)));
        events
    }

    /// Begins the end of an owner. It accepts no more commands, and its locks are to be released,
    /// or returned to other owners if `returns_locks`. The owner is removed with its last lock; at
    /// once if it has none.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchOwner`].
    pub fn end_owner(
        &mut self,
        id: OwnerId,
        returns_locks: bool,
        since: u64,
    ) -> Result<Ended, Error> {
        self.living(id)?;
        let Some(owner) = self.owners.get_mut(&id) else {
            return Err(Error::NoSuchOwner(id));
        };
        owner.ended = true;
        owner.offer = None;
        let locks: Vec<u64> = owner.locks.iter().copied().collect();
        self.end_waiters(id);
        self.end_reclaims_of(id);
        // A lock that is being granted is cancelled by the code that grants it: only that code
        // knows which bytes are locked already.
        let held = locks.into_iter().filter(|lock| self.begin_release(*lock).is_ok());
        let mut held: Vec<u64> = held.collect();
        let returns = if returns_locks { self.begin_returns(id, &held, since) } else { Vec::new() };
        let returned: BTreeSet<u64> =
            returns.iter().flat_map(|returned| &returned.locks).map(|(old, _)| *old).collect();
        held.retain(|lock| !returned.contains(lock));
        Ok(Ended { held, returns, events: self.remove_if_ended(id).into_iter().collect() })
    }

    /// Begins an upgrade to exclusive. From now on no other owner gets a lock on the resource.
    ///
    /// # Errors
    ///
    /// [`Error::Held`] with the other holders, [`Error::NoSuchLock`].
    pub fn begin_upgrade(&mut self, number: u64) -> Result<(), Error> {
        let lock = self.lock(number).ok_or(Error::NoSuchLock(number))?;
        let exclusive = Want { mode: Mode::Exclusive, ..lock.want.clone() };
        let owner = lock.owner;
        self.refuse_if_held(&exclusive, Some(owner), |lock| {
            lock.id != number && lock.blocks(owner, &exclusive)
        })?;
        self.set_mode(number, Mode::Exclusive).map(drop)
    }

    /// Sets the mode of a held lock: finishes a downgrade, or rolls back an upgrade.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchLock`].
    pub fn set_mode(&mut self, number: u64, mode: Mode) -> Result<Event, Error> {
        let lock = self.held_lock_mut(number).ok_or(Error::NoSuchLock(number))?;
        lock.want.mode = mode;
        let lock = lock.clone();
        self.touch(std::slice::from_ref(&lock.want));
        Ok(Event::LockConverted(Box::new(lock)))
    }

    /// Returns the newest lock of an owner that has this name in this lockspace.
    #[must_use]
    pub fn named(&self, id: OwnerId, lockspace: LockspaceKind, resource: &str) -> Option<&Lock> {
        self.all_named(lockspace, resource).filter(|lock| lock.owner == id).last()
    }

    /// Returns all locks that have this name in this lockspace, the oldest first.
    pub fn all_named(
        &self,
        lockspace: LockspaceKind,
        resource: &str,
    ) -> impl Iterator<Item = &Lock> {
        let hash = hash(resource);
        let numbers = self.by_name.range((hash, 0)..=(hash, u64::MAX));
        let locks = numbers.filter_map(|(_, number)| self.lock(*number));
        locks.filter(move |lock| lock.is_named(lockspace, resource))
    }

    /// Returns the locks on `identity`, on the layers below and above it, and on all that overlaps
    /// it, in order.
    #[must_use]
    pub fn locks_on(&self, identity: Identity, below: &[Extent]) -> Vec<&Lock> {
        let numbers: BTreeSet<u64> = self.index.on(identity, below).collect();
        numbers.into_iter().filter_map(|number| self.lock(number)).collect()
    }

    /// Returns the lock, at any stage, that the owner itself has on this resource.
    fn own(&self, id: OwnerId, want: &Want) -> Option<&Lock> {
        self.locks_overlapping(want).find(|lock| lock.owner == id && lock.want.is_same(want))
    }

    /// Returns the locks, at any stage, on this resource, on the layers below and above it, and on
    /// all that overlaps it.
    fn locks_overlapping(&self, want: &Want) -> impl Iterator<Item = &Lock> {
        let numbers = self.index.overlapping(want);
        numbers.into_iter().filter_map(|number| self.locks.get(&number)).map(Arc::as_ref)
    }

    /// Returns a lock at any stage for modification. A list that shares the lock keeps its previous
    /// state.
    fn lock_mut(&mut self, number: u64) -> Option<&mut Lock> {
        self.locks.get_mut(&number).map(Arc::make_mut)
    }

    /// Returns a held lock for modification.
    fn held_lock_mut(&mut self, number: u64) -> Option<&mut Lock> {
        let lock = self.locks.get_mut(&number).filter(|lock| lock.stage == Stage::Held);
        lock.map(Arc::make_mut)
    }

    fn insert(&mut self, owner: OwnerId, want: Want, since: u64) -> u64 {
        self.last += 1;
        let id = self.last;
        let (stage, proof) = (Stage::Granting, Proof::Verified);
        self.insert_lock(Lock { id, owner, since, stage, proof, want });
        id
    }

    fn insert_lock(&mut self, lock: Lock) {
        let (id, want) = (lock.id, &lock.want);
        self.index.insert(want, id);
        self.by_name.insert((hash(&want.resource), id));
        if want.may_change() {
            self.changeable.insert(id);
        }
        if let Some(owner) = self.owners.get_mut(&lock.owner) {
            owner.locks.insert(id);
        }
        self.locks.insert(id, Arc::new(lock));
    }

    fn delete(&mut self, number: u64) -> Option<Lock> {
        let lock = Arc::unwrap_or_clone(self.locks.remove(&number)?);
        self.index.remove(&lock.want, number);
        self.by_name.remove(&(hash(&lock.want.resource), number));
        self.changeable.remove(&number);
        self.conflicting.remove(&number);
        self.touch(std::slice::from_ref(&lock.want));
        if let Some(owner) = self.owners.get_mut(&lock.owner) {
            owner.locks.remove(&number);
            owner.received_from.remove(&number);
        }
        Some(lock)
    }

    /// Removes an owner that has ended and has no locks left.
    fn remove_if_ended(&mut self, id: OwnerId) -> Option<Event> {
        let is_gone =
            self.owners.get(&id).is_some_and(|owner| owner.ended && owner.locks.is_empty());
        let owner = if is_gone { self.owners.remove(&id) } else { None }?;
        self.anchors -= owner.anchors.len();
        Some(Event::OwnerClosed(id))
    }
}

fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// The remaining work for an owner that ends.
#[derive(Debug)]
pub struct Ended {
    /// The locks to be released.
    pub held: Vec<u64>,
    /// The locks to be returned to other owners.
    pub returns: Vec<Move>,
    /// The events that have happened already.
    pub events: Vec<Event>,
}

mod grant;
mod list;
mod lockspace;
mod reclaim;
mod recover;
mod refusal;
pub mod renewal;
mod suspend;
#[cfg(test)]
mod tests;
mod transfer;
mod wait;

pub use crate::lock::table::transfer::Move;
pub use grant::{Again, Reservation};
pub use reclaim::Reclaimable;
use reclaim::Reclaims;
pub use wait::Wakeups;
