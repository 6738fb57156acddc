//! Queries, which change nothing.

use std::sync::Arc;

use crate::lock::acquire::handle::LockHandle;
use crate::lock::model::extent::Extent;
use crate::lock::model::identity::Identity;
use crate::lock::model::refusal::Holder;
use crate::lock::{Lock, Owner, OwnerId};
use crate::service::core::limits::Visibility;
use crate::service::facade::Service;

impl Service {
    /// Returns an owner.
    #[must_use]
    pub fn owner(&self, id: OwnerId) -> Option<Owner> {
        self.0.state().owner(id).cloned()
    }

    /// Returns all owners.
    #[must_use]
    pub fn owners(&self) -> Vec<Owner> {
        self.0.state().table.owners().cloned().collect()
    }

    /// Whether there are no owners and no waiting requests.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let state = self.0.state();
        state.table.owners().next().is_none() && state.table.waiters().next().is_none()
    }

    /// Whether the owners of other users are hidden.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.0.state().settings.visibility == Visibility::Private
    }

    /// Returns the number of owners.
    #[must_use]
    pub fn owner_count(&self) -> usize {
        self.0.state().table.owners().count()
    }

    /// Returns a held lock.
    #[must_use]
    pub fn lock(&self, number: u64) -> Option<Lock> {
        self.0.state().table.lock(number).cloned()
    }

    /// Returns the owner of a held lock.
    #[must_use]
    pub fn lock_owner(&self, number: u64) -> Option<OwnerId> {
        self.0.state().table.lock(number).map(|lock| lock.owner)
    }

    /// Returns all held locks.
    #[must_use]
    pub fn locks(&self) -> Vec<Lock> {
        self.0.state().table.locks().cloned().collect()
    }

    /// Returns all owners, each with the numbers of its locks.
    #[must_use]
    pub fn owners_and_locks(&self) -> Vec<(Owner, Vec<u64>)> {
        let state = self.0.state();
        let held = |owner: &Owner| {
            let locks = owner.locks.iter().copied();
            locks.filter(|lock| state.table.lock(*lock).is_some()).collect()
        };
        state.table.owners().map(|owner| (owner.clone(), held(owner))).collect()
    }

    /// Returns the holders of these locks as a refusal describes them.
    #[must_use]
    pub fn holders(&self, locks: &[Lock]) -> Vec<Holder> {
        self.0.state().holders(locks)
    }

    /// Returns the owners that have just released this resource and for which it is reserved.
    #[must_use]
    pub fn reserved_holders(&self, identity: Identity, below: &[Extent]) -> Vec<Holder> {
        self.0.state().table.reserved_holders(identity, below)
    }

    /// Returns the lock handles of these locks, if they exist.
    #[must_use]
    pub fn held(&self, locks: &[Lock]) -> Vec<Arc<LockHandle>> {
        let state = self.0.state();
        locks.iter().filter_map(|lock| state.held.get(&lock.id).cloned()).collect()
    }

    /// Returns the number of held locks that `counted` selects.
    #[must_use]
    pub fn count_locks(&self, counted: impl Fn(&Lock) -> bool) -> usize {
        self.0.state().table.locks().filter(|lock| counted(lock)).count()
    }

    /// Returns the owner that is bound to a process. Among several owners, the caller's own comes
    /// first.
    #[must_use]
    pub fn owner_by_pid(&self, pid: u32, caller: u32) -> Option<OwnerId> {
        let state = self.0.state();
        let bound = |owner: &&Owner| pid != 0 && owner.is_bound_to(pid);
        let mine = state.table.owners().filter(|owner| owner.id.uid == caller).find(bound);
        mine.or_else(|| state.table.owners().find(bound)).map(|owner| owner.id)
    }

    /// Returns the locks on a resource, whatever name it was locked by, on what it lies on, and on
    /// what lies on it.
    #[must_use]
    pub fn locks_on(&self, identity: Identity, below: &[Extent]) -> Vec<Lock> {
        self.0.state().locks_on(identity, below)
    }

    /// Returns the locks with this name, as requested or as found: only strings are compared.
    #[must_use]
    pub fn locks_named(&self, name: &str) -> Vec<Lock> {
        let named = |lock: &&Lock| {
            lock.want.resource == name || lock.want.canonical.as_deref() == Some(name)
        };
        self.0.state().table.locks().filter(named).cloned().collect()
    }

    /// Returns for each lock whether it conflicts with a lock of another owner.
    #[must_use]
    pub fn conflicts<'l>(&self, locks: impl IntoIterator<Item = &'l Lock>) -> Vec<bool> {
        let state = self.0.state();
        locks.into_iter().map(|lock| !state.table.conflicts(lock.id).is_empty()).collect()
    }

    /// Returns the number of waiting requests.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.count_waiters(|_| true)
    }

    /// Returns the number of waiting requests of the users that `counts` selects.
    #[must_use]
    pub fn count_waiters(&self, counts: impl Fn(u32) -> bool) -> usize {
        self.0.state().table.waiters().filter(|waiter| counts(waiter.owner.uid)).count()
    }

    /// Returns the number of requests of the users that `counts` selects which wait for the target
    /// of a lock.
    #[must_use]
    pub fn waiting_for(&self, number: u64, counts: impl Fn(u32) -> bool) -> usize {
        let state = self.0.state();
        let counts = |owner: OwnerId| counts(owner.uid);
        state.table.lock(number).map_or(0, |lock| state.table.waiting_for(lock, counts))
    }
}
