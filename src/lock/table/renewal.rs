//! Changes of what locked disks lie on.

use std::path::PathBuf;
use std::sync::Arc;

use super::Table;
use crate::lock::model::extent::Extent;
use crate::lock::model::lock::{Lock, Stage, Want};

/// The present layers below a locked disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// The layers, as in [`Want::below`].
    pub below: Vec<Extent>,
    /// The paths of future copies, as in [`Want::copies`].
    pub copies: Vec<PathBuf>,
}

impl Table {
    /// Returns the locks, at any stage, on disks that may lie on something else by now.
    #[must_use]
    pub fn changeable(&self) -> Vec<Arc<Lock>> {
        let locks = self.changeable.iter().filter_map(|number| self.locks.get(number));
        locks.map(Arc::clone).collect()
    }

    /// Returns the held locks of other owners that conflict with a held lock. There are none unless
    /// a disk has come to lie on something else while it was locked: such locks are not released,
    /// since their VMs may be writing.
    #[must_use]
    pub fn conflicts(&self, number: u64) -> Vec<&Lock> {
        match self.lock(number).filter(|_| self.conflicting.contains(&number)) {
            Some(lock) => self.conflicts_of(lock).collect(),
            None => Vec::new(),
        }
    }

    /// Records that a lock and locks of other owners conflict, if they do.
    pub(super) fn record_conflicts(&mut self, number: u64) {
        let Some(lock) = self.locks.get(&number) else { return };
        let mut others: Vec<u64> = self.conflicts_of(lock).map(|other| other.id).collect();
        if !others.is_empty() {
            others.push(number);
        }
        self.conflicting.extend(others);
    }

    /// Returns the held locks of other owners that conflict with a lock.
    fn conflicts_of(&self, lock: &Lock) -> impl Iterator<Item = &Lock> {
        let (owner, mode) = (lock.owner, lock.want.mode);
        let conflicts = move |other: &&Lock| {
            let is_held = other.stage == Stage::Held;
            is_held && other.owner != owner && other.want.mode.conflicts(mode)
        };
        self.locks_overlapping(&lock.want).filter(conflicts)
    }

    /// Stores what a locked disk lies on by now, unless the lock has changed since `seen` was read.
    /// Returns the held locks of other owners that have come to conflict with it: none of them is
    /// released for that.
    pub fn store_renewed(&mut self, seen: &Lock, renewed: Renewed) -> Vec<Lock> {
        let is_unchanged =
            |want: &Want| want.below == seen.want.below && want.copies == seen.want.copies;
        let lock = self.locks.get(&seen.id).filter(|lock| is_unchanged(&lock.want));
        let Some(before) = lock.map(|lock| lock.want.clone()) else { return Vec::new() };
        let Renewed { below, copies } = renewed;
        let want = Want { below, copies, ..before.clone() };
        self.index.remove(&before, seen.id);
        self.index.insert(&want, seen.id);
        if !want.may_change() {
            self.changeable.remove(&seen.id);
        }
        if let Some(lock) = self.lock_mut(seen.id) {
            lock.want = want;
        }
        // A waiter may be blocked on what it lay on.
        self.touch(&[before]);
        self.record_conflicts(seen.id);
        let Some(lock) = self.locks.get(&seen.id) else { return Vec::new() };
        let is_new = |other: &&Lock| !other.want.overlaps(&seen.want);
        self.conflicts_of(lock).filter(is_new).cloned().collect()
    }
}
