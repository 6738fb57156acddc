//! The processes that a worker does not look at, since others hung there.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::position::Place;

/// At how many processes of one user workers may hang before all of that user's are skipped.
const OF_A_USER: usize = 3;
/// At how many processes in all workers may hang before everything in foreign user namespaces is
/// skipped: there, one user can be thousands.
const OF_ALL: usize = 3;
/// How many processes are remembered.
const REMEMBERED: usize = 64;

/// A process at which a worker hung.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hang {
    /// Its number.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// When that was, in microseconds since boot. A process that was started later is another one.
    pub at: u64,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    hangs: Vec<Hang>,
}

impl Skipped {
    /// Adds a process.
    pub fn add(&mut self, place: Place, at: u64) {
        let Place { pid, uid, .. } = place;
        self.hangs.retain(|hang| hang.pid != pid);
        if self.hangs.len() >= REMEMBERED {
            self.hangs.remove(0);
        }
        self.hangs.push(Hang { pid, uid, at });
    }

    /// Forgets those that are not to be kept.
    pub fn retain(&mut self, keep: impl FnMut(&Hang) -> bool) {
        self.hangs.retain(keep);
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hangs.is_empty()
    }

    /// Returns the hang at the process that has this number, if there was one.
    #[must_use]
    pub fn hang_at(&self, pid: u32) -> Option<&Hang> {
        self.hangs.iter().find(|hang| hang.pid == pid)
    }

    /// Returns the users whose processes are all skipped. Never root: set-user-ID programs are
    /// root's processes, and any user can start one.
    #[must_use]
    pub fn users(&self) -> HashSet<u32> {
        let count = |uid: u32| self.hangs.iter().filter(|hang| hang.uid == uid).count();
        let uids = self.hangs.iter().map(|hang| hang.uid);
        uids.filter(|uid| *uid != 0 && count(*uid) >= OF_A_USER).collect()
    }

    /// Whether all processes in other user namespaces are skipped.
    #[must_use]
    pub fn skips_namespaces(&self) -> bool {
        self.hangs.len() >= OF_ALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_at_whose_processes_workers_hang_is_skipped_altogether() {
        let mut skipped = Skipped::default();
        for (n, uid) in [(1, 1000), (2, 1000), (3, 0), (4, 0), (5, 0), (2, 1000)] {
            skipped.add(Place { pid: n, uid, step: 9 }, 1);
        }
        assert!(skipped.users().is_empty() && skipped.skips_namespaces());
        assert_eq!(skipped.hang_at(1).unwrap().uid, 1000);
        skipped.add(Place { pid: 6, uid: 1000, step: 9 }, 1);
        assert_eq!(skipped.users(), HashSet::from([1000]));
        skipped.retain(|hang| hang.pid > 5);
        assert!(skipped.users().is_empty() && !skipped.skips_namespaces());
        for pid in 0..1000 {
            skipped.add(Place { pid, uid: 1, step: 9 }, 1);
        }
        assert_eq!(skipped.hangs.len(), REMEMBERED);
        assert!(skipped.hang_at(0).is_none());
    }
}
