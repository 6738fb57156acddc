//! The state of the service behind its mutex.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::limits::{self, Exempt, Limits, Usage, check_total, within};
use crate::lock::acquire::handle::LockHandle;
use crate::lock::lockspace::directory::Directory;
use crate::lock::model::owner::AnchorId;
use crate::lock::table::queue::Ticket;
use crate::lock::table::{Ended, Move};
use crate::lock::text::escape::shown;
use crate::lock::{self, Event, OwnerId, Table, Want};
use crate::service::persist::journal::{Anchored, Names};
use crate::service::wait::ticket::WaitReply;
use crate::service::{Batch, Error, Publication, Settings, now};
use crate::sync::Counter;

/// The table, together with the descriptors and tasks, which the pure table cannot hold.
#[derive(Debug)]
pub(in crate::service) struct State {
    pub(in crate::service) table: Table,
    /// The lock handle of every held lock.
    pub(in crate::service) held: HashMap<u64, Arc<LockHandle>>,
    pub(in crate::service) kept: HashMap<OwnerId, OwnerState>,
    /// Locks that the service acquired again by itself and that are not adopted yet.
    pub(in crate::service) reacquired: BTreeSet<u64>,
    /// Mutexes of the verification of locks, by lock number.
    pub(in crate::service) looks: HashMap<u64, Weak<Mutex<()>>>,
    /// Owners that have ended and still have locks; their records are removed with the last lock.
    pub(in crate::service) leaving: HashMap<OwnerId, Names>,
    pub(in crate::service) settings: Settings,
    /// The notifications to waiters, by ticket.
    pub(in crate::service) words: HashMap<Ticket, watch::Sender<WaitReply>>,
    /// The lockspace directories that clients created, by number.
    pub(in crate::service) lockspaces: BTreeMap<u32, Arc<Directory>>,
    /// The last number of such a lockspace.
    pub(in crate::service) last_lockspace: u32,
    pub(in crate::service) closing: bool,
    /// No request may start to wait: the program is about to be replaced.
    pub(in crate::service) waits_closed: bool,
    /// The number of batches that are not published yet.
    pub(in crate::service) backlog: Counter,
    last_anchor: AnchorId,
    reader: Option<mpsc::UnboundedSender<Batch>>,
}

/// The state under its mutex. On unlock, the waiters that a change concerns are woken under the
/// same mutex, so that no code can forget it and no other request gets in between.
pub(in crate::service) struct StateGuard<'s>(pub(in crate::service) MutexGuard<'s, State>);

impl Deref for StateGuard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl DerefMut for StateGuard<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.0
    }
}

impl Drop for StateGuard<'_> {
    fn drop(&mut self) {
        if self.0.table.has_changes() {
            self.0.notify_waiters();
        }
    }
}

/// The part of an owner that the table does not hold.
#[derive(Debug, Default)]
pub(in crate::service) struct OwnerState {
    /// The owner command lock, which is held during each of the owner's commands.
    pub(in crate::service) turn: Arc<tokio::sync::Mutex<()>>,
    /// Its watched anchors; manual anchors need no watch.
    pub(in crate::service) watches: HashMap<AnchorId, AnchorWatch>,
    /// The number of its record.
    pub(in crate::service) record: AnchorId,
}

/// A watched anchor.
#[derive(Debug)]
pub(in crate::service) struct AnchorWatch {
    pub(in crate::service) anchored: Anchored,
    /// The task that waits for the anchor's end; `None` if the end is reported in another way.
    pub(in crate::service) task: Option<AbortHandle>,
}

impl AnchorWatch {
    /// Stops watching the anchor.
    pub(in crate::service) fn stop(&self) {
        self.task.as_ref().inspect(|task| task.abort());
    }
}

/// The end of an owner: decided in the table, not performed yet.
#[derive(Debug)]
pub(in crate::service) struct Ending {
    pub(in crate::service) names: Names,
    pub(in crate::service) held: Vec<(u64, Option<Arc<LockHandle>>)>,
    /// The locks that return to their former owners.
    pub(in crate::service) returns: Vec<Move>,
    /// The command lock of the owner.
    pub(in crate::service) turn: Arc<tokio::sync::Mutex<()>>,
    /// The owner itself, if it had no locks and is removed already.
    pub(in crate::service) closed: Vec<Names>,
    pub(in crate::service) shown: Publication,
}

impl Drop for OwnerState {
    fn drop(&mut self) {
        self.watches.values().for_each(AnchorWatch::stop);
    }
}

impl State {
    pub(in crate::service) fn new(settings: Settings) -> Self {
        Self {
            table: Table::default(),
            held: HashMap::new(),
            kept: HashMap::new(),
            reacquired: BTreeSet::new(),
            looks: HashMap::new(),
            leaving: HashMap::new(),
            settings,
            words: HashMap::new(),
            lockspaces: BTreeMap::new(),
            last_lockspace: 0,
            closing: false,
            waits_closed: false,
            backlog: Counter::default(),
            last_anchor: 0,
            reader: None,
        }
    }

