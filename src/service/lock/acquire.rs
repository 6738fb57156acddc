//! How locks are given.
//!
//! 1. The owner's turn is taken.
//! 2. What is not found yet is found.
//! 3. The table decides: everything asked for is reserved, or nothing is. From here on nobody
//!    else can come between, under whatever name.
//! 4. What was decided is noted as begun.
//! 5. The bytes are locked in the kernel, one after the other. It knows strangers.
//! 6. Their descriptors are parked, where they outlive the service, and the locks noted as held.
//! 7. The table commits. Should the owner have ended meanwhile, all is given back.
//! 8. The world is told, and sees the lock objects.
//! 9. The caller is answered.
//!
//! Should a step fail, those before it are undone. Should something be held by somebody else, and
//! the command may wait, it is in the queue from that moment, and begins again with step 3 when it is
//! called ([`crate::service::wait`]); it holds nothing meanwhile but the disks' descriptors, and these not
//! opened. A name that leads to another disk by then is looked up again, and the request stays in the
//! queue for that one ([`crate::service::wait::name_recheck`]). An owner that is opened with its first locks is
//! noted and parked in the same story, before its locks and after.
//!
//! Steps 2 to 7 are one story on one storage thread, since each change of threads costs more than
//! all that is done on them. A caller that leaves in between changes nothing: the story runs to
//! its end, and the locks are its owner's.

use std::sync::Arc;
use std::time::Instant;

use crate::failpoint::failpoint;
use crate::keep::line::Step;
use crate::lock::acquire::handle::Held;
use crate::lock::acquire::{Goal, Take, take_all};
use crate::lock::disk::in_use::InUse;
use crate::lock::disk::snapshot::Snapshot;
use crate::lock::model::lock::{Proof, Stage};
use crate::lock::model::owner::AnchorId;
use crate::lock::request::Asked;
use crate::lock::table::queue::Purpose;
use crate::lock::table::{Again, Reservation};
use crate::lock::{self, Event, Lock, Mode, Owner, OwnerId, Want};
use crate::service::core::limits::{Usage, within};
use crate::service::lock::request::Ask;
use crate::service::persist::journal::{Anchored, Names};
use crate::service::report::event_log::Unsaid;
use crate::service::wait::name_recheck::{CheckNames, Lookups};
use crate::service::wait::ticket::{Entry, Queued};
use crate::service::wait::{Attempt, Granted, Tried, Wait};
use crate::service::{Error, Service, Shown, now};

/// How often a request follows a name that is given to another disk while it is being locked.
const RENEWALS: usize = 4;

/// What came of step 3.
enum Decided {
    Reserved(Reserved, Entry),
    Queued(Queued),
}

/// What is to be done.
struct Reserved {
    /// The locks of the request, in its order.
    locks: Vec<u64>,
    /// Those of them that are new, with the place of their resource in the request.
    fresh: Vec<(u64, usize)>,
    /// The same, as they will be.
    records: Vec<Lock>,
}

impl Service {
    /// Gives an owner all it asks for, or nothing. The answer has the order and length of the
    /// request; what the owner holds already in the same mode is answered with the lock it has.
    ///
    /// # Errors
    ///
    /// [`Error::Held`] and [`Error::HeldElsewhere`] with a sentence that names the holder; where it
    /// may wait, [`Error::TimedOut`], [`Error::Cancelled`], [`Error::CallerGone`]; [`Error::Limit`],
    /// and those of [`crate::lock::Error`].
    pub async fn acquire(
        &self,
        id: OwnerId,
        asks: Vec<Ask>,
        wait: Option<Wait>,
    ) -> Result<Granted, Error> {
        let request = Request::new(self, id, asks, Again::Same);
        let turn = self.turn(id).await?;
        self.persist(request, Some(turn), wait).await
    }

    /// The story from step 2, for a storage thread that has the owner's turn. Never waits.
    pub(in crate::service) fn acquire_here(
        &self,
        id: OwnerId,
        asks: Vec<Ask>,
        again: Again,
    ) -> Result<(Granted, Shown), Error> {
        let request = Request::new(self, id, asks, again);
        let _passes = self.storage().admit_here(&request.asks())?;
        match request.attempt(Entry::Once) {
            Tried::Done(granted, shown) => Ok((granted, shown)),
            Tried::Failed(error) => Err(error),
            Tried::Waits(..) => Err(Error::Abandoned),
        }
    }

