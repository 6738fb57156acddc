//! Lists of owners, locks and waiting requests, read page by page.
//!
//! A page is copied under the mutex, so it is a consistent snapshot, and it is cheap to copy: locks
//! and waiting requests are shared, and of an owner only the fields of a row are copied. The caller
//! converts the rows into its answer outside the mutex.

use std::collections::HashMap;
use std::sync::Arc;

use crate::lock::model::refusal::Holder;
use crate::lock::resolve::name_state::NameState;
use crate::lock::table::queue::{Ticket, Waiter};
use crate::lock::{Anchor, Front, Lock, Owner, OwnerId, Table, Want};
use crate::service::facade::Service;

/// The fields of the owner in a row of a lock or of a waiting request.
#[derive(Debug, Clone)]
pub struct OwnerSummary {
    /// The owner.
    pub id: OwnerId,
    /// Its name.
    pub name: Arc<str>,
    /// The purpose of its locks, or empty.
    pub why: Arc<str>,
    /// Its process, or 0.
    pub pid: u32,
}

impl OwnerSummary {
    fn find(table: &Table, id: OwnerId) -> Self {
        let owner = table.owner(id);
        let name = owner.map(|owner| owner.name.as_str()).unwrap_or_default();
        let why = owner.map(|owner| owner.why.as_str()).unwrap_or_default();
        Self { id, name: name.into(), why: why.into(), pid: owner.map_or(0, Owner::pid) }
    }
}

/// A row of the list of locks.
#[derive(Debug, Clone)]
pub struct LockRow {
    /// The lock.
    pub lock: Arc<Lock>,
    /// Its owner.
    pub owner_summary: OwnerSummary,
    /// Where its name leads, if it was looked up.
    pub name_state: Option<NameState>,
    /// Whether another owner's lock covers some of the same data.
    pub conflict: bool,
}

/// A row of the list of an owner's suspended locks.
#[derive(Debug, Clone)]
pub struct SuspendedRow {
    /// The former number of the lock.
    pub number: u64,
    /// The target of the lock.
    pub want: Arc<Want>,
    /// The owner.
    pub owner_summary: OwnerSummary,
}

/// A row of the list of owners.
#[derive(Debug, Clone)]
pub struct OwnerRow {
    /// The owner.
    pub id: OwnerId,
    /// Its name.
    pub name: String,
    /// The purpose of its locks, or empty.
    pub why: String,
    /// Its process, or 0.
    pub pid: u32,
    /// The frontend that opened it.
    pub front: Front,
    /// `running` or `suspended`.
    pub state: &'static str,
    /// When it was opened, in microseconds since 1970.
    pub since: u64,
    /// Its anchors, in the order in which they were added.
    pub anchors: Vec<Anchor>,
    /// The number of its locks.
    pub locks: usize,
}

impl From<&Owner> for OwnerRow {
    fn from(owner: &Owner) -> Self {
        Self {
            id: owner.id,
            name: owner.name.clone(),
            why: owner.why.clone(),
            pid: owner.pid(),
            front: owner.front,
            state: owner.state(),
            since: owner.since,
            anchors: owner.anchors.values().copied().collect(),
            locks: owner.locks.len(),
        }
    }
}

/// A row of the list of waiting requests: one request with all resources that it waits for.
#[derive(Debug, Clone)]
pub struct WaitingRow {
    /// The request.
    pub waiter: Arc<Waiter>,
    /// Its owner.
    pub owner_summary: OwnerSummary,
    /// The owners that resources of the request are reserved for, with the indexes of these
    /// resources.
    pub reserved: Vec<(usize, Holder)>,
}

/// Selects the locks, or the waiting requests, of a page.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Only numbers, or tickets, above this one.
    pub after: u64,
    /// The maximum number of rows.
    pub limit: usize,
    /// Only rows of this owner.
    pub owner: Option<OwnerId>,
    /// Only rows of a resource with this name, as requested or as found.
    pub resource: Option<String>,
    /// Only rows of this user's owners.
    pub user: Option<u32>,
}

impl Default for Filter {
    /// Selects everything.
    fn default() -> Self {
        Self { after: 0, limit: usize::MAX, owner: None, resource: None, user: None }
    }
}

impl Filter {
    fn is_of_user(&self, owner: OwnerId) -> bool {
        self.user.is_none_or(|uid| uid == owner.uid)
    }

    fn is_named(&self, want: &Want) -> bool {
        let Some(name) = self.resource.as_deref() else { return true };
        want.resource == name || want.canonical.as_deref() == Some(name)
    }
}

/// Looks up each owner once per page.
struct Owners<'t> {
    table: &'t Table,
    cached: HashMap<OwnerId, OwnerSummary>,
}

