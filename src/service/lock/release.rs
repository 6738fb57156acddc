//! Release of locks: by command, by force, with the end of their owner.
//!
//! 1. The table removes the lock from the list; it still conflicts with other requests.
//! 2. The release is written to the journal as begun: a restart continues from here.
//! 3. The lock file is removed, the byte unlocked, and its descriptors are closed, the stashed one
//!    too.
//! 4. The record of the lock is removed.
//! 5. The table frees the resource: from here on other owners may lock it. A resource that libvirt
//!    releases while its VM is alive is reserved for this VM first, and recorded as reserved
//!    ([`super::reclaim`]).
//! 6. The events are published, with the reason.
//!
//! Steps 2 to 5 run in one piece on one worker thread.
//!
//! The end of an owner performs the same steps with all of its locks. It does not wait for the
//! command lock: a command in progress notices the end when it commits, and is rolled back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::reclaim;
use crate::failpoint::failpoint;
use crate::keep::EntryStage;
use crate::lock::acquire::handle::{LockHandle, Unlock};
use crate::lock::request::{Asked, Work};
use crate::lock::table::Move;
use crate::lock::{self, Anchor, Front, OwnerId, Reason, Want};
use crate::phrases::NO_PROCESS;
use crate::service::core::state::{Ending, State};
use crate::service::persist::journal::Names;
use crate::service::report::event_log::{self, EventBatch};
use crate::service::{Error, Publication, Service};

impl Service {
    /// Releases locks of one owner, all of them or none.
    ///
    /// `by` is the user of the caller on the bus: the locks of a live owner of another user or
    /// frontend are released only with `force`.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchLock`] for a lock that this owner does not hold, [`Error::NeedsForce`].
    pub async fn release(
        &self,
        id: OwnerId,
        locks: &[u64],
        by: u32,
        force: bool,
    ) -> Result<(), Error> {
        let _turn = self.turn(id).await?;
        let (foreign, held, name) = {
            let mut state = self.state();
            let foreign = by != id.uid || state.table.living(id)?.front != Front::Dbus;
            for number in locks {
                match state.table.lock(*number) {
                    Some(lock) if lock.owner == id => {}
                    _ => return Err(lock::Error::NoSuchLock(*number).into()),
                }
            }
            if foreign && !force {
                self.refuse_to_break(&state, id, locks)?;
            }
            let mut begun = Vec::with_capacity(locks.len());
            for number in locks {
                // A number that appears twice in the request is released at its first occurrence.
                if state.table.begin_release(*number).is_ok() {
                    begun.push((*number, state.held.remove(number)));
                }
            }
            (foreign, begun, state.name_of(id))
        };
        let reason = if foreign { Reason::Forced } else { Reason::Released };
        if foreign {
            self.counts().broken(held.len());
            event_log::broken(id, &name, locks, by);
        }
        self.run_release(ReleaseSteps::of_locks(self, id, held, reason)).await?.wait().await;
        Ok(())
    }

    /// Closes an owner: releases all of its locks, whatever keeps the owner alive.
    ///
    /// For another user's owner, `known` are the locks that the caller is authorized to release: if
    /// the owner has acquired more since the authorization, nothing is done.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchOwner`], [`Error::NeedsForce`] as for [`Self::release`],
    /// [`Error::MoreLocks`].
    pub async fn close(
        &self,
        id: OwnerId,
        known: &BTreeSet<u64>,
        by: u32,
        force: bool,
    ) -> Result<(), Error> {
        let front = self.state().table.living(id)?.front;
        if by == id.uid && front == Front::Dbus {
            return self.end(id, Reason::OwnerClosed, |_| Ok(())).await;
        }
        let mut broken = (String::new(), Vec::new());
        let check = |state: &State| {
            let locks = &state.table.living(id)?.locks;
            broken = (state.name_of(id), locks.iter().copied().collect());
            self.check_taking(state, id, known, by, force)
        };
        self.end(id, Reason::Forced, check).await?;
        let (name, locks) = broken;
        self.counts().broken(locks.len());
        event_log::broken(id, &name, &locks, by);
        Ok(())
    }

    /// Checks that `by` may release all locks of an owner, by the rules of [`Self::close`].
    pub(in crate::service) fn check_taking(
        &self,
        state: &State,
        id: OwnerId,
        known: &BTreeSet<u64>,
        by: u32,
        force: bool,
    ) -> Result<(), Error> {
        let owner = state.table.living(id)?;
        if by == id.uid && owner.front == Front::Dbus {
            return Ok(());
        }
        if by != id.uid && !owner.locks.is_subset(known) {
            return Err(Error::MoreLocks);
        }
        if !force {
            let locks: Vec<u64> = owner.locks.iter().copied().collect();
            self.refuse_to_break(state, id, &locks)?;
        }
        Ok(())
    }

