//! Acquisition of locks: the one path of every request, whichever frontend it comes from.
//!
//! 1. The owner's command lock is acquired: its commands run one after the other.
//! 2. Resolve: names that were not looked up yet are looked up, and compared with what the caller
//!    sees.
//! 3. Decide: the table reserves all requested locks, or none. From here on no conflicting request
//!    is granted, under whatever name.
//! 4. Lock: the journal records the begin; the bytes are locked in the kernel, one after the other.
//!    Here foreign holders show.
//! 5. Stash: the descriptors are stashed if a stash outlives the service; the journal records the
//!    locks as held.
//! 6. Commit: the locks are held in the table. If the owner has ended meanwhile, everything is
//!    rolled back.
//! 7. Publish: the lock objects appear on the bus, the caller gets its reply, signals notify
//!    observers.
//!
//! Step 1 and the wait for step 7 are in [`crate::service::wait`], the loop around the attempts.
//! Steps 2 to 6 are [`Acquisition::attempt`]. They run on one worker thread, since a switch of
//! threads costs more than their work.
//!
//! If a step fails, the steps before it are rolled back ([`super::rollback`]). If another holder
//! has a resource and the request may wait, it enters the queue under the same mutex. When it is
//! woken, the loop retries; meanwhile the request holds only `O_PATH` descriptors of the disks. A
//! name that then leads to another disk is looked up again, and the request keeps its place in the
//! queue ([`super::resolution`]). An owner that is opened with its first locks is recorded after
//! step 2, before them, and recorded as held together with them in step 5. If the caller
//! disconnects in between, a request that may wait is rolled back in step 6; any other completes,
//! and the owner has the locks.

use std::sync::Arc;
use std::time::Instant;

use crate::failpoint::failpoint;
use crate::keep::EntryStage;
use crate::lock::acquire::handle::LockHandle;
use crate::lock::acquire::{LockFiles, lock_all};
use crate::lock::disk::in_use::InUse;
use crate::lock::disk::snapshot::Snapshot;
use crate::lock::model::lock::{Proof, Stage};
use crate::lock::request::Asked;
use crate::lock::table::queue::Purpose;
use crate::lock::table::{Again, Reservation};
use crate::lock::{self, Event, Lock, Mode, OwnerId, Want};
use crate::service::components::Components;
use crate::service::core::clock::now;
use crate::service::core::error::Error;
use crate::service::holder::records::HolderRecords;
use crate::service::lock::owner_records::Opened;
use crate::service::lock::request::LockRequest;
use crate::service::lock::resolution::Resolution;
use crate::service::lock::{owner_records, reacquired, request, reservations, rollback};
use crate::service::report::event_log::EventBatch;
use crate::service::state::events::Publication;
use crate::service::state::wait_queue::{Enqueued, WaitState};
use crate::service::wait::name_check::CheckNames;
use crate::service::wait::{AttemptOutcome, Command, Granted, Progress};

/// The maximum number of retries if a name changes to another disk while that is being locked.
const RENEWALS: usize = 4;

/// An acquisition of locks, all or none.
pub(in crate::service) struct Acquisition {
    components: Arc<Components>,
    id: OwnerId,
    resources: Resolution,
    modes: Vec<Mode>,
    /// The index of the first resource for which the owner must hold a lease.
    with_lease: Option<usize>,
    in_use: Vec<InUse>,
    /// Whether a lock that the owner already holds is the answer, or a conflict.
    again: Again,
    purpose: Purpose,
    opened: Option<Opened>,
    /// Whether the owner that is being opened is recorded.
    is_owner_recorded: bool,
    /// When the request started.
    begun: Instant,
}

/// The outcome of step 3.
enum Decision {
    Reserved(Reserved, WaitState),
    Queued(Enqueued),
}

