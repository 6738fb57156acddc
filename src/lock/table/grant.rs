//! Granting of locks: a request is reserved first, then committed or cancelled.

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

/// The outcome of a request that the table does not refuse.
#[derive(Debug, PartialEq, Eq)]
pub struct Reservation {
    /// A lock for each resource, in the order of the request.
    pub locks: Vec<u64>,
    /// The locks that are new, with the indexes of their resources in the request. The caller has
    /// to lock their bytes, then to commit or cancel them.
    pub fresh: Vec<(u64, usize)>,
}

/// How a request for a resource that the owner holds already is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// The existing lock is returned if its mode is the same.
    Same,
    /// A shared request gets a further lock, which is released separately; an exclusive request is
    /// refused as another owner's would be. virtlockd does the same (libvirt's
    /// `src/util/virlockspace.c`).
    Count,
}

impl Table {
    /// Reserves all locks of a request, or none.
    ///
    /// # Errors
    ///
    /// [`Error::Held`] with all owners that block the first unavailable resource;
    /// [`Error::TwoModes`], [`Error::OtherMode`] and [`Error::OnlyRecorded`] for a request that
    /// contradicts itself or what the owner holds; [`Error::NoSuchOwner`].
    pub fn reserve(
        &mut self,
        id: OwnerId,
        wants: &[Want],
        since: u64,
        again: Again,
    ) -> Result<Reservation, Error> {
        self.reserve_at(LAST, id, wants, since, again)
    }

    /// Reserves all locks of a queued request, or none. The request keeps its place in the queue;
    /// waiters behind it do not count.
    ///
    /// # Errors
    ///
    /// As for [`Self::reserve`].
    pub fn reserve_at(
        &mut self,
        ticket: Ticket,
        id: OwnerId,
        wants: &[Want],
        since: u64,
        again: Again,
    ) -> Result<Reservation, Error> {
        self.living(id)?;
        if again == Again::Count {
            return self.reserve_counted(id, wants, since);
        }
        let mut plan = Vec::with_capacity(wants.len());
        for (n, want) in wants.iter().enumerate() {
            plan.push(match wants[..n].iter().position(|earlier| earlier.is_same(want)) {
                Some(earlier_index) if wants[earlier_index].mode != want.mode => {
                    return Err(Error::TwoModes(shown(&want.resource)));
                }
                Some(earlier_index) => Planned::SameAs(earlier_index),
                None => match self.own(id, want) {
                    // A lock in any mode already contains what `Mode::None` would record.
                    Some(lock) if want.mode == Mode::None => Planned::Existing(lock.id),
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
                    Some(lock) => Planned::Existing(lock.id),
                    None => Planned::New,
                },
            });
        }
        for (planned, want) in plan.iter().zip(wants) {
            self.refuse_if_held(want, Some(id), |lock| lock.owner != id)?;
            if matches!(planned, Planned::New) && !self.may_reclaim(id, want) {
                self.refuse_if_overtaking(want, id, ticket)?;
            }
        }
        let mut reservation = Reservation { locks: Vec::new(), fresh: Vec::new() };
        for (n, (planned, want)) in plan.into_iter().zip(wants).enumerate() {
            let lock = match planned {
                Planned::Existing(lock) => lock,
                Planned::SameAs(earlier_index) => reservation.locks[earlier_index],
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

    /// Reserves as [`Self::reserve`] does, but the owner's own locks block the request as those of
    /// others do.
    fn reserve_counted(
        &mut self,
        id: OwnerId,
        wants: &[Want],
        since: u64,
    ) -> Result<Reservation, Error> {
        for (n, want) in wants.iter().enumerate() {
            self.refuse_if_held(want, Some(id), |lock| lock.blocks(id, want))?;
            if !self.may_reclaim(id, want) {
                self.refuse_if_overtaking(want, id, LAST)?;
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

    /// Commits a reservation: the bytes are locked.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchOwner`] if the owner has ended meanwhile. Then nothing is committed: the
    /// caller has to unlock the bytes and to cancel the reservation.
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

    /// Cancels a reservation (rollback): the bytes are not locked, or unlocked again.
    pub fn cancel(&mut self, fresh: &[u64]) -> Vec<Event> {
        let owners: BTreeSet<OwnerId> =
            fresh.iter().filter_map(|number| self.delete(*number)).map(|lock| lock.owner).collect();
        owners.into_iter().filter_map(|id| self.remove_if_ended(id)).collect()
    }
}

/// The result for one resource of a request.
enum Planned {
    /// A new lock.
    New,
    /// The lock that the owner has on it already.
    Existing(u64),
    /// The lock of an earlier resource of the request, by its index.
    SameAs(usize),
}