    /// Ends an owner, if `check` passes under the same mutex.
    pub(in crate::service) async fn end(
        &self,
        id: OwnerId,
        reason: Reason,
        check: impl FnOnce(&State) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (story, gone) = self.begin_end(id, reason, check)?;
        self.run_release(story).await?.wait().await;
        gone.wait().await;
        Ok(())
    }

    /// Ends an owner as [`Self::end`] does, on a worker thread; does not wait for the events to be
    /// published.
    pub(in crate::service) fn end_here(
        &self,
        id: OwnerId,
        reason: Reason,
        check: impl FnOnce(&State) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (story, _) = self.begin_end(id, reason, check)?;
        drop(story.perform());
        self.owner_went();
        Ok(())
    }

    fn begin_end(
        &self,
        id: OwnerId,
        reason: Reason,
        check: impl FnOnce(&State) -> Result<(), Error>,
    ) -> Result<(ReleaseSteps, Publication), Error> {
        let (ending, name) = {
            let mut state = self.state();
            check(&state)?;
            let name = state.name_of(id);
            // Forced releases make the resources free: no lock returns to a former owner.
            (state.end(id, reason != Reason::Forced)?, name)
        };
        self.counts().ended();
        event_log::ended(id, &name, ending.held.len(), reason);
        Ok(ReleaseSteps::of_owner(self, ending, reason))
    }

    /// Performs steps 2 to 5, and retries until they are done.
    pub(in crate::service) async fn run_release(
        &self,
        story: ReleaseSteps,
    ) -> Result<Publication, Error> {
        let told = self.storage().run_at_last(story).await?;
        self.owner_went();
        Ok(told)
    }

    /// Removes the records of owners that were removed from the table.
    pub(in crate::service) fn forget(&self, closed: &[Names]) {
        for names in closed {
            match self.keep().forget(names) {
                Ok(true) => self.clean_soon(),
                Ok(false) => {}
                Err(error) => failed(&error, "an owner is gone, but its record is not"),
            }
        }
    }

    /// Returns the targets of these locks.
    fn wants_of(&self, locks: &[(u64, Option<Arc<LockHandle>>)]) -> Vec<Want> {
        let state = self.state();
        locks.iter().filter_map(|(number, _)| state.table.want_of(*number).cloned()).collect()
    }

    fn refuse_to_break(&self, state: &State, id: OwnerId, locks: &[u64]) -> Result<(), Error> {
        let owner = state.table.living(id)?;
        match locks.first() {
            // In the instance of one user, all owners belong to that user, whatever their uid.
            Some(lock) if self.0.exempt != crate::service::Exempt::All => {
                let is_manual = owner.anchors.values().all(|anchor| *anchor == Anchor::Manual);
                let how = if is_manual { NO_PROCESS } else { "is alive" };
                Err(Error::NeedsForce { lock: *lock, name: owner.name.clone(), uid: id.uid, how })
            }
            _ => Ok(()),
        }
    }
}

/// A release: steps 2 to 5.
pub(in crate::service) struct ReleaseSteps {
    service: Service,
    id: OwnerId,
    /// The owner, if it ends.
    ended: Option<Names>,
    /// Owners that were removed from the table already.
    closed: Vec<Names>,
    /// The locks that return to their former owners, after the owner's last command has ended.
    returns: Option<(Vec<Move>, Arc<tokio::sync::Mutex<()>>)>,
    locks: Vec<(u64, Option<Arc<LockHandle>>)>,
    /// The targets of the locks.
    wants: Vec<Want>,
    reason: Reason,
    /// How long the resources are reserved for their owner; `None` for no reservation.
    grace: Option<Duration>,
    /// Whether a caller waits for the events to be published.
    awaited: bool,
}

impl ReleaseSteps {
    pub(in crate::service) fn of_locks(
        service: &Service,
        id: OwnerId,
        locks: Vec<(u64, Option<Arc<LockHandle>>)>,
        reason: Reason,
    ) -> Self {
        let wants = service.wants_of(&locks);
        let service = service.clone();
        let (ended, closed, returns, grace) = (None, Vec::new(), None, None);
        Self { service, id, ended, closed, returns, locks, wants, reason, grace, awaited: true }
    }

    /// Returns the release with a reservation of the resources for their owner.
    pub(in crate::service) fn reserved_for(self, grace: Option<Duration>) -> Self {
        Self { grace, ..self }
    }

    /// Returns the release for which no caller waits.
    pub(in crate::service) fn unawaited(self) -> Self {
        Self { awaited: false, ..self }
    }

