//! Acquisition of locks.
//!
//! 1. The owner's command lock is acquired.
//! 2. Names that were not looked up yet are looked up.
//! 3. The table decides: all requested locks are reserved, or none. From here on no conflicting
//!    request is granted, under whatever name.
//! 4. The decision is written to the journal as begun.
//! 5. The bytes are locked in the kernel, one after the other. Here foreign holders show.
//! 6. Their descriptors are stashed if a stash outlives the service; the locks are written as held.
//! 7. The table commits. If the owner has ended meanwhile, everything is rolled back.
//! 8. The events are published, and the lock objects appear on the bus.
//! 9. The caller gets its reply.
//!
//! If a step fails, the steps before it are rolled back ([`super::rollback`]). If another holder
//! has a resource and the request may wait, it enters the queue under the same mutex, and retries
//! from step 3 when it is woken ([`crate::service::wait`]); meanwhile it holds only `O_PATH`
//! descriptors of the disks. A name that then leads to another disk is looked up again, and the
//! request keeps its place in the queue ([`crate::service::wait::name_recheck`]). An owner that is
//! opened with its first locks is written before them, and written as held together with them.
//!
//! Steps 2 to 7 run on one worker thread, since a switch of threads costs more than their work. If
//! the caller disconnects in between, the run still completes, and the owner has the locks.

use std::sync::Arc;
use std::time::Instant;

use crate::failpoint::failpoint;
use crate::keep::EntryStage;
use crate::lock::acquire::handle::LockHandle;
use crate::lock::acquire::{Goal, LockFiles, lock_all};
use crate::lock::disk::in_use::InUse;
use crate::lock::disk::snapshot::Snapshot;
use crate::lock::model::lock::{Proof, Stage};
use crate::lock::model::owner::AnchorId;
use crate::lock::request::Asked;
use crate::lock::table::queue::Purpose;
use crate::lock::table::{Again, Reservation};
use crate::lock::{self, Event, Lock, Mode, Owner, OwnerId, Want};
use crate::service::core::limits::{Usage, within};
use crate::service::lock::request::LockRequest;
use crate::service::persist::journal::{Anchored, Names};
use crate::service::report::event_log::EventBatch;
use crate::service::wait::name_recheck::{CheckNames, Lookups};
use crate::service::wait::ticket::{Entry, Queued};
use crate::service::wait::{Attempt, Granted, Outcome, Wait};
use crate::service::{Error, Publication, Service, now};

/// The maximum number of retries if a name changes to another disk while that is being locked.
const RENEWALS: usize = 4;

/// The outcome of step 3.
enum Decision {
    Reserved(Reserved, Entry),
    Queued(Queued),
}

/// The locks that step 3 has reserved.
struct Reserved {
    /// The locks of the request, in its order.
    locks: Vec<u64>,
    /// The new ones among them, each with the index of its resource in the request.
    fresh: Vec<(u64, usize)>,
    /// The table entries of the new locks.
    records: Vec<Lock>,
}

impl Service {
    /// Acquires all requested locks for an owner, or none. The answer has the order of the request,
    /// with the existing lock for a resource that the owner already holds in the same mode.
    ///
    /// # Errors
    ///
    /// [`Error::Held`] and [`Error::HeldElsewhere`] with a sentence that names the holder; if the
    /// request may wait, [`Error::TimedOut`], [`Error::Cancelled`], [`Error::CallerGone`];
    /// [`Error::Limit`], and the errors in [`crate::lock::Error`].
    pub async fn acquire(
        &self,
        id: OwnerId,
        asks: Vec<LockRequest>,
        wait: Option<Wait>,
    ) -> Result<Granted, Error> {
        let request = Request::new(self, id, asks, Again::Same);
        let turn = self.turn(id).await?;
        self.persist(request, Some(turn), wait).await
    }