impl<'t> Owners<'t> {
    fn new(table: &'t Table) -> Self {
        Self { table, cached: HashMap::new() }
    }

    fn summary(&mut self, id: OwnerId) -> OwnerSummary {
        self.cached.entry(id).or_insert_with(|| OwnerSummary::find(self.table, id)).clone()
    }
}

impl Service {
    /// Returns a page of the held locks, in the order of their numbers.
    #[must_use]
    pub fn list_locks(&self, filter: &Filter) -> Vec<LockRow> {
        let state = self.0.state();
        let mut owners = Owners::new(&state.table);
        let row = |lock: &Arc<Lock>| LockRow {
            lock: Arc::clone(lock),
            owner_summary: owners.summary(lock.owner),
            name_state: None,
            conflict: !state.table.conflicts(lock.id).is_empty(),
        };
        let named =
            |lock: &&Arc<Lock>| filter.is_of_user(lock.owner) && filter.is_named(&lock.want);
        if let Some(owner) = filter.owner {
            let locks = state.table.locks_of(owner, filter.after).filter(named);
            locks.take(filter.limit).map(row).collect()
        } else {
            let locks = state.table.locks_after(filter.after).filter(named);
            locks.take(filter.limit).map(row).collect()
        }
    }

    /// Returns a page of one owner's suspended locks, in the order of their former numbers.
    #[must_use]
    pub fn list_suspended(&self, owner: OwnerId, filter: &Filter) -> Vec<SuspendedRow> {
        let state = self.0.state();
        let owner_summary = OwnerSummary::find(&state.table, owner);
        let suspended = state.table.suspended_of(owner, filter.after);
        let meant =
            |(_, want): &(u64, &Arc<Want>)| filter.is_of_user(owner) && filter.is_named(want);
        let suspended = suspended.filter(meant).take(filter.limit);
        let row = |(number, want): (u64, &Arc<Want>)| SuspendedRow {
            number,
            want: Arc::clone(want),
            owner_summary: owner_summary.clone(),
        };
        suspended.map(row).collect()
    }

    /// Returns a page of all owners, or of one user's owners, by user and UUID.
    #[must_use]
    pub fn list_owners(
        &self,
        after: Option<OwnerId>,
        limit: usize,
        user: Option<u32>,
    ) -> Vec<OwnerRow> {
        let state = self.0.state();
        let owners = state.table.owners_after(after);
        let meant = owners.filter(|owner| user.is_none_or(|uid| uid == owner.id.uid));
        meant.take(limit).map(OwnerRow::from).collect()
    }

    /// Returns a page of the waiting requests, in the order of their tickets.
    #[must_use]
    pub fn list_waiting(&self, filter: &Filter) -> Vec<WaitingRow> {
        let state = self.0.state();
        let mut owners = Owners::new(&state.table);
        let meant = |waiter: &&Arc<Waiter>| {
            filter.is_of_user(waiter.owner)
                && filter.owner.is_none_or(|owner| owner == waiter.owner)
                && waiter.wants.iter().any(|want| filter.is_named(want))
        };
        let after: Ticket = filter.after;
        let waiters = state.table.waiters_after(after).filter(meant).take(filter.limit);
        let row = |waiter: &Arc<Waiter>| WaitingRow {
            waiter: Arc::clone(waiter),
            owner_summary: owners.summary(waiter.owner),
            reserved: state.table.reserved_for(waiter),
        };
        waiters.map(row).collect()
    }

    /// Returns all owners, by user and UUID.
    #[must_use]
    pub fn owner_ids(&self) -> Vec<OwnerId> {
        self.0.state().table.owners().map(|owner| owner.id).collect()
    }

    /// Returns the numbers of the held locks of the owners that `meant` selects, in order.
    #[must_use]
    pub fn lock_numbers(&self, meant: impl Fn(OwnerId) -> bool) -> Vec<u64> {
        let state = self.0.state();
        state.table.locks().filter(|lock| meant(lock.owner)).map(|lock| lock.id).collect()
    }

    /// Returns the result of `read` for an owner; `None` if the owner does not exist. Runs under
    /// the mutex, so that an owner with many locks need not be copied.
    pub fn read_owner<T>(&self, id: OwnerId, read: impl FnOnce(&Owner) -> T) -> Option<T> {
        self.0.state().table.living(id).ok().filter(|owner| owner.opened).map(read)
    }

    /// Returns the numbers of the locks that an owner holds.
    #[must_use]
    pub fn locks_of(&self, owner: OwnerId) -> Vec<u64> {
        self.0.state().table.locks_of(owner, 0).map(|lock| lock.id).collect()
    }
}