    pub(in crate::service) fn of_owner(
        service: &Service,
        ending: Ending,
        reason: Reason,
    ) -> (Self, Publication) {
        let Ending { names, held: locks, returns, turn, closed, shown } = ending;
        let wants = service.wants_of(&locks);
        let (service, id) = (service.clone(), names.owner);
        let ended = Some(names);
        let returns = (!returns.is_empty()).then_some((returns, turn));
        let (grace, awaited) = (None, true);
        (Self { service, id, ended, closed, returns, locks, wants, reason, grace, awaited }, shown)
    }
}

impl Work for ReleaseSteps {
    type Answer = Publication;

    fn asks(&self) -> Vec<Asked<'_>> {
        self.wants.iter().flat_map(Want::asks).collect()
    }

    fn perform(self) -> Publication {
        let mut shown = self.run();
        // Logged here, where no other task waits for it.
        shown.log();
        shown
    }
}

impl ReleaseSteps {
    /// Performs steps 2 to 5. After a failed step the next ones are still tried, since the lock
    /// must go.
    pub(in crate::service) fn run(self) -> Publication {
        let Self { service, id, ended, closed, returns, mut locks, reason, grace, awaited, .. } =
            self;
        let keep = service.keep();
        failpoint("release-decided");
        if let Err(error) = ended.map_or(Ok(()), |names| keep.end(&names)) {
            failed(&error, "an owner ends, though a restart would not know of it");
        }
        if let Some((returns, turn)) = returns {
            locks.extend(service.return_all(&returns, &turn));
        }
        let numbers: Vec<u64> = locks.iter().map(|(number, _)| *number).collect();
        // A suspended lock is recorded as suspended from the first step.
        let (begun, done) = match reason {
            Reason::Suspended => (EntryStage::Suspended, EntryStage::Suspended),
            Reason::Released if grace.is_some() => (EntryStage::Releasing, EntryStage::Reserved),
            _ => (EntryStage::Releasing, EntryStage::Removed),
        };
        if let Err(error) = keep.mark_locks(&numbers, begun) {
            failed(&error, "cannot record that locks are being released");
        }
        failpoint("release-noted");
        for failure in service.unlock_all(id, locks) {
            tracing::error!(%failure, "cannot release all of a lock");
        }
        if let Err(error) = keep.mark_locks(&numbers, done) {
            failed(&error, "cannot record that locks are released");
        }
        failpoint("release-forgotten");
        let reserves = grace.filter(|_| done == EntryStage::Reserved).map(reclaim::end_of);
        let (pending, closed_now, told, reserved) = {
            let mut state = service.state();
            let name = state.name_of(id);
            let (events, reserved) = match reserves {
                Some(until) => state.finish_release_reserved(&numbers, until),
                None => (state.table.finish_release(&numbers, reason), Vec::new()),
            };
            let closed = state.closed(&events);
            let told = state.publish_for(events.clone(), awaited);
            service.counts().released(&events);
            (EventBatch::new(name, events), closed, told, reserved)
        };
        if reserves.is_some() {
            // Resources of an owner that ended meanwhile are free.
            let free = numbers.iter().copied().filter(|number| !reserved.contains(number));
            service.mark_reservations_gone(&free.collect::<Vec<_>>());
            service.reservation_begun(reserves);
        }
        service.forget(&closed);
        service.forget(&closed_now);
        failpoint("release-done");
        told.and_say(pending)
    }
}

impl Service {
    /// Returns locks to their former owners; yields the locks that cannot return, to be released.
    fn return_all(
        &self,
        returns: &[Move],
        turn: &tokio::sync::Mutex<()>,
    ) -> Vec<(u64, Option<Arc<LockHandle>>)> {
        // A lock whose conversion is in progress must not move in another mode than it is in.
        let _turn = turn.blocking_lock();
        let mut left = Vec::new();
        for moved in returns {
            match self.carry(moved) {
                Ok(shown) => drop(shown),
                Err((error, numbers)) => {
                    failed(&error, "locks do not go back to where they came from");
                    let mut state = self.state();
                    left.extend(numbers.into_iter().map(|lock| (lock, state.held.remove(&lock))));
                }
            }
        }
        left
    }

    /// Unlocks, and closes the last descriptors; returns the failures. Call it on a worker thread.
    pub(in crate::service) fn unlock_all(
        &self,
        owner: OwnerId,
        locks: Vec<(u64, Option<Arc<LockHandle>>)>,
    ) -> Vec<lock::Error> {
        let mut failures = Vec::new();
        for (number, held) in locks {
            let Some(held) = held else { continue };
            failures.extend(Unlock(Arc::clone(&held)).perform());
            failpoint("release-unlocked");
            if self.keep().unpark(owner, number, &held) {
                self.clean_soon();
            }
            failpoint("release-unparked");
        }
        failures
    }
}

fn failed(error: &Error, what: &'static str) {
    tracing::error!(%error, "{what}");
}
