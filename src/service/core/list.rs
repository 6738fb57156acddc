//! Lists of owners, locks and waiting requests, read page by page.
//!
//! A page is copied under the mutex, so that it is consistent, and is cheap to copy: locks and
//! waiting requests are shared, and of an owner only what a row shows is copied. Turning rows into
//! an answer is the caller's work, outside the mutex.

use std::collections::HashMap;
use std::sync::Arc;

use crate::lock::model::refusal::Holder;
use crate::lock::resolve::name_state::NameState;
use crate::lock::table::queue::{Ticket, Waiter};
use crate::lock::{Anchor, Front, Lock, Owner, OwnerId, Table, Want};
use crate::service::Service;

/// What a row of a lock or of a waiting request shows of the owner.
#[derive(Debug, Clone)]
pub struct Whose {
    /// The owner.
    pub id: OwnerId,
    /// Its name.
    pub name: Arc<str>,
    /// What its locks are for, or empty.
    pub why: Arc<str>,
    /// Its process, or 0.
    pub pid: u32,
}

impl Whose {
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
    pub whose: Whose,
    /// Where its name leads, if that was looked up.
    pub name_state: Option<NameState>,
    /// Whether another owner's lock covers some of the same data.
    pub conflict: bool,
}

/// A row of the list of what an owner has suspended.
#[derive(Debug, Clone)]
pub struct SuspendedRow {
    /// The number that the lock had.
    pub number: u64,
    /// What was locked.
    pub want: Arc<Want>,
    /// The owner.
    pub whose: Whose,
}

/// A row of the list of owners.
#[derive(Debug, Clone)]
pub struct OwnerRow {
    /// The owner.
    pub id: OwnerId,
    /// Its name.
    pub name: String,
    /// What its locks are for, or empty.
    pub why: String,
    /// Its process, or 0.
    pub pid: u32,
    /// How it was opened.
    pub front: Front,
    /// `running` or `suspended`.
    pub state: &'static str,
    /// When it was opened, in microseconds since 1970.
    pub since: u64,
    /// Its anchors, in the order in which they came.
    pub anchors: Vec<Anchor>,
    /// How many locks it holds.
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

/// A row of the list of waiting requests: one request with all that it waits for.
#[derive(Debug, Clone)]
pub struct WaitingRow {
    /// The request.
    pub waiter: Arc<Waiter>,
    /// Its owner.
    pub whose: Whose,
    /// The owners for which resources of the request are reserved, with the places of these.
    pub reserved: Vec<(usize, Holder)>,
}

/// Which locks, or which waiting requests, a page has.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Only those with a higher number, or ticket.
    pub after: u64,
    /// At most so many.
    pub limit: usize,
    /// Only those of this owner.
    pub owner: Option<OwnerId>,
    /// Only those on a resource with this name, as requested or as found.
    pub resource: Option<String>,
    /// Only those of this user's owners.
    pub user: Option<u32>,
}

impl Default for Filter {
    /// Everything.
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

/// Looks owners up once for each page.
struct Owners<'t> {
    table: &'t Table,
    known: HashMap<OwnerId, Whose>,
}

impl<'t> Owners<'t> {
    fn new(table: &'t Table) -> Self {
        Self { table, known: HashMap::new() }
    }

    fn whose(&mut self, id: OwnerId) -> Whose {
        self.known.entry(id).or_insert_with(|| Whose::find(self.table, id)).clone()
    }
}

impl Service {
    /// Returns a page of the held locks, in the order of their numbers.
    #[must_use]
    pub fn list_locks(&self, filter: &Filter) -> Vec<LockRow> {
        let state = self.state();
        let mut owners = Owners::new(&state.table);
        let row = |lock: &Arc<Lock>| LockRow {
            lock: Arc::clone(lock),
            whose: owners.whose(lock.owner),
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

    /// Returns a page of what one owner has suspended, in the order of the numbers that the locks
    /// had.
    #[must_use]
    pub fn list_suspended(&self, owner: OwnerId, filter: &Filter) -> Vec<SuspendedRow> {
        let state = self.state();
        let whose = Whose::find(&state.table, owner);
        let suspended = state.table.suspended_of(owner, filter.after);
        let meant =
            |(_, want): &(u64, &Arc<Want>)| filter.is_of_user(owner) && filter.is_named(want);
        let suspended = suspended.filter(meant).take(filter.limit);
        let row = |(number, want): (u64, &Arc<Want>)| SuspendedRow {
            number,
            want: Arc::clone(want),
            whose: whose.clone(),
        };
        suspended.map(row).collect()
    }

    /// Returns a page of the owners, or of those of one user, by user and UUID.
    #[must_use]
    pub fn list_owners(
        &self,
        after: Option<OwnerId>,
        limit: usize,
        user: Option<u32>,
    ) -> Vec<OwnerRow> {
        let state = self.state();
        let owners = state.table.owners_after(after);
        let meant = owners.filter(|owner| user.is_none_or(|uid| uid == owner.id.uid));
        meant.take(limit).map(OwnerRow::from).collect()
    }

    /// Returns a page of the waiting requests, in the order of their tickets.
    #[must_use]
    pub fn list_waiting(&self, filter: &Filter) -> Vec<WaitingRow> {
        let state = self.state();
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
            whose: owners.whose(waiter.owner),
            reserved: state.table.reserved_for(waiter),
        };
        waiters.map(row).collect()
    }

    /// Returns all owners, by user and UUID.
    #[must_use]
    pub fn owner_ids(&self) -> Vec<OwnerId> {
        self.state().table.owners().map(|owner| owner.id).collect()
    }

    /// Returns the numbers of the held locks of the owners that `meant` selects, in order.
    #[must_use]
    pub fn lock_numbers(&self, meant: impl Fn(OwnerId) -> bool) -> Vec<u64> {
        let state = self.state();
        state.table.locks().filter(|lock| meant(lock.owner)).map(|lock| lock.id).collect()
    }

    /// Returns what `read` makes of an owner; `None` where it is not there. Under the mutex, so
    /// that an owner with many locks need not be copied.
    pub fn read_owner<T>(&self, id: OwnerId, read: impl FnOnce(&Owner) -> T) -> Option<T> {
        self.state().table.living(id).ok().filter(|owner| owner.opened).map(read)
    }

    /// Returns the numbers of the locks that an owner holds.
    #[must_use]
    pub fn locks_of(&self, owner: OwnerId) -> Vec<u64> {
        self.state().table.locks_of(owner, 0).map(|lock| lock.id).collect()
    }
}
