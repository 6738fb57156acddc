//! Selects the processes that a worker reads.

use std::collections::HashSet;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::param::clock_ticks_per_second;

use super::identify;
use super::proc::{open_dir, open_file, pids, read_link};
use crate::inspector::skip_list::SkipList;

/// The maximum length that is read of `/proc/PID/stat`, in bytes.
const MAX_STAT_LEN: u64 = 16 * 1024;

/// The processes that a worker reads.
pub(super) struct Selection<'s> {
    skipped: &'s SkipList,
    users: HashSet<u32>,
    /// The user namespace in which the processes must be, if that matters.
    namespace: Option<Vec<u8>>,
    own: [u32; 2],
}

impl<'s> Selection<'s> {
    /// Selects all processes except those that are skipped, the service and the worker itself.
    pub(super) fn new(skipped: &'s SkipList, service_pid: u32) -> Self {
        let namespace = || read_link(CWD, c"/proc/self/ns/user");
        Self {
            skipped,
            users: skipped.skipped_users(),
            namespace: if skipped.skips_foreign_namespaces() { namespace() } else { None },
            own: [std::process::id(), service_pid],
        }
    }

    /// Returns the processes with their directories below `/proc`. An open directory never refers
    /// to another process.
    pub(super) fn processes(&self) -> impl Iterator<Item = (u32, OwnedFd)> {
        let others = pids().filter(|pid| !self.own.contains(pid));
        others.filter_map(|pid| Some((pid, open_dir(CWD, format!("/proc/{pid}"))?)))
    }

    /// Returns whether a process exists and is not skipped.
    pub(super) fn has(&self, pid: u32) -> bool {
        let dir = open_dir(CWD, format!("/proc/{pid}"));
        dir.is_some_and(|dir| self.user_of(pid, &dir).is_some())
    }

    /// Returns the user of a process; `None` if the process is skipped.
    ///
    /// The owner of `/proc/PID`, `stat` and the links in `ns` take no lock of the process.
    pub(super) fn user_of(&self, pid: u32, dir: impl AsFd) -> Option<u32> {
        let dir = dir.as_fd();
        let uid = statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::UID).ok()?.stx_uid;
        if self.skipped.is_empty() {
            return Some(uid);
        }
        let hung = self.skipped.hang_at(pid).is_some_and(|hang| {
            // If the start time is unknown, the process is taken for the same one.
            start_time_us(dir).is_none_or(|start| start <= hang.at)
        });
        let foreign = || match &self.namespace {
            Some(own) => read_link(dir, c"ns/user").is_none_or(|namespace| namespace != *own),
            None => false,
        };
        (!hung && !self.users.contains(&uid) && !foreign()).then_some(uid)
    }
}

/// Returns the start time of a process, in microseconds since boot.
fn start_time_us(dir: BorrowedFd<'_>) -> Option<u64> {
    let mut stat = String::new();
    open_file(dir, c"stat")?.take(MAX_STAT_LEN).read_to_string(&mut stat).ok()?;
    let ticks = identify::start_time(&stat)?;
    ticks.checked_mul(1_000_000)?.checked_div(clock_ticks_per_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspector::progress::ProgressFile;

    #[test]
    fn a_hang_applies_to_one_process_and_not_to_its_pid() {
        let progress = ProgressFile::new().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let dir = open_dir(CWD, format!("/proc/{}", child.id())).unwrap();
        let mut skipped = SkipList::default();
        let user = |skipped: &SkipList| Selection::new(skipped, 0).user_of(child.id(), &dir);
        let me = rustix::process::getuid().as_raw();
        assert_eq!(user(&skipped), Some(me));
        progress.set_process(child.id(), me);
        let start = start_time_us(dir.as_fd()).unwrap();
        skipped.add(progress.read(), start - 1);
        assert_eq!(user(&skipped), Some(me));
        skipped.add(progress.read(), start);
        assert_eq!(user(&skipped), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