    /// Performs the acquisition from step 2, without waiting. Call it on a worker thread that holds
    /// the owner's command lock.
    pub(in crate::service) fn acquire_here(
        &self,
        id: OwnerId,
        asks: Vec<LockRequest>,
        again: Again,
    ) -> Result<(Granted, Publication), Error> {
        let request = Request::new(self, id, asks, again);
        let _passes = self.storage().admit_here(&request.asks())?;
        match request.attempt(Entry::Once) {
            Outcome::Done(granted, shown) => Ok((granted, shown)),
            Outcome::Failed(error) => Err(error),
            Outcome::Queued(..) => Err(Error::Abandoned),
        }
    }

    /// Performs step 3.
    fn decide(&self, request: &Request, entry: Entry) -> Result<Decision, Error> {
        let Request { id, goals, modes, again, purpose, .. } = request;
        let wants: Vec<Want> =
            goals.iter().zip(modes).map(|(goal, mode)| goal.want(*mode)).collect();
        let (id, since) = (*id, now());
        let reserved = {
            let mut state = self.state();
            state.check_open()?;
            state.check_total(self.0.exempt, id.uid, wants.len())?;
            if *purpose != Purpose::Resume {
                // Suspended locks are counted already.
                state.table.check_running(id)?;
                state.check_lockspaces(&wants)?;
                if let Some(disk) = request.with_lease {
                    state.check_lease(id, &wants, disk)?;
                }
                let limit = state.settings.limits.resources_per_call;
                within("resources", wants.len(), limit, || "in one call".to_owned())?;
                let more = |usage: &mut Usage| usage.count_locks(wants.len());
                state.check_quota(self.0.exempt, id.uid, more)?;
            }
            let reserved = match entry.ticket() {
                Some(ticket) => state.table.reserve_at(ticket, id, &wants, since, *again),
                None => state.table.reserve(id, &wants, since, *again),
            };
            match reserved {
                Err(error) if error.is_held() && entry.may_wait() => {
                    let queued = state.queue(self, id, &wants, *purpose, entry, error)?;
                    return Ok(Decision::Queued(queued));
                }
                reserved => reserved,
            }
        };
        let reserved = reserved.map_err(|error| self.with_users(id, error, &wants, goals))?;
        let (stage, proof, owner) = (Stage::Granting, Proof::Verified, id);
        let record = |(lock, n): &(u64, usize)| {
            Some(Lock { id: *lock, owner, since, stage, proof, want: wants.get(*n)?.clone() })
        };
        let records = reserved.fresh.iter().filter_map(record).collect();
        let Reservation { locks, fresh } = reserved;
        Ok(Decision::Reserved(Reserved { locks, fresh, records }, entry))
    }

    /// Performs step 7.
    fn commit(
        &self,
        request: &Request,
        fresh: &[u64],
        held: &[Arc<LockHandle>],
        entry: &Entry,
    ) -> Result<Publication, Error> {
        let (id, opened) = (request.id, request.opened.is_some());
        let (pending, remembered, reclaimed, shown) = {
            let mut state = self.state();
            if entry.is_abandoned() {
                return Err(Error::CallerGone);
            }
            let given = state.table.commit(id, fresh)?;
            let reclaimed = state.table.reclaim(id, fresh);
            for (lock, held) in fresh.iter().zip(held) {
                state.held.insert(*lock, Arc::clone(held));
            }
            let opened = opened.then_some(Event::OwnerOpened(id));
            let remembered = match request.purpose {
                Purpose::Resume => state.table.resume(id),
                Purpose::Acquire | Purpose::Upgrade(_) => Vec::new(),
            };
            let resumed = (!remembered.is_empty()).then_some(Event::OwnerChanged(id));
            let events = opened.into_iter().chain(given.iter().cloned()).chain(resumed);
            let (events, awaited) = (events.collect::<Vec<_>>(), request.again == Again::Same);
            let shown = if events.is_empty() && awaited {
                // The owner holds everything already, perhaps by an event not published yet.
                state.so_far()
            } else {
                state.publish_for(events, awaited)
            };
            (EventBatch::new(state.name_of(id), given), remembered, reclaimed, shown)
        };
        self.mark_reservations_gone(&reclaimed);
        if let Err(error) = self.keep().mark_locks(&remembered, EntryStage::Removed) {
            tracing::error!(%error, "cannot update the records of locks of a resumed owner");
        }
        if !remembered.is_empty() {
            pending.resumed(id, remembered.len());
        }
        Ok(shown.and_say(pending))
    }
}