/// The locks that step 3 has reserved.
struct Reserved {
    /// The locks of the request, in its order.
    locks: Vec<u64>,
    /// The new ones among them, each with the index of its resource in the request.
    fresh: Vec<(u64, usize)>,
    /// The numbers of the new ones.
    numbers: Vec<u64>,
    /// The table entries of the new ones.
    entries: Vec<Lock>,
}

impl Command for Acquisition {
    fn owner(&self) -> OwnerId {
        self.id
    }

    fn asks(&self) -> Vec<Asked<'_>> {
        self.resources.asks()
    }

    fn check_names(&self) -> Option<CheckNames> {
        self.resources.check_names()
    }

    /// Performs steps 2 to 6.
    fn attempt(mut self, wait: WaitState) -> AttemptOutcome<Self> {
        let mut progress = self.acquire(wait);
        if let Ok(Progress::Done(_, publication)) = &mut progress
            && self.again == Again::Same
        {
            // No task waits for the log here. Counted requests are logged after the reply.
            publication.log();
        }
        let components = Arc::clone(&self.components);
        AttemptOutcome::of(self, &components.refusals, progress)
    }
}

impl Acquisition {
    pub(in crate::service) fn new(
        components: &Arc<Components>,
        id: OwnerId,
        requests: Vec<LockRequest>,
        again: Again,
    ) -> Self {
        Self {
            components: Arc::clone(components),
            id,
            modes: requests.iter().map(|request| request.mode).collect(),
            with_lease: requests.iter().position(|request| request.with_lease),
            in_use: requests.iter().map(|request| request.in_use).collect(),
            resources: Resolution::new(requests),
            again,
            purpose: Purpose::Acquire,
            opened: None,
            is_owner_recorded: false,
            begun: Instant::now(),
        }
    }

    /// Returns the acquisition for an owner that is being opened, to be recorded from `opened`.
    pub(in crate::service) fn opening(self, opened: Opened) -> Self {
        Self { opened: Some(opened), ..self }
    }

    /// Returns the acquisition for a suspended owner, which it resumes.
    pub(in crate::service) fn resuming(self) -> Self {
        Self { purpose: Purpose::Resume, ..self }
    }

    /// Attempts the acquisition once, without waiting. Call it on a worker thread that holds the
    /// owner's command lock.
    ///
    /// # Errors
    ///
    /// As for [`crate::service::Service::acquire`], except the errors of waiting.
    pub(in crate::service) fn attempt_here(self) -> Result<(Granted, Publication), Error> {
        let components = Arc::clone(&self.components);
        let _permits = components.executor.admit_here(&self.asks())?;
        match self.attempt(WaitState::NoWait) {
            AttemptOutcome::Done(granted, publication) => Ok((granted, publication)),
            AttemptOutcome::Failed(error) => Err(error),
            AttemptOutcome::Queued(..) => Err(Error::Abandoned),
        }
    }

    fn acquire(&mut self, mut wait: WaitState) -> Result<Progress, Error> {
        let components = Arc::clone(&self.components);
        self.resources.resolve(&components)?;
        self.record_owner()?;
        if wait.ticket().is_some() {
            self.renew(&wait)?;
        } else {
            self.resources.prove(&components)?;
        }
        if let ([want], [in_use], Again::Count) = (&*self.wants(), &*self.in_use, self.again)
            && let Some((granted, publication)) =
                reacquired::adopt(&components, self.id, want, *in_use)?
        {
            return Ok(Progress::Done(granted, publication));
        }
        for _ in 0..RENEWALS {
            match self.grant(wait) {
                // The name was changed to another disk after the lookup.
                Err((Error::Lock(lock::Error::Changed(_)), Some(still)))
                    if self.resources.has_names() =>
                {
                    self.renew(&still)?;
                    wait = still;
                }
                outcome => return outcome.map_err(|(error, _)| error),
            }
        }
        self.grant(wait).map_err(|(error, _)| error)
    }