    /// Step 3.
    fn decide(&self, request: &Request, entry: Entry) -> Result<Decided, Error> {
        let Request { id, goals, modes, again, purpose, .. } = request;
        let wants: Vec<Want> =
            goals.iter().zip(modes).map(|(goal, mode)| goal.want(*mode)).collect();
        let (id, since) = (*id, now());
        let reserved = {
            let mut state = self.state();
            state.check_open()?;
            state.check_total(self.0.exempt, id.uid, wants.len())?;
            if *purpose != Purpose::Resume {
                // What is remembered is counted already.
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
                    return Ok(Decided::Queued(queued));
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
        Ok(Decided::Reserved(Reserved { locks, fresh, records }, entry))
    }

    /// Step 7.
    fn commit(
        &self,
        request: &Request,
        fresh: &[u64],
        held: &[Arc<Held>],
        entry: &Entry,
    ) -> Result<Shown, Error> {
        let (id, opened) = (request.id, request.opened.is_some());
        let (unsaid, remembered, reclaimed, shown) = {
            let mut state = self.state();
            if entry.is_forlorn() {
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
                Purpose::Acquire | Purpose::Strengthen(_) => Vec::new(),
            };
            let resumed = (!remembered.is_empty()).then_some(Event::OwnerChanged(id));
            let events = opened.into_iter().chain(given.iter().cloned()).chain(resumed);
            let (events, awaited) = (events.collect::<Vec<_>>(), request.again == Again::Same);
            let shown = if events.is_empty() && awaited {
                // It has all of it, perhaps by somebody else's end, for which nobody waited.
                state.so_far()
            } else {
                state.publish_for(events, awaited)
            };
            (Unsaid::new(state.name_of(id), given), remembered, reclaimed, shown)
        };
        self.mark_reservations_gone(&reclaimed);
        if let Err(error) = self.keep().mark_locks(&remembered, Step::Gone) {
            tracing::error!(%error, "cannot update the records of locks of a resumed owner");
        }
        if !remembered.is_empty() {
            unsaid.resumed(id, remembered.len());
        }
        Ok(shown.and_say(unsaid))
    }
}

/// An owner that is being opened, as it is kept.
pub(in crate::service) struct Opened {
    pub(in crate::service) owner: Owner,
    pub(in crate::service) names: Names,
    pub(in crate::service) anchors: Vec<(AnchorId, Anchored)>,
}

/// Steps 2 to 7.
pub(in crate::service) struct Request {
    pub(in crate::service) service: Service,
    pub(in crate::service) id: OwnerId,
    /// What was asked for, until it is found.
    asks: Vec<Ask>,
    goals: Vec<Arc<Goal>>,
    lookups: Lookups,
    modes: Vec<Mode>,
    /// The first of them for which the owner has to hold a lease.
    with_lease: Option<usize>,
    pub(in crate::service) in_use: Vec<InUse>,
    pub(in crate::service) again: Again,
    pub(super) purpose: Purpose,
    opened: Option<Opened>,
    /// The owner that is being opened is noted.
    noted: bool,
    /// Since when it is under way.
    begun: Instant,
}

/// How far it came.
enum Came {
    Through(Granted, Shown),
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

    fn attempt(mut self, entry: Entry) -> Tried<Self> {
        match self.tell(entry) {
            Ok(Came::Through(granted, mut shown)) => {
                if self.again == Again::Same {
                    // Here, where nobody else waits for it; whoever counts says it once he has
                    // answered.
                    shown.say();
                }
                Tried::Done(granted, shown)
            }
            Ok(Came::Queued(Queued { place, because })) => {
                if let Some(because) = because {
                    self.service.describe_wait(self.id, place.ticket, because);
                }
                Tried::Waits(self, place)
            }
            Err(error) => Tried::Failed(self.service.describe(self.id, error)),
        }
    }
}

impl Request {
    pub(in crate::service) fn new(
        service: &Service,
        id: OwnerId,
        asks: Vec<Ask>,
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

    /// The same for an owner that is being opened: `opened` is what is to be kept of it.
    pub(in crate::service) fn opening(self, opened: Opened) -> Self {
        Self { opened: Some(opened), ..self }
    }

    /// The same for an owner that is suspended.
    pub(in crate::service) fn resuming(self) -> Self {
        Self { purpose: Purpose::Resume, ..self }
    }

    pub(in crate::service) fn wants(&self) -> Vec<Want> {
        self.goals.iter().zip(&self.modes).map(|(goal, mode)| goal.want(*mode)).collect()
    }

    fn tell(&mut self, mut entry: Entry) -> Result<Came, Error> {
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
            return Ok(Came::Through(granted, shown));
        }
        for _ in 0..RENEWALS {
            match self.grant(entry) {
                // Its name was given to another disk after the lookup.
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

    /// Looks names up again that lead to other disks by now. A waiting request is in the queue for
    /// these from then on.
    fn renew(&mut self, entry: &Entry) -> Result<(), Error> {
        if self.lookups.renew(&self.service, &mut self.goals)?
            && let Some(ticket) = entry.ticket()
        {
            self.service.state().table.want_instead(ticket, &self.wants());
        }
        Ok(())
    }

    /// Steps 3 to 7. The place in the queue comes back with an error that did not cost it.
    fn grant(&mut self, entry: Entry) -> Result<Came, (Error, Option<Entry>)> {
        let service = self.service.clone();
        // Not that of the lookup: a loop device may have been changed since.
        let host = Snapshot::default();
        let renewed = service.renew_stacks_for(self.id, &self.goals, &host);
        renewed.map_err(|error| (error, None))?;
        let (reserved, entry) = match service.decide(self, entry).map_err(|error| (error, None))? {
            Decided::Reserved(reserved, entry) => (reserved, entry),
            Decided::Queued(queued) => return Ok(Came::Queued(queued)),
        };
        let Reserved { locks, fresh, records } = reserved;
        failpoint("grant-reserved");
        let numbers: Vec<u64> = fresh.iter().map(|(lock, _)| *lock).collect();
        let sign = service.signer(self.id);
        let hasty = service.is_trying_again(&entry);
        // There is a record of each, in this order.
        let takes = fresh.iter().zip(&records).filter_map(|((_, n), record)| {
            let goal = Arc::clone(self.goals.get(*n)?);
            let signature = sign(record);
            let (mode, in_use) = (*self.modes.get(*n)?, *self.in_use.get(*n)?);
            Some(Take { goal, mode, signature, hasty, in_use })
        });
        let takes = takes.collect();
        let mut held = Vec::new();
        let given = (|| {
            let mut goals = fresh.iter().filter_map(|(_, n)| self.goals.get(*n));
            goals.try_for_each(|goal| service.check_fit(goal))?;
            service.keep().begin(&records)?;
            let done = take_all(takes, host);
            held.extend(done.answers.into_iter().map(Arc::new));
            Service::say_unrecorded(&held);
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
                Ok(Came::Through(granted, shown))
            }
            Err(error) => service.undo(self, &fresh, held, error, entry).map(Came::Queued),
        }
    }
}