/// An owner that is being opened, with its records.
pub(in crate::service) struct Opened {
    pub(in crate::service) owner: Owner,
    pub(in crate::service) names: Names,
    pub(in crate::service) anchors: Vec<(AnchorId, Anchored)>,
}

/// An acquisition: steps 2 to 7.
pub(in crate::service) struct Request {
    pub(in crate::service) service: Service,
    pub(in crate::service) id: OwnerId,
    /// The requested resources that are not looked up yet.
    asks: Vec<LockRequest>,
    goals: Vec<Arc<Goal>>,
    lookups: Lookups,
    modes: Vec<Mode>,
    /// The index of the first resource for which the owner must hold a lease.
    with_lease: Option<usize>,
    pub(in crate::service) in_use: Vec<InUse>,
    pub(in crate::service) again: Again,
    pub(super) purpose: Purpose,
    opened: Option<Opened>,
    /// Whether the owner that is being opened is recorded.
    noted: bool,
    /// When the request started.
    begun: Instant,
}

/// The outcome of steps 2 to 7.
enum Progress {
    Through(Granted, Publication),
    Queued(Queued),
}

impl Attempt for Request {
    fn owner(&self) -> OwnerId {
        self.id
    }

    fn asks(&self) -> Vec<Asked<'_>> {
        let found = self.goals.iter().flat_map(|goal| goal.asks());
        let found = found.chain(self.lookups.asks());
        self.asks.iter().flat_map(|ask| ask.disk.asks()).chain(found).collect()
    }

    fn check_names(&self) -> Option<CheckNames> {
        self.lookups.check(&self.goals)
    }

    fn attempt(mut self, entry: Entry) -> Outcome<Self> {
        match self.decide_and_lock(entry) {
            Ok(Progress::Through(granted, mut shown)) => {
                if self.again == Again::Same {
                    // No task waits for the log here. Counted requests are logged after the reply.
                    shown.log();
                }
                Outcome::Done(granted, shown)
            }
            Ok(Progress::Queued(Queued { place, because })) => {
                if let Some(because) = because {
                    self.service.describe_wait(self.id, place.ticket, because);
                }
                Outcome::Queued(self, place)
            }
            Err(error) => Outcome::Failed(self.service.describe(self.id, error)),
        }
    }
}

