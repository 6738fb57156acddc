//! Transfer of locks from one owner to another, without an instant in which they are unlocked.
//!
//! An owner *offers* all its locks; a caller that presents the token *adopts* them for another
//! owner. The first owner then remembers them as if it was suspended. When the other owner ends,
//! the locks that it still has return to the first owner, unless that has closed. So a migrating VM
//! is never without its disk locks, whichever side fails.
//!
//! A transfer has two phases, as every change has: *begin*, then *end* or *cancel*. In between, a
//! lock still belongs to the old owner, conflicts with all other requests, and is not listed.

use uuid::Uuid;

use super::Table;
use crate::lock::model::error::Error;
use crate::lock::model::event::{Event, Reason};
use crate::lock::model::lock::{Lock, Stage};
use crate::lock::model::owner::{Offer, Owner, OwnerId};
use crate::lock::text::escape::shown;

/// Locks that are being transferred from one owner to another.
#[derive(Debug, Clone)]
pub struct Move {
    /// The present owner.
    pub from: OwnerId,
    /// The new owner.
    pub to: OwnerId,
    /// Whether `from` will remember the locks; otherwise they return to an owner that does.
    pub remembered: bool,
    /// The present number of each lock, and the lock as it will be.
    pub locks: Vec<(u64, Lock)>,
}

impl Table {
    /// Stores an offer.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchOwner`]; [`Error::NothingToOffer`]; [`Error::OfferedAlready`].
    pub fn offer(&mut self, id: OwnerId, offer: Offer) -> Result<(), Error> {
        let owner = self.living(id)?;
        if owner.offer.is_some() {
            return Err(Error::OfferedAlready(id));
        }
        if !owner.locks.iter().any(|lock| self.lock(*lock).is_some()) {
            return Err(Error::NothingToOffer(id));
        }
        if let Some(owner) = self.owners.get_mut(&id) {
            owner.offer = Some(offer);
        }
        Ok(())
    }

    /// Returns the owner whose offer has this token.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchOffer`].
    pub fn offered(&self, token: Uuid) -> Result<OwnerId, Error> {
        let mut owners = self.owners();
        let offers = |owner: &&Owner| owner.offer.is_some_and(|offer| offer.token == token);
        owners.find(offers).map(|owner| owner.id).ok_or(Error::NoSuchOffer)
    }

    /// Withdraws an owner's offer; with a token, only if the offer has this one. Returns `None` if
    /// there is no such offer.
    pub fn withdraw_offer(&mut self, id: OwnerId, token: Option<Uuid>) -> Option<Offer> {
        let owner = self.owners.get_mut(&id)?;
        let offer = owner.offer?;
        if token.is_some_and(|token| token != offer.token) {
            return None;
        }
        owner.offer.take()
    }

    /// Begins to transfer the locks that were offered with a token.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchOffer`]; [`Error::OwnOffer`]; [`Error::Suspended`]; [`Error::NoSuchOwner`];
    /// [`Error::NothingToOffer`] if the offering owner has no locks any more; [`Error::HeldTwice`]
    /// if the adopting owner has a lock on one of the resources itself.
    pub fn begin_adoption(&mut self, token: Uuid, to: OwnerId, since: u64) -> Result<Move, Error> {
        let from = self.offered(token)?;
        if from == to {
            return Err(Error::OwnOffer(to));
        }
        self.check_running(to)?;
        let owner = self.living(from)?;
        let held: Vec<u64> =
            owner.locks.iter().copied().filter(|lock| self.lock(*lock).is_some()).collect();
        if held.is_empty() {
            return Err(Error::NothingToOffer(from));
        }
        for lock in held.iter().filter_map(|lock| self.lock(*lock)) {
            if let Some(own) = self.own(to, &lock.want) {
                let resource = shown(&lock.want.resource);
                return Err(Error::HeldTwice { resource, lock: own.id });
            }
        }
        Ok(self.begin_move(from, to, &held, true, since))
    }

