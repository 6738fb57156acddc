//! Giving locks: a request is decided on, and then comes true or does not.

use std::collections::BTreeSet;

use super::Table;
use super::wait::LAST;
use crate::lock::model::error::Error;
use crate::lock::model::event::Event;
use crate::lock::model::lock::{Stage, Want};
use crate::lock::model::mode::Mode;
use crate::lock::model::owner::OwnerId;
use crate::lock::table::queue::Ticket;
use crate::lock::text::escape::shown;

/// What was decided on a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Reservation {
    /// A lock for each resource, in the order of the request.
    pub locks: Vec<u64>,
    /// Those of them that are new, with the place of their resource in the request: to be taken
    /// now, then committed or cancelled.
    pub fresh: Vec<(u64, usize)>,
}

/// What becomes of a request for what the owner holds already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It is answered with the lock that is there, if the mode is the same.
    Same,
    /// A shared one gets a further lock, released by itself; an exclusive one is refused, as
    /// another owner's would be. So does virtlockd (libvirt's `src/util/virlockspace.c`).
    Count,
}

impl Table {
    /// Decides on a request: all of it or nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Held`] with everyone in the way of the first resource that can't be given;
    /// [`Error::TwoModes`], [`Error::OtherMode`] and [`Error::OnlyRecorded`] for requests that disagree with themselves or
    /// with what the owner holds; [`Error::NoSuchOwner`].
    pub fn reserve(
        &mut self,
        id: OwnerId,
        wants: &[Want],
        since: u64,
        again: Again,
    ) -> Result<Reservation, Error> {
        self.reserve_at(LAST, id, wants, since, again)
    }

    /// The same for one who has a place in the queue, and keeps it: those behind him don't count.
    ///
    /// # Errors
    ///
    /// As for [`Self::reserve`].
    pub fn reserve_at(
        &mut self,
        place: Ticket,
        id: OwnerId,
        wants: &[Want],
        since: u64,
        again: Again,
    ) -> Result<Reservation, Error> {
        self.living(id)?;
        if again == Again::Count {
            return self.reserve_once_more(id, wants, since);
        }
        let mut plan = Vec::with_capacity(wants.len());
        for (n, want) in wants.iter().enumerate() {
            plan.push(match wants[..n].iter().position(|earlier| earlier.is_same(want)) {
                Some(twin) if wants[twin].mode != want.mode => {
                    return Err(Error::TwoModes(shown(&want.resource)));
                }
                Some(twin) => Planned::LikeNumber(twin),
                None => match self.own(id, want) {
                    // Who has it in whatever mode needs no record besides.
                    Some(lock) if want.mode == Mode::None => Planned::There(lock.id),
                    Some(lock) if lock.want.mode == Mode::None => {
                        return Err(Error::OnlyRecorded {
                            resource: shown(&want.resource),
                            lock: lock.id,
                        });
                    }
                    Some(lock) if lock.want.mode != want.mode => {
                        let resource = shown(&want.resource);
                        return Err(Error::OtherMode {
                            resource,
                            held: lock.want.mode,
                            lock: lock.id,
                        });
                    }
                    Some(lock) => Planned::There(lock.id),
                    None => Planned::New,
                },
            });
        }
        for (planned, want) in plan.iter().zip(wants) {
            self.refuse_if_held(want, Some(id), |lock| lock.owner != id)?;
            if matches!(planned, Planned::New) && !self.may_reclaim(id, want) {
                self.refuse_if_claimed(want, id, place)?;
            }
        }
        let mut reservation = Reservation { locks: Vec::new(), fresh: Vec::new() };
        for (n, (planned, want)) in plan.into_iter().zip(wants).enumerate() {
            let lock = match planned {
                Planned::There(lock) => lock,
                Planned::LikeNumber(twin) => reservation.locks[twin],
                Planned::New => {
                    let lock = self.insert(id, want.clone(), since);
                    reservation.fresh.push((lock, n));
                    lock
                }
            };
            reservation.locks.push(lock);
        }
        Ok(reservation)
    }

    /// As [`Self::reserve`], where the owner's own locks are in its way as others' are.
    fn reserve_once_more(
        &mut self,
        id: OwnerId,
        wants: &[Want],
        since: u64,
    ) -> Result<Reservation, Error> {
        for (n, want) in wants.iter().enumerate() {
            self.refuse_if_held(want, Some(id), |lock| lock.hinders(id, want))?;
            if !self.may_reclaim(id, want) {
                self.refuse_if_claimed(want, id, LAST)?;
            }
            if wants[..n].iter().any(|earlier| earlier.is_same(want)) {
                return Err(Error::TwoModes(shown(&want.resource)));
            }
        }
        let locks: Vec<u64> =
            wants.iter().map(|want| self.insert(id, want.clone(), since)).collect();
        let fresh = locks.iter().copied().zip(0..).collect();
        Ok(Reservation { locks, fresh })
    }

    /// Ends a reservation well: the bytes are taken.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchOwner`] if the owner ended meanwhile; then nothing is committed, the bytes
    /// are to be given back and the reservation to be cancelled.
    pub fn commit(&mut self, id: OwnerId, fresh: &[u64]) -> Result<Vec<Event>, Error> {
        self.living(id)?;
        if let Some(owner) = self.owners.get_mut(&id) {
            owner.opened = true;
        }
        let mut events = Vec::with_capacity(fresh.len());
        for number in fresh {
            if let Some(lock) = self.lock_mut(*number) {
                lock.stage = Stage::Held;
                events.push(Event::LockAcquired(Box::new(lock.clone())));
            }
        }
        Ok(events)
    }

    /// Ends a reservation badly: the bytes are not taken, or given back.
    pub fn cancel(&mut self, fresh: &[u64]) -> Vec<Event> {
        let owners: BTreeSet<OwnerId> =
            fresh.iter().filter_map(|number| self.delete(*number)).map(|lock| lock.owner).collect();
        owners.into_iter().filter_map(|id| self.sweep(id)).collect()
    }
}

/// What becomes of one resource of a request.
enum Planned {
    /// A new lock.
    New,
    /// The owner has it already.
    There(u64),
    /// The same as an earlier one of the request.
    LikeNumber(usize),
}