    /// Records the owner that is being opened, once.
    fn record_owner(&mut self) -> Result<(), Error> {
        let not_recorded = self.opened.as_ref().filter(|_| !self.is_owner_recorded);
        if let Some(Opened { owner, records, anchors }) = not_recorded {
            self.components.journal.open(records, owner, anchors)?;
            owner_records::remove_ended_anchors(&self.components, records);
            self.is_owner_recorded = true;
        }
        Ok(())
    }

    /// Looks up names again that lead to other disks by now; a waiter then waits for these disks.
    fn renew(&mut self, wait: &WaitState) -> Result<(), Error> {
        if self.resources.renew(&self.components)?
            && let Some(ticket) = wait.ticket()
        {
            self.components.state().table.want_instead(ticket, &self.wants());
        }
        Ok(())
    }

    fn wants(&self) -> Vec<Want> {
        self.resources
            .goals()
            .iter()
            .zip(&self.modes)
            .map(|(goal, mode)| goal.want(*mode))
            .collect()
    }

    /// Performs steps 3 to 6. An error that allows another attempt returns `wait`.
    fn grant(&mut self, wait: WaitState) -> Result<Progress, (Error, Option<WaitState>)> {
        let components = &self.components;
        // Not the snapshot of the lookup: a loop device may have been changed since.
        let host = Snapshot::default();
        let renewed = components.stacks.renew_for(self.id, self.resources.goals(), &host);
        renewed.map_err(|error| (error, None))?;
        let (reserved, wait) = match self.decide(wait).map_err(|error| (error, None))? {
            Decision::Reserved(reserved, wait) => (reserved, wait),
            Decision::Queued(queued) => return Ok(Progress::Queued(queued)),
        };
        failpoint("grant-reserved");
        let mut held = Vec::new();
        match self.lock_and_commit(&reserved, host, &wait, &mut held) {
            Ok(publication) => {
                failpoint("grant-committed");
                let Reserved { locks, numbers, .. } = reserved;
                components.metrics.granted(numbers.len(), self.begun, wait.ticket().is_some());
                let granted = Granted { locks, fresh: numbers, waited: false };
                Ok(Progress::Done(granted, publication))
            }
            Err(error) => {
                let request = (self.id, &*self.wants(), self.purpose);
                rollback::roll_back(components, request, &reserved.fresh, held, error, wait)
                    .map(Progress::Queued)
            }
        }
    }

    /// Performs step 3.
    fn decide(&self, wait: WaitState) -> Result<Decision, Error> {
        let Self { components, id, again, purpose, .. } = self;
        let wants = self.wants();
        let (id, since) = (*id, now());
        let reserved = {
            let mut state = components.state();
            request::check(&state, components.exempt, id, (&wants, *purpose, self.with_lease))?;
            let reserved = match wait.ticket() {
                Some(ticket) => state.table.reserve_at(ticket, id, &wants, since, *again),
                None => state.table.reserve(id, &wants, since, *again),
            };
            match reserved {
                Err(error) if error.is_held() && wait.may_wait() => {
                    let queued = state.enqueue(
                        &components.state,
                        components.exempt,
                        (id, &wants, *purpose),
                        wait,
                        error,
                    )?;
                    return Ok(Decision::Queued(queued));
                }
                reserved => reserved,
            }
        };
        let reserved = reserved.map_err(|error| {
            components.refusals.with_processes(id, error, &wants, self.resources.goals())
        })?;
        let (stage, proof, owner) = (Stage::Granting, Proof::Verified, id);
        let entry = |(lock, n): &(u64, usize)| {
            Some(Lock { id: *lock, owner, since, stage, proof, want: wants.get(*n)?.clone() })
        };
        let entries = reserved.fresh.iter().filter_map(entry).collect();
        let Reservation { locks, fresh } = reserved;
        let numbers = fresh.iter().map(|(lock, _)| *lock).collect();
        Ok(Decision::Reserved(Reserved { locks, fresh, numbers, entries }, wait))
    }