impl Request {
    pub(in crate::service) fn new(
        service: &Service,
        id: OwnerId,
        asks: Vec<LockRequest>,
        again: Again,
    ) -> Self {
        Self {
            service: service.clone(),
            id,
            modes: asks.iter().map(|ask| ask.mode).collect(),
            with_lease: asks.iter().position(|ask| ask.with_lease),
            in_use: asks.iter().map(|ask| ask.in_use).collect(),
            asks,
            goals: Vec::new(),
            lookups: Lookups::default(),
            again,
            purpose: Purpose::Acquire,
            opened: None,
            noted: false,
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

    pub(in crate::service) fn wants(&self) -> Vec<Want> {
        self.goals.iter().zip(&self.modes).map(|(goal, mode)| goal.want(*mode)).collect()
    }

    fn decide_and_lock(&mut self, mut entry: Entry) -> Result<Progress, Error> {
        let service = self.service.clone();
        let mut host = Snapshot::default();
        for ask in std::mem::take(&mut self.asks) {
            let named = self.lookups.push(&ask);
            host.refresh();
            let goal = ask.disk.find(&service, &host);
            let goal = goal.map_err(|error| service.explain_missing(named, error))?;
            self.goals.push(Arc::new(goal));
        }
        if let Some(Opened { owner, names, anchors }) = self.opened.as_ref().filter(|_| !self.noted)
        {
            service.keep().open(names, owner, anchors)?;
            service.forget_ended(names);
            self.noted = true;
        }
        if entry.ticket().is_some() {
            self.renew(&entry)?;
        } else {
            self.lookups.prove(&service, &mut self.goals)?;
        }
        if let Some((granted, shown)) = self.adopt()? {
            return Ok(Progress::Through(granted, shown));
        }
        for _ in 0..RENEWALS {
            match self.grant(entry) {
                // The name was changed to another disk after the lookup.
                Err((Error::Lock(lock::Error::Changed(_)), Some(kept)))
                    if !self.lookups.is_empty() =>
                {
                    self.renew(&kept)?;
                    entry = kept;
                }
                outcome => return outcome.map_err(|(error, _)| error),
            }
        }
        self.grant(entry).map_err(|(error, _)| error)
    }

    /// Looks up names again that lead to other disks by now; a waiter then waits for these disks.
    fn renew(&mut self, entry: &Entry) -> Result<(), Error> {
        if self.lookups.renew(&self.service, &mut self.goals)?
            && let Some(ticket) = entry.ticket()
        {
            self.service.state().table.want_instead(ticket, &self.wants());
        }
        Ok(())
    }

    /// Performs steps 3 to 7. An error returns the ticket if the request is still in the queue.
    fn grant(&mut self, entry: Entry) -> Result<Progress, (Error, Option<Entry>)> {
        let service = self.service.clone();
        // Not the snapshot of the lookup: a loop device may have been changed since.
        let host = Snapshot::default();
        let renewed = service.renew_stacks_for(self.id, &self.goals, &host);
        renewed.map_err(|error| (error, None))?;
        let (reserved, entry) = match service.decide(self, entry).map_err(|error| (error, None))? {
            Decision::Reserved(reserved, entry) => (reserved, entry),
            Decision::Queued(queued) => return Ok(Progress::Queued(queued)),
        };
        let Reserved { locks, fresh, records } = reserved;
        failpoint("grant-reserved");
        let numbers: Vec<u64> = fresh.iter().map(|(lock, _)| *lock).collect();
        let sign = service.signer(self.id);
        let non_blocking = service.is_trying_again(&entry);
        // There is one table entry for each, in this order.
        let takes = fresh.iter().zip(&records).filter_map(|((_, n), record)| {
            let goal = Arc::clone(self.goals.get(*n)?);
            let signature = sign(record);
            let (mode, in_use) = (*self.modes.get(*n)?, *self.in_use.get(*n)?);
            Some(LockFiles { goal, mode, record: signature, non_blocking, in_use })
        });
        let takes = takes.collect();
        let mut held = Vec::new();
        let given = (|| {
            let mut goals = fresh.iter().filter_map(|(_, n)| self.goals.get(*n));
            goals.try_for_each(|goal| service.check_fit(goal))?;
            service.keep().begin(&records)?;
            let done = lock_all(takes, host);
            held.extend(done.answers.into_iter().map(Arc::new));
            Service::log_unwritten_records(&held);
            done.failure.map_or(Ok(()), Err)?;
            failpoint("grant-locked");
            service.keep().park(self.id, &numbers, &held)?;
            let names = self.opened.as_ref().map(|opened| &opened.names);
            service.keep().commit(names, &numbers)?;
            service.commit(self, &numbers, &held, &entry)
        })();
        match given {
            Ok(shown) => {
                failpoint("grant-committed");
                service.counts().granted(numbers.len(), self.begun, entry.ticket().is_some());
                let granted = Granted { locks, fresh: numbers, waited: false };
                Ok(Progress::Through(granted, shown))
            }
            Err(error) => service.undo(self, &fresh, held, error, entry).map(Progress::Queued),
        }
    }
}
