//! How locks end: by command, by force, with their owner.
//!
//! 1. The table takes the lock off the list, but keeps it in the way of others.
//! 2. It is noted as being released: a restart goes on from here.
//! 3. Its lock file is removed, its byte unlocked, its descriptors closed, the parked one too.
//! 4. It is noted as gone.
//! 5. The table forgets it: from here on others may have it. What libvirt releases while its VM
//!    lives is reserved for this VM first, and noted as that ([`super::reclaim`]).
//! 6. The world is told, with the reason.
//!
//! Steps 2 to 5 are one story on one storage thread.
//!
//! An owner that ends takes the same steps with all it holds. It does not wait for its turn: a
//! command that is under way finds out at its commit, and gives back what it took.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::reclaim;
use crate::failpoint::failpoint;
use crate::keep::line::Step;
use crate::lock::acquire::handle::{Give, Held};
use crate::lock::request::{Asked, Work};
use crate::lock::table::Move;
use crate::lock::{self, Anchor, Front, OwnerId, Reason, Want};
use crate::service::core::state::{Ending, State};
use crate::service::persist::journal::Names;
use crate::service::report::event_log::{self, Unsaid};
use crate::service::{Error, Service, Shown};

impl Service {
    /// Releases locks of one owner, all of them or none.
    ///
    /// `by` is who asks, over the bus: what a living owner of another user or front holds is broken
    /// only with `force`.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchLock`] for one that this owner does not hold, [`Error::NeedsForce`].
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
                // A number that stands twice in the request is released by its first.
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
        self.give_up(Story::of_locks(self, id, held, reason)).await?.wait().await;
        Ok(())
    }

    /// Closes an owner: whatever it holds is released, whatever keeps it alive.
    ///
    /// For another user's owner, `known` are the locks that the caller may break: had the owner
    /// got more since he was asked, nothing is done.
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

    /// Whether somebody may take all that an owner holds away from it: as for [`Self::close`].
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

    /// Ends an owner, if `check` agrees at that very moment.
    pub(in crate::service) async fn end(
        &self,
        id: OwnerId,
        reason: Reason,
        check: impl FnOnce(&State) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (story, gone) = self.begin_end(id, reason, check)?;
        self.give_up(story).await?.wait().await;
        gone.wait().await;
        Ok(())
    }

    /// The same, for a storage thread; nobody waits for it to be seen.
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
    ) -> Result<(Story, Shown), Error> {
        let (ending, name) = {
            let mut state = self.state();
            check(&state)?;
            let name = state.name_of(id);
            // What was broken by force is to be free.
            (state.end(id, reason != Reason::Forced)?, name)
        };
        self.counts().ended();
        event_log::ended(id, &name, ending.held.len(), reason);
        Ok(Story::of_owner(self, ending, reason))
    }

    /// Steps 2 to 5.
    pub(in crate::service) async fn give_up(&self, story: Story) -> Result<Shown, Error> {
        let told = self.storage().run_at_last(story).await?;
        self.owner_went();
        Ok(told)
    }

    /// Keeps owners no more that are gone from the table.
    pub(in crate::service) fn forget(&self, closed: &[Names]) {
        for names in closed {
            match self.keep().forget(names) {
                Ok(true) => self.clean_soon(),
                Ok(false) => {}
                Err(error) => failed(&error, "an owner is gone, but its record is not"),
            }
        }
    }

    /// What these locks are on.
    fn wants_of(&self, locks: &[(u64, Option<Arc<Held>>)]) -> Vec<Want> {
        let state = self.state();
        locks.iter().filter_map(|(number, _)| state.table.want_of(*number).cloned()).collect()
    }

    fn refuse_to_break(&self, state: &State, id: OwnerId, locks: &[u64]) -> Result<(), Error> {
        let owner = state.table.living(id)?;
        match locks.first() {
            // The instance of one user, whatever uid he calls himself, is all his.
            Some(lock) if self.0.exempt != crate::service::Exempt::Everybody => {
                let is_manual = owner.anchors.values().all(|anchor| *anchor == Anchor::Manual);
                let how = if is_manual { "no process keeps alive" } else { "is alive" };
                Err(Error::NeedsForce { lock: *lock, name: owner.name.clone(), uid: id.uid, how })
            }
            _ => Ok(()),
        }
    }
}

/// Steps 2 to 5.
pub(in crate::service) struct Story {
    service: Service,
    id: OwnerId,
    /// The owner, where it ends.
    ended: Option<Names>,
    /// Gone from the table already.
    closed: Vec<Names>,
    /// What goes back to others, once the owner's last command is through.
    returns: Option<(Vec<Move>, Arc<tokio::sync::Mutex<()>>)>,
    locks: Vec<(u64, Option<Arc<Held>>)>,
    /// What they are on.
    wants: Vec<Want>,
    reason: Reason,
    /// How long the locks are reserved for their owner; `None`: not at all.
    grace: Option<Duration>,
    /// Whether somebody waits for it to be seen.
    awaited: bool,
}