    /// Begins to return the locks that an ending owner has from owners that remember them.
    pub(super) fn begin_returns(&mut self, id: OwnerId, held: &[u64], since: u64) -> Vec<Move> {
        let Some(owner) = self.owners.get_mut(&id) else { return Vec::new() };
        let origins = std::mem::take(&mut owner.received_from);
        let mut moves: Vec<Move> = Vec::new();
        let sources: std::collections::BTreeSet<OwnerId> = origins.values().copied().collect();
        for to in sources {
            let remembers = |owner: &Owner| owner.handed_to == Some(id) && owner.is_suspended();
            if !self.living(to).is_ok_and(remembers) {
                continue;
            }
            let returned: Vec<u64> =
                held.iter().copied().filter(|lock| origins.get(lock) == Some(&to)).collect();
            if returned.is_empty() {
                // The former owner keeps what it remembers, and no other owner has it.
                if let Some(owner) = self.owners.get_mut(&to) {
                    owner.handed_to = None;
                }
            } else {
                moves.push(self.begin_move(id, to, &returned, false, since));
            }
        }
        moves
    }

    fn begin_move(
        &mut self,
        from: OwnerId,
        to: OwnerId,
        numbers: &[u64],
        remembered: bool,
        since: u64,
    ) -> Move {
        let mut locks = Vec::with_capacity(numbers.len());
        for number in numbers {
            let Some(lock) = self.lock_mut(*number) else { continue };
            lock.stage = Stage::Releasing;
            let lock = lock.clone();
            self.last += 1;
            let mut moved = Lock { id: self.last, owner: to, since, stage: Stage::Held, ..lock };
            // Permission that one user has shown does not hold for another user.
            moved.want.write_shown &= from.uid == to.uid;
            locks.push((*number, moved));
        }
        Move { from, to, remembered, locks }
    }

    /// Commits a transfer. Returns also the numbers of the locks that are no longer remembered.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchOwner`] if the new owner has ended meanwhile: then the transfer has to be
    /// cancelled.
    pub fn end_move(&mut self, moved: &Move) -> Result<(Vec<Event>, Vec<u64>), Error> {
        let Move { from, to, remembered, locks } = moved;
        self.living(*to)?;
        let mut events = Vec::with_capacity(locks.len() * 2 + 2);
        let forgotten = if *remembered { Vec::new() } else { self.resume(*to) };
        for (old, lock) in locks {
            let Some(old) = self.delete(*old) else { continue };
            if *remembered {
                self.remember(*from, old.id, old.want.clone());
                if let Some(owner) = self.owners.get_mut(to) {
                    owner.received_from.insert(lock.id, *from);
                }
            }
            events.push(Event::LockReleased(Box::new(old), Reason::HandedOver));
            self.insert_lock(lock.clone());
            self.record_conflicts(lock.id);
            events.push(Event::LockAcquired(Box::new(lock.clone())));
        }
        if let Some(owner) = self.owners.get_mut(from).filter(|_| *remembered) {
            owner.offer = None;
            owner.handed_to = Some(*to);
        }
        events.extend([Event::OwnerChanged(*from), Event::OwnerChanged(*to)]);
        events.extend(self.remove_if_ended(*from));
        Ok((events, forgotten))
    }

    /// Cancels a transfer: the locks belong to the old owner again. If that has ended meanwhile,
    /// they begin to be released; their numbers are returned.
    pub fn cancel_move(&mut self, moved: &Move) -> Vec<u64> {
        let ended = self.owners.get(&moved.from).is_none_or(|owner| owner.ended);
        let mut left = Vec::new();
        for (old, _) in &moved.locks {
            let Some(lock) = self.lock_mut(*old) else { continue };
            if ended {
                left.push(*old);
            } else {
                lock.stage = Stage::Held;
            }
        }
        left
    }

    /// Restores that one owner has a lock from another owner, which remembers it.
    pub fn restore_handover(&mut self, from: OwnerId, to: OwnerId, lock: u64) {
        if let Some(owner) = self.owners.get_mut(&from) {
            owner.handed_to = Some(to);
        }
        if let Some(owner) = self.owners.get_mut(&to) {
            owner.received_from.insert(lock, from);
        }
    }
}
