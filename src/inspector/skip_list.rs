//! The list of processes that workers skip, since workers have hung at them.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::progress::Progress;

/// If workers have hung at this many processes of one user, all processes of that user are skipped.
const MAX_HANGS_PER_USER: usize = 3;
/// If workers have hung at this many processes in all, all processes in foreign user namespaces are
/// skipped: there, one user can have thousands of user IDs.
const MAX_HANGS: usize = 3;
/// The maximum number of processes in the list.
const CAPACITY: usize = 64;

/// A process at which a worker hung.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hang {
    /// The pid.
    pub(super) pid: u32,
    /// The user of the process.
    pub(super) uid: u32,
    /// The time of the hang, in microseconds since boot. A process that started later is another
    /// one.
    pub(super) at: u64,
}

/// The list of processes that workers skip.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SkipList {
    hangs: Vec<Hang>,
}

impl SkipList {
    /// Adds a process.
    pub(super) fn add(&mut self, progress: Progress, at: u64) {
        let Progress { pid, uid, .. } = progress;
        self.hangs.retain(|hang| hang.pid != pid);
        if self.hangs.len() >= CAPACITY {
            self.hangs.remove(0);
        }
        self.hangs.push(Hang { pid, uid, at });
    }

    /// Removes the processes for which `keep` returns `false`.
    pub(super) fn retain(&mut self, keep: impl FnMut(&Hang) -> bool) {
        self.hangs.retain(keep);
    }

    /// Returns whether the list is empty.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.hangs.is_empty()
    }

    /// Returns the hang at the process `pid`, if there is one.
    #[must_use]
    pub(super) fn hang_at(&self, pid: u32) -> Option<&Hang> {
        self.hangs.iter().find(|hang| hang.pid == pid)
    }

    /// Returns the users whose processes are all skipped. This never includes root: set-user-ID
    /// programs are processes of root, and any user can start one.
    #[must_use]
    pub(super) fn skipped_users(&self) -> HashSet<u32> {
        let count = |uid: u32| self.hangs.iter().filter(|hang| hang.uid == uid).count();
        let uids = self.hangs.iter().map(|hang| hang.uid);
        uids.filter(|uid| *uid != 0 && count(*uid) >= MAX_HANGS_PER_USER).collect()
    }

    /// Returns whether all processes in foreign user namespaces are skipped.
    #[must_use]
    pub(super) fn skips_foreign_namespaces(&self) -> bool {
        self.hangs.len() >= MAX_HANGS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_with_several_hangs_is_skipped_altogether() {
        let mut skipped = SkipList::default();
        for (n, uid) in [(1, 1000), (2, 1000), (3, 0), (4, 0), (5, 0), (2, 1000)] {
            skipped.add(Progress { pid: n, uid, steps: 9 }, 1);
        }
        assert!(skipped.skipped_users().is_empty() && skipped.skips_foreign_namespaces());
        assert_eq!(skipped.hang_at(1).unwrap().uid, 1000);
        skipped.add(Progress { pid: 6, uid: 1000, steps: 9 }, 1);
        assert_eq!(skipped.skipped_users(), HashSet::from([1000]));
        skipped.retain(|hang| hang.pid > 5);
        assert!(skipped.skipped_users().is_empty() && !skipped.skips_foreign_namespaces());
        for pid in 0..1000 {
            skipped.add(Progress { pid, uid: 1, steps: 9 }, 1);
        }
        assert_eq!(skipped.hangs.len(), CAPACITY);
        assert!(skipped.hang_at(0).is_none());
    }
}
