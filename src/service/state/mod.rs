//! The state of the service: one mutex ([`SharedState`]) around the table and what the pure table
//! cannot hold.
//!
//! The mutex is held for decisions only: never across an await, a system call or a file access. The
//! work that follows from a decision is done outside of it, and the result is entered under the
//! mutex again. [`events`] publishes what was decided, [`wait_queue`] notifies the requests that
//! wait, [`quota`] admits requests, [`ending`] decides the end of an owner, and [`reservations`]
//! keeps released resources for their former owners.

pub(super) mod ending;
pub(super) mod events;
pub(super) mod owner_state;
pub(super) mod quota;
pub(super) mod reservations;
pub(super) mod wait_queue;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::inspector::Requester;
use crate::lock::acquire::handle::LockHandle;
use crate::lock::lockspace::directory::Directory;
use crate::lock::model::extent::Extent;
use crate::lock::model::host::Host;
use crate::lock::model::identity::Identity;
use crate::lock::model::owner::AnchorId;
use crate::lock::model::refusal::Holder;
use crate::lock::{Front, Lock, Owner, OwnerId, Table};
use crate::service::core::settings::Settings;
use crate::service::persist::journal::OwnerRecords;
use crate::service::report::event_log::Vm;
use crate::service::state::events::EventQueue;
use crate::service::state::owner_state::OwnerState;
use crate::service::state::wait_queue::WaitQueue;
use crate::sync;

/// The table, together with the descriptors and tasks, which the pure table cannot hold.
#[derive(Debug)]
pub(in crate::service) struct State {
    pub(in crate::service) table: Table,
    /// The lock handle of every held lock.
    pub(in crate::service) held: HashMap<u64, Arc<LockHandle>>,
    pub(in crate::service) owners: HashMap<OwnerId, OwnerState>,
    /// Locks that the service acquired again by itself and that are not adopted yet.
    pub(in crate::service) reacquired: BTreeSet<u64>,
    /// Owners that have ended and still have locks; their records are removed with the last lock.
    pub(in crate::service) ended_owners: HashMap<OwnerId, OwnerRecords>,
    pub(in crate::service) settings: Settings,
    pub(in crate::service) wait_queue: WaitQueue,
    pub(in crate::service) events: EventQueue,
    /// The lockspace directories that clients created, by number.
    pub(in crate::service) lockspaces: BTreeMap<u32, Arc<Directory>>,
    /// The last number of such a lockspace.
    pub(in crate::service) last_lockspace: u32,
    /// Whether the service refuses new owners, locks and waits, since it ends.
    pub(in crate::service) closing: bool,
    last_anchor: AnchorId,
    /// When the task that ends reservations looks at them next, in microseconds since boot.
    expiry_wakes_at: u64,
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

impl State {
    pub(in crate::service) fn new(settings: Settings) -> Self {
        Self {
            table: Table::default(),
            held: HashMap::new(),
            owners: HashMap::new(),
            reacquired: BTreeSet::new(),
            ended_owners: HashMap::new(),
            settings,
            wait_queue: WaitQueue::default(),
            events: EventQueue::default(),
            lockspaces: BTreeMap::new(),
            last_lockspace: 0,
            closing: false,
            last_anchor: 0,
            expiry_wakes_at: u64::MAX,
        }
    }

    /// Numbers anchors from `last` + 1 on.
    pub(in crate::service) fn count_anchors_from(&mut self, last: AnchorId) {
        self.last_anchor = self.last_anchor.max(last);
    }

    pub(in crate::service) fn next_anchor(&mut self) -> AnchorId {
        self.last_anchor += 1;
        self.last_anchor
    }

    /// Returns an owner that was opened and has not ended.
    pub(in crate::service) fn owner(&self, id: OwnerId) -> Option<&Owner> {
        self.table.living(id).ok().filter(|owner| owner.opened)
    }

    /// Returns the name of an owner, also of one that is about to be removed.
    pub(in crate::service) fn name_of(&self, id: OwnerId) -> String {
        self.table.owner(id).map_or_else(String::new, |owner| owner.name.clone())
    }

    /// Returns the holders of these locks as a refusal describes them.
    pub(in crate::service) fn holders(&self, locks: &[Lock]) -> Vec<Holder> {
        locks.iter().map(|lock| self.table.holder(lock)).collect()
    }

    /// Returns the locks on a resource, on what it lies on, and on what lies on it.
    pub(in crate::service) fn locks_on(&self, identity: Identity, below: &[Extent]) -> Vec<Lock> {
        self.table.locks_on(identity, below).into_iter().cloned().collect()
    }

    /// Returns this host as holder records name it; `None` if nothing distinguishes it from other
    /// hosts.
    pub(in crate::service) fn host(&self) -> Option<Arc<Host>> {
        self.settings.lockspaces.host.clone()
    }
}

/// A handle on the state, which all components share.
#[derive(Debug, Clone)]
pub(in crate::service) struct SharedState(Arc<Mutex<State>>);

impl SharedState {
    pub(in crate::service) fn new(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    /// Locks the state for a decision.
    ///
    /// A poisoned mutex is used further: every change of the table is complete before any code that
    /// could panic, and an exit would unlock all disks.
    pub(in crate::service) fn lock(&self) -> StateGuard<'_> {
        StateGuard(sync::lock(&self.0))
    }

    /// Returns a VM as messages name it. Must not be called while the state is locked.
    pub(in crate::service) fn vm(&self, id: OwnerId) -> String {
        Vm(id, &self.lock().name_of(id)).to_string()
    }

    /// Returns the requester on whose behalf an owner's queries are put to an inspector.
    pub(in crate::service) fn requester(&self, id: OwnerId) -> Requester {
        let front = self.lock().table.owner(id).map(|owner| owner.front);
        if front == Some(Front::Virtlockd) { Requester::Libvirt } else { Requester::User(id.uid) }
    }

    /// Returns a held lock.
    pub(in crate::service) fn held_lock(&self, number: u64) -> Option<Lock> {
        self.lock().table.lock(number).cloned()
    }
}
