//! What held disks lie on, where that has changed since they were locked.

use std::sync::Arc;

use super::Table;
use crate::lock::record::{Lock, Stage, Want};
use crate::lock::renewal::Renewed;

impl Table {
    /// Returns the locks, at any stage, on disks that may lie on something else by now.
    #[must_use]
    pub fn changeable(&self) -> Vec<Arc<Lock>> {
        let locks = self.changeable.iter().filter_map(|number| self.locks.get(number));
        locks.map(Arc::clone).collect()
    }

    /// Enters what a locked disk lies on by now, if the lock still is as it was looked at. Returns the
    /// held locks of other owners that conflict with it: nothing is released for that.
    pub fn enter_renewed(&mut self, seen: &Lock, renewed: Renewed) -> Vec<Lock> {
        let as_seen =
            |want: &Want| want.below == seen.want.below && want.copies == seen.want.copies;
        let lock = self.locks.get(&seen.id).filter(|lock| as_seen(&lock.want));
        let Some(before) = lock.map(|lock| lock.want.clone()) else { return Vec::new() };
        let Renewed { below, copies } = renewed;
        let want = Want { below, copies, ..before.clone() };
        self.spots.remove(&before, seen.id);
        self.spots.insert(&want, seen.id);
        if !want.may_change() {
            self.changeable.remove(&seen.id);
        }
        if let Some(lock) = self.lock_mut(seen.id) {
            lock.want = want.clone();
        }
        // A waiter may be blocked on what it lay on.
        self.touch(&[before]);
        let conflicts = |lock: &&Lock| {
            lock.stage == Stage::Held
                && lock.owner != seen.owner
                && lock.want.mode.conflicts(want.mode)
                && !lock.want.meets(&seen.want)
        };
        self.met_by(&want).filter(conflicts).cloned().collect()
    }
}
