//! How locks pass from one owner to another, without being free for an instant.
//!
//! An owner *offers* all that it holds; who knows the token *adopts* it for another owner. The first
//! one remembers what it had, as if it was suspended. Until it is closed, what the other still has
//! of it goes back when that one ends: so a machine that moves is never without its disks, on
//! whatever side it fails.
//!
//! Moving has two halves, as all that changes something: *begin*, and *end* or *cancel*. In
//! between, the lock is the old owner's still, in everybody's way and in nobody's list.

use uuid::Uuid;

use super::Table;
use crate::lock::model::error::Error;
use crate::lock::model::event::{Event, Reason};
use crate::lock::model::lock::{Lock, Stage};
use crate::lock::model::owner::{Offer, Owner, OwnerId};
use crate::lock::text::escape::shown;

/// Locks on their way from one owner to another.
#[derive(Debug, Clone)]
pub struct Move {
    /// Whose they are.
    pub from: OwnerId,
    /// Whose they will be.
    pub to: OwnerId,
    /// Whether the first one is to remember them; else they come back to one who does.
    pub remembered: bool,
    /// The number that each has, and what it will be.
    pub locks: Vec<(u64, Lock)>,
}

impl Table {
    /// Notes an offer.
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

    /// Who offers under this token.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchOffer`].
    pub fn offered(&self, token: Uuid) -> Result<OwnerId, Error> {
        let mut owners = self.owners();
        let offers = |owner: &&Owner| owner.offer.is_some_and(|offer| offer.token == token);
        owners.find(offers).map(|owner| owner.id).ok_or(Error::NoSuchOffer)
    }

    /// Takes an offer back, if it is still the one that is meant. `None`: it is not there.
    pub fn withdraw_offer(&mut self, id: OwnerId, token: Option<Uuid>) -> Option<Offer> {
        let owner = self.owners.get_mut(&id)?;
        let offer = owner.offer?;
        if token.is_some_and(|token| token != offer.token) {
            return None;
        }
        owner.offer.take()
    }

    /// Begins to move what was offered under a token.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchOffer`]; [`Error::OwnOffer`]; [`Error::Suspended`]; [`Error::NoSuchOwner`];
    /// [`Error::NothingToOffer`] where it holds nothing any more; [`Error::HeldTwice`] where the
    /// other one holds one of the resources itself.
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

    /// Begins to give back what an owner, that ends, has from others who remember it.
    pub(super) fn begin_returns(&mut self, id: OwnerId, held: &[u64], since: u64) -> Vec<Move> {
        let Some(owner) = self.owners.get_mut(&id) else { return Vec::new() };
        let came = std::mem::take(&mut owner.came_from);
        let mut moves: Vec<Move> = Vec::new();
        let sources: std::collections::BTreeSet<OwnerId> = came.values().copied().collect();
        for to in sources {
            let remembers = |owner: &Owner| owner.handed_to == Some(id) && owner.is_suspended();
            if !self.living(to).is_ok_and(remembers) {
                continue;
            }
            let back: Vec<u64> =
                held.iter().copied().filter(|lock| came.get(lock) == Some(&to)).collect();
            if back.is_empty() {
                // It keeps what it remembers, and nobody has it.
                if let Some(owner) = self.owners.get_mut(&to) {
                    owner.handed_to = None;
                }
            } else {
                moves.push(self.begin_move(id, to, &back, false, since));
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
            // What one user has shown, another has not.
            moved.want.write_shown &= from.uid == to.uid;
            locks.push((*number, moved));
        }
        Move { from, to, remembered, locks }
    }

    /// Ends a move well. Tells also the numbers of what is remembered no more.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchOwner`] where the other one has ended meanwhile: then it is to be cancelled.
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
                    owner.came_from.insert(lock.id, *from);
                }
            }
            events.push(Event::LockReleased(Box::new(old), Reason::HandedOver));
            self.enter(lock.clone());
            self.note_conflicts(lock.id);
            events.push(Event::LockAcquired(Box::new(lock.clone())));
        }
        if let Some(owner) = self.owners.get_mut(from).filter(|_| *remembered) {
            owner.offer = None;
            owner.handed_to = Some(*to);
        }
        events.extend([Event::OwnerChanged(*from), Event::OwnerChanged(*to)]);
        events.extend(self.sweep(*from));
        Ok((events, forgotten))
    }

    /// Ends a move badly: the locks are the old owner's again. Those of one that has ended
    /// meanwhile are to be given up: they are told, and being released.
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

    /// Notes that one owner has from another what that one remembers.
    pub fn restore_handover(&mut self, from: OwnerId, to: OwnerId, lock: u64) {
        if let Some(owner) = self.owners.get_mut(&from) {
            owner.handed_to = Some(to);
        }
        if let Some(owner) = self.owners.get_mut(&to) {
            owner.came_from.insert(lock, from);
        }
    }
}