    /// Performs steps 4 to 6; enters the locked bytes in `held`, also if a later step fails.
    fn lock_and_commit(
        &self,
        reserved: &Reserved,
        host: Snapshot,
        wait: &WaitState,
        held: &mut Vec<Arc<LockHandle>>,
    ) -> Result<Publication, Error> {
        let (components, journal) = (&self.components, &self.components.journal);
        let Reserved { fresh, numbers, entries, .. } = reserved;
        let lock_files = self.lock_files(reserved, wait);
        let mut goals = fresh.iter().filter_map(|(_, n)| self.resources.goals().get(*n));
        goals.try_for_each(|goal| components.lockspace_checks.check_usable(goal))?;
        journal.begin(entries)?;
        let locked = lock_all(lock_files, host);
        held.extend(locked.answers.into_iter().map(Arc::new));
        HolderRecords::log_unwritten(held);
        locked.failure.map_or(Ok(()), Err)?;
        failpoint("grant-locked");
        journal.stash_locks(self.id, numbers, held)?;
        journal.commit(self.opened.as_ref().map(|opened| &opened.records), numbers)?;
        self.commit(numbers, held, wait)
    }

    /// Returns what step 4 locks, in the order of the new locks.
    fn lock_files(&self, reserved: &Reserved, wait: &WaitState) -> Vec<LockFiles> {
        let record_of = self.components.records.record_maker(self.id);
        let non_blocking = self.components.state().is_retry(wait);
        // There is one table entry for each, in this order.
        let new_locks = reserved.fresh.iter().zip(&reserved.entries);
        let lock_files = new_locks.filter_map(|((_, n), entry)| {
            let goal = Arc::clone(self.resources.goals().get(*n)?);
            // A directory that cannot be opened gets no lock file, so no record either.
            let record = record_of(entry, goal.may_be_shared().unwrap_or(false));
            let (mode, in_use) = (*self.modes.get(*n)?, *self.in_use.get(*n)?);
            Some(LockFiles { goal, mode, record, non_blocking, in_use })
        });
        lock_files.collect()
    }

    /// Performs step 6.
    fn commit(
        &self,
        fresh: &[u64],
        held: &[Arc<LockHandle>],
        wait: &WaitState,
    ) -> Result<Publication, Error> {
        let (components, id, opened) = (&self.components, self.id, self.opened.is_some());
        let (pending, remembered, reclaimed, publication) = {
            let mut state = components.state();
            if wait.is_abandoned() {
                return Err(Error::CallerGone);
            }
            let given = state.table.commit(id, fresh)?;
            let reclaimed = state.table.reclaim(id, fresh);
            for (lock, held) in fresh.iter().zip(held) {
                state.held.insert(*lock, Arc::clone(held));
            }
            let opened = opened.then_some(Event::OwnerOpened(id));
            let remembered = match self.purpose {
                Purpose::Resume => state.table.resume(id),
                Purpose::Acquire | Purpose::Upgrade(_) => Vec::new(),
            };
            let resumed = (!remembered.is_empty()).then_some(Event::OwnerChanged(id));
            let events = opened.into_iter().chain(given.iter().cloned()).chain(resumed);
            let (events, awaited) = (events.collect::<Vec<_>>(), self.again == Again::Same);
            let publication = if events.is_empty() && awaited {
                // The owner holds everything already, perhaps by an event not published yet.
                state.events.so_far()
            } else {
                state.events.publish_for(events, awaited)
            };
            (EventBatch::new(state.name_of(id), given), remembered, reclaimed, publication)
        };
        reservations::remove_records(&components.journal, &reclaimed);
        if let Err(error) = components.journal.mark_locks(&remembered, EntryStage::Removed) {
            tracing::error!(%error, "cannot update the records of locks of a resumed owner");
        }
        if !remembered.is_empty() {
            pending.resumed(id, remembered.len());
        }
        Ok(publication.and_log(pending))
    }
}