    pub(in crate::service) fn subscribe(&mut self) -> mpsc::UnboundedReceiver<Batch> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.reader = Some(sender);
        receiver
    }

    /// Sends events to the reader, in the order of the decisions, since the mutex is held. Never
    /// blocks: the backlog is bounded by the commands that wait for their events.
    pub(in crate::service) fn publish(&mut self, events: Vec<Event>) -> Publication {
        self.publish_for(events, true)
    }

    /// Sends events to the reader; without a waiting command (`awaited`), the caller must bound the
    /// backlog.
    pub(in crate::service) fn publish_for(
        &mut self,
        events: Vec<Event>,
        awaited: bool,
    ) -> Publication {
        if events.is_empty() { Publication::default() } else { self.send(events, awaited) }
    }

    /// Returns a [`Publication`] for all events that were sent before. A reply that names objects of
    /// other requests waits for it, so that a caller never gets an object that it cannot find.
    pub(in crate::service) fn so_far(&mut self) -> Publication {
        self.send(Vec::new(), true)
    }

    fn send(&mut self, events: Vec<Event>, awaited: bool) -> Publication {
        let Some(reader) = self.reader.as_ref() else {
            return Publication::default();
        };
        let (shown, seen) = oneshot::channel();
        let backlog = self.backlog.increment();
        if reader.send(Batch { events, shown, awaited, _backlog: backlog }).is_err() {
            self.reader = None;
            return Publication::default();
        }
        Publication::new(seen)
    }

    /// Numbers anchors from `last` + 1 on.
    pub(in crate::service) fn count_anchors_from(&mut self, last: AnchorId) {
        self.last_anchor = self.last_anchor.max(last);
    }

    /// Starts the end of an owner: removes its locks from the list, publishes the events, closes
    /// the service's ends of its lifelines, and drops its command lock.
    pub(in crate::service) fn end(
        &mut self,
        id: OwnerId,
        gives_back: bool,
    ) -> Result<Ending, Error> {
        let owner = self.table.living(id)?;
        let anchors = owner.anchors.keys().copied().collect();
        let suspended = owner.suspended.keys().copied();
        let noted = suspended.chain(self.table.reclaimable_by(id)).collect();
        let offer = owner.offer.map(|offer| offer.record);
        let Ended { held, returns, events } = self.table.end_owner(id, gives_back, now())?;
        let kept = self.kept.remove(&id);
        let record = kept.as_ref().map_or(0, |kept| kept.record);
        let turn = kept.as_ref().map(|kept| Arc::clone(&kept.turn)).unwrap_or_default();
        let names = Names { owner: id, record, anchors, noted, offer };
        self.leaving.insert(id, names.clone());
        let held = held.into_iter().map(|lock| (lock, self.held.remove(&lock))).collect();
        let closed = self.closed(&events);
        Ok(Ending { names, held, returns, turn, closed, shown: self.publish(events) })
    }

    /// Returns the owners that these events remove, so that their records can be removed.
    pub(in crate::service) fn closed(&mut self, events: &[Event]) -> Vec<Names> {
        let closed = events.iter().filter_map(|event| match event {
            Event::OwnerClosed(id) => self.leaving.remove(id),
            _ => None,
        });
        closed.collect()
    }

    pub(in crate::service) fn next_anchor(&mut self) -> AnchorId {
        self.last_anchor += 1;
        self.last_anchor
    }

    /// Refuses a request that exceeds the quota of this user or a total; `more` adds the request to
    /// the usage.
    pub(in crate::service) fn check_quota(
        &self,
        exempt: Exempt,
        uid: u32,
        more: impl FnOnce(&mut Usage),
    ) -> Result<(), Error> {
        let (mut wanted, limits) = (Usage::default(), &self.settings.limits);
        more(&mut wanted);
        let (owners, anchors) = (self.table.owner_count(), self.table.anchor_count());
        wanted.check_totals(limits, owners, anchors, exempt.covers(uid))?;
        if exempt.covers(uid) {
            return Ok(());
        }
        Usage::of(self.table.owners_of(uid)).plus(wanted).check(limits, uid)
    }

    /// Refuses locks beyond the total, or beyond the part of it that is not reserved for root.
    pub(in crate::service) fn check_total(
        &self,
        exempt: Exempt,
        uid: u32,
        more: usize,
    ) -> Result<(), Error> {
        let Limits { locks_total, .. } = self.settings.limits;
        check_total("locks", self.table.size() + more, locks_total, exempt.covers(uid))
    }

    /// Refuses a waiting request beyond the limits.
    pub(in crate::service) fn check_waiters(&self, exempt: Exempt, uid: u32) -> Result<(), Error> {
        let limits = &self.settings.limits;
        let count = |whose: &dyn Fn(u32) -> bool| {
            self.table.waiters().filter(|waiter| whose(waiter.owner.uid)).count() + 1
        };
        let (what, total) = ("waiting requests", limits.waiters_total);
        let sum = count(&|_| true);
        check_total(what, sum, total, exempt.covers(uid))?;
        if exempt.covers(uid) {
            return Ok(());
        }
        let own = limits.waiters_per_user.min(limits::share(total));
        within(what, count(&|other| other == uid), own, || format!("for uid {uid}"))
    }

    /// Refuses disks to an owner that neither holds a lease nor requests one together with them.
    pub(in crate::service) fn check_lease(
        &self,
        id: OwnerId,
        wants: &[Want],
        disk: usize,
    ) -> Result<(), Error> {
        if wants.iter().any(Want::is_lease) || self.table.has_lease(id) {
            return Ok(());
        }
        let disk = wants.get(disk).map(|want| shown(&want.resource)).unwrap_or_default();
        Err(lock::Error::LeaseRequired(disk).into())
    }

    pub(in crate::service) fn check_open(&self) -> Result<(), Error> {
        if self.closing { Err(Error::ShuttingDown) } else { Ok(()) }
    }
}
