//! Looks again at what locked disks lie on: before another lock is granted, after a restart, and when
//! somebody asks who holds what.

use super::Service;
use crate::lock::printable::shown;
use crate::lock::renewal::renewed;
use crate::lock::snapshot::Snapshot;
use crate::lock::work::Work;
use crate::lock::{Lock, Table};

/// Looks at what locked disks lie on.
pub(super) struct Renew(pub(super) Service);

impl Work for Renew {
    type Answer = ();

    fn perform(self) {
        self.0.renew_stacks();
    }
}

impl Service {
    /// Enters into the table what locked disks lie on by now. Costs nothing where no disk is locked that
    /// may lie on something else than before. For a storage thread.
    pub fn renew_stacks(&self) {
        self.renew_stacks_by(&Snapshot::default());
    }

    /// Does the same with what `host` says. That must not have been used for the lookup of the disks that
    /// are asked for: a loop device may have been changed since.
    pub(super) fn renew_stacks_by(&self, host: &Snapshot) {
        let locks = self.state().table.changeable();
        for lock in locks {
            let Some(renewed) = renewed(&lock.want, host) else { continue };
            let others = self.state().table.enter_renewed(&lock, renewed);
            let resource = shown(&lock.want.resource);
            tracing::info!(
                lock = lock.id,
                "{resource} lies on something else than when it was locked"
            );
            for other in others {
                report_conflict(&lock, &other);
            }
        }
    }

    /// As [`Self::renew_stacks`], for a caller that is not a storage thread.
    pub async fn renew_stacks_soon(&self) {
        if !self.state().table.changeable().is_empty() {
            // What can't be looked at is as it was.
            let _ = self.storage().run(Renew(self.clone())).await;
        }
    }

    /// Whether each of these locks conflicts with one of another owner.
    #[must_use]
    pub fn conflicts<'l>(&self, locks: impl IntoIterator<Item = &'l Lock>) -> Vec<bool> {
        let state = self.state();
        locks.into_iter().map(|lock| !state.table.conflicts(lock.id).is_empty()).collect()
    }
}

/// Logs which locks of other owners conflict with a lock.
pub(super) fn report_conflicts(table: &Table, number: u64) {
    let Some(lock) = table.lock(number) else { return };
    for other in table.conflicts(number) {
        report_conflict(lock, other);
    }
}

fn report_conflict(lock: &Lock, other: &Lock) {
    let (resource, other) = (shown(&lock.want.resource), shown(&other.want.resource));
    tracing::error!(
        lock = lock.id,
        "{resource} now shares data with {other}, and different owners hold a lock on each"
    );
}
