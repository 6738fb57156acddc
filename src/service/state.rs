//! What is behind the mutex.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::keeping::{Anchored, Names};
use super::limits::{self, Exempt, Limits, Usage, check_total, within};
use super::place::Word;
use super::{Backlog, Batch, Error, Settings, Shown, now};
use crate::lock::directory::Directory;
use crate::lock::held::Held;
use crate::lock::owner::AnchorId;
use crate::lock::printable::shown;
use crate::lock::queue::Ticket;
use crate::lock::table::{Ended, Move};
use crate::lock::{self, Event, OwnerId, Table, Want};

/// The table, and beside it what the table may not know: descriptors and tasks.
#[derive(Debug)]
pub(super) struct State {
    pub(super) table: Table,
    /// The bytes of every lock that is held.
    pub(super) held: HashMap<u64, Arc<Held>>,
    pub(super) kept: HashMap<OwnerId, Kept>,
    /// Locks that the service acquired again by itself, and that are not adopted yet.
    pub(super) reacquired: BTreeSet<u64>,
    /// Held while a lock is being looked at, by its number.
    pub(super) looks: HashMap<u64, Weak<Mutex<()>>>,
    /// Owners that have ended and still hold something: what is to be forgotten with the last.
    pub(super) leaving: HashMap<OwnerId, Names>,
    pub(super) settings: Settings,
    /// What those are told who wait, by ticket.
    pub(super) words: HashMap<Ticket, watch::Sender<Word>>,
    /// The directories of keys that clients named, by number.
    pub(super) lockspaces: BTreeMap<u32, Arc<Directory>>,
    /// The last number that one of them was given.
    pub(super) last_lockspace: u32,
    pub(super) closing: bool,
    /// Nobody may begin to wait: the program is about to be replaced.
    pub(super) waits_closed: bool,
    /// How many batches are on their way to being seen.
    pub(super) backlog: Arc<AtomicUsize>,
    last_anchor: AnchorId,
    reader: Option<mpsc::UnboundedSender<Batch>>,
}

/// The state under its mutex. Whoever changes it has those called who waited for that, in the same
/// moment: nobody can forget it, and nobody gets in between.
pub(super) struct Locked<'s>(pub(super) MutexGuard<'s, State>);

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.0
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if self.0.table.has_news() {
            self.0.tell_waiters();
        }
    }
}

/// What belongs to an owner and is no matter of the table.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Held for the length of each of its commands.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    /// What keeps it alive; manual anchors have nothing to watch.
    pub(super) watches: HashMap<AnchorId, Watch>,
    /// The number of its record.
    pub(super) record: AnchorId,
}

/// An anchor that is watched.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) anchored: Anchored,
    /// The task that waits for its end; none where somebody else tells of it.
    pub(super) task: Option<AbortHandle>,
}

impl Watch {
    /// Waits for its end no more.
    pub(super) fn stop(&self) {
        self.task.as_ref().inspect(|task| task.abort());
    }
}

/// An owner's end, decided and not yet done.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) names: Names,
    pub(super) held: Vec<(u64, Option<Arc<Held>>)>,
    /// What goes back to others.
    pub(super) returns: Vec<Move>,
    /// What was held for the length of each of its commands.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    /// The owner itself, where nothing is in its way.
    pub(super) closed: Vec<Names>,
    pub(super) shown: Shown,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.watches.values().for_each(Watch::stop);
    }
}

impl State {
    pub(super) fn new(settings: Settings) -> Self {
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
            backlog: Arc::default(),
            last_anchor: 0,
            reader: None,
        }
    }

    pub(super) fn subscribe(&mut self) -> mpsc::UnboundedReceiver<Batch> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.reader = Some(sender);
        receiver
    }

    /// Hands events to the reader, in the order of the decisions since this happens under the
    /// mutex. Never waits: what piles up is bounded by the commands that wait for it.
    pub(super) fn publish(&mut self, events: Vec<Event>) -> Shown {
        self.publish_for(events, true)
    }

    /// The same; where nobody waits, whoever makes them sees to it that not too many pile up.
    pub(super) fn publish_for(&mut self, events: Vec<Event>, awaited: bool) -> Shown {
        if events.is_empty() { Shown::default() } else { self.send(events, awaited) }
    }

    /// All that was published before, to be waited for by who names what others brought: nobody is
    /// told of an object that he would not find.
    pub(super) fn so_far(&mut self) -> Shown {
        self.send(Vec::new(), true)
    }

    fn send(&mut self, events: Vec<Event>, awaited: bool) -> Shown {
        let Some(reader) = self.reader.as_ref() else {
            return Shown::default();
        };
        let (shown, seen) = oneshot::channel();
        let backlog = Backlog::one_more(&self.backlog);
        if reader.send(Batch { events, shown, awaited, _backlog: backlog }).is_err() {
            self.reader = None;
            return Shown::default();
        }
        Shown::new(seen)
    }

    /// From now on only numbers above this one are given to anchors.
    pub(super) fn count_anchors_from(&mut self, last: AnchorId) {
        self.last_anchor = self.last_anchor.max(last);
    }

    /// Begins an owner's end: the locks it held, and what happened by that. Our ends of its lifelines
    /// are closed, and its turn comes for nobody any more.
    pub(super) fn end(&mut self, id: OwnerId, gives_back: bool) -> Result<Ending, Error> {
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

    /// The owners that are gone by these events, to be forgotten.
    pub(super) fn closed(&mut self, events: &[Event]) -> Vec<Names> {
        let closed = events.iter().filter_map(|event| match event {
            Event::OwnerClosed(id) => self.leaving.remove(id),
            _ => None,
        });
        closed.collect()
    }

    pub(super) fn next_anchor(&mut self) -> AnchorId {
        self.last_anchor += 1;
        self.last_anchor
    }

    /// Refuses what would be more than this user, or all together, may have; `more` counts the
    /// request.
    pub(super) fn check_quota(
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

    /// Refuses more locks than the service can hold at all, or may hold besides root's reserve.
    pub(super) fn check_total(&self, exempt: Exempt, uid: u32, more: usize) -> Result<(), Error> {
        let Limits { locks_total, .. } = self.settings.limits;
        check_total("locks", self.table.size() + more, locks_total, exempt.covers(uid))
    }

    /// Refuses one more that waits.
    pub(super) fn check_waiters(&self, exempt: Exempt, uid: u32) -> Result<(), Error> {
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

    /// Refuses disks to an owner that neither holds a lease nor asks for one with them.
    pub(super) fn check_lease(
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

    pub(super) fn check_open(&self) -> Result<(), Error> {
        if self.closing { Err(Error::ShuttingDown) } else { Ok(()) }
    }
}