impl Story {
    pub(in crate::service) fn of_locks(
        service: &Service,
        id: OwnerId,
        locks: Vec<(u64, Option<Arc<Held>>)>,
        reason: Reason,
    ) -> Self {
        let wants = service.wants_of(&locks);
        let service = service.clone();
        let (ended, closed, returns, grace) = (None, Vec::new(), None, None);
        Self { service, id, ended, closed, returns, locks, wants, reason, grace, awaited: true }
    }

    /// The same, where the locks are reserved for their owner after the release.
    pub(in crate::service) fn reserved_for(self, grace: Option<Duration>) -> Self {
        Self { grace, ..self }
    }

    /// The same, for whom nobody waits.
    pub(in crate::service) fn unawaited(self) -> Self {
        Self { awaited: false, ..self }
    }

    pub(in crate::service) fn of_owner(
        service: &Service,
        ending: Ending,
        reason: Reason,
    ) -> (Self, Shown) {
        let Ending { names, held: locks, returns, turn, closed, shown } = ending;
        let wants = service.wants_of(&locks);
        let (service, id) = (service.clone(), names.owner);
        let ended = Some(names);
        let returns = (!returns.is_empty()).then_some((returns, turn));
        let (grace, awaited) = (None, true);
        (Self { service, id, ended, closed, returns, locks, wants, reason, grace, awaited }, shown)
    }
}

impl Work for Story {
    type Answer = Shown;

    fn asks(&self) -> Vec<Asked<'_>> {
        self.wants.iter().flat_map(Want::asks).collect()
    }

    fn perform(self) -> Shown {
        let mut shown = self.tell();
        // Here, where nobody else waits for it.
        shown.say();
        shown
    }
}

impl Story {
    /// A step that fails does not keep the next from being tried: whoever releases wants it gone.
    pub(in crate::service) fn tell(self) -> Shown {
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
        // What is remembered is noted so from the first.
        let (begun, done) = match reason {
            Reason::Suspended => (Step::Suspended, Step::Suspended),
            Reason::Released if grace.is_some() => (Step::Releasing, Step::Reserved),
            _ => (Step::Releasing, Step::Gone),
        };
        if let Err(error) = keep.mark_locks(&numbers, begun) {
            failed(&error, "cannot record that locks are being released");
        }
        failpoint("release-noted");
        for failure in service.give(id, locks) {
            tracing::error!(%failure, "cannot release all of a lock");
        }
        if let Err(error) = keep.mark_locks(&numbers, done) {
            failed(&error, "cannot record that locks are released");
        }
        failpoint("release-forgotten");
        let reserves = grace.filter(|_| done == Step::Reserved).map(reclaim::end_of);
        let (unsaid, closed_now, told, reserved) = {
            let mut state = service.state();
            let name = state.name_of(id);
            let (events, reserved) = match reserves {
                Some(until) => state.finish_release_reserved(&numbers, until),
                None => (state.table.finish_release(&numbers, reason), Vec::new()),
            };
            let closed = state.closed(&events);
            let told = state.publish_for(events.clone(), awaited);
            service.counts().released(&events);
            (Unsaid::new(name, events), closed, told, reserved)
        };
        if reserves.is_some() {
            // Those of an owner that ended meanwhile are free.
            let free = numbers.iter().copied().filter(|number| !reserved.contains(number));
            service.mark_reservations_gone(&free.collect::<Vec<_>>());
            service.reservation_begun(reserves);
        }
        service.forget(&closed);
        service.forget(&closed_now);
        failpoint("release-done");
        told.and_say(unsaid)
    }
}

impl Service {
    /// Gives back what goes back to others; what can't is told, to be released.
    fn return_all(
        &self,
        returns: &[Move],
        turn: &tokio::sync::Mutex<()>,
    ) -> Vec<(u64, Option<Arc<Held>>)> {
        // A lock that is just being converted is not to be handed on in another mode than it is in.
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

    /// Unlocks, and closes the last descriptors. For a storage thread. Tells what failed of it.
    pub(in crate::service) fn give(
        &self,
        owner: OwnerId,
        locks: Vec<(u64, Option<Arc<Held>>)>,
    ) -> Vec<lock::Error> {
        let mut failures = Vec::new();
        for (number, held) in locks {
            let Some(held) = held else { continue };
            failures.extend(Give(Arc::clone(&held)).perform());
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
