//! Searches the open files of all processes for locks, disks and lifelines.
//!
//! 1. For each descriptor, its link is read first (`/proc/PID/fd/N`), which takes no lock. Sockets,
//!    pipes, epoll descriptors and the like are skipped by their links; `fdinfo/N` is read for
//!    files and devices only.
//! 2. A lock line is compared with the file itself, since subvolumes share the device number in the
//!    line.
//! 3. Threads may have file tables of their own ([`crate::lock::foreign::file_tables`]). These are read if
//!    the leader of a process has none. Otherwise they are read only if the holder, or a process
//!    with a lifeline, is missing after a walk through all leaders.

use std::ffi::CStr;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, StatxFlags, makedev, statx};

use super::describe::describe;
use super::proc::{open_dir, open_file, read_link};
use super::selection::Selection;
use crate::inspector::progress::ProgressFile;
use crate::lock::foreign::file_tables::threads_with_own_table;
use crate::lock::model::mode::Mode;
use crate::lock::model::process::Process;
use crate::lock::model::process_search::{FileMatches, Found, NAMED, Node, Processes, Search};

/// The maximum length that is read of a `fdinfo` file, in bytes. The locks come first.
const MAX_FDINFO_LEN: u64 = 16 * 1024;
/// The maximum duration of a walk. On a host with more open files, a process that is not found by
/// then is not named.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum duration of the walk through the tables of threads, if the walk before it was
/// shorter: the result of the first walk must not be late for its caller.
const THREAD_SEARCH_TIMEOUT: Duration = Duration::from_millis(25);
/// Devices that are no disks, and that most processes have open.
const IRRELEVANT_DEVICES: [&[u8]; 7] = [
    b"/dev/null",
    b"/dev/zero",
    b"/dev/urandom",
    b"/dev/tty",
    b"/dev/pts/",
    b"/dev/dri/",
    b"/dev/fuse",
];

/// Searches the selected processes.
pub(super) fn search(search: &Search, selection: &Selection<'_>, progress: &ProgressFile) -> Found {
    let started = Instant::now();
    let deadline = started + SEARCH_TIMEOUT;
    let mut matches =
        Matches { lifelines: vec![Vec::new(); search.lifelines.len()], ..Matches::default() };
    let mut walk = |deadline: Instant, read: &dyn Fn(u32, &OwnedFd, &mut FileMatches, Instant)| {
        for (pid, dir) in selection.processes() {
            let Some(uid) = selection.user_of(pid, &dir) else { continue };
            progress.set_process(pid, uid);
            let mut seen = FileMatches::default();
            read(pid, &dir, &mut seen, deadline);
            matches.add(pid, seen);
            if Instant::now() > deadline {
                break;
            }
        }
        matches.is_incomplete(search)
    };
    let read_threads = |pid: u32, dir: &OwnedFd, seen: &mut FileMatches, deadline: Instant| {
        search_thread_tables(search, (pid, dir), seen, progress, deadline);
    };
    let is_incomplete = walk(deadline, &|pid, dir, seen, deadline| {
        if !search_table(search, dir, seen, progress) {
            read_threads(pid, dir, seen, deadline);
        }
    });
    if is_incomplete {
        let duration = started.elapsed().max(THREAD_SEARCH_TIMEOUT);
        walk(deadline.min(Instant::now() + duration), &read_threads);
    }
    let Matches { mut holders, users, lifelines } = matches;
    // The kernel reports this holder, also if its descriptors cannot be listed.
    if let Some(holder) = search.reported_pid
        && !holders.iter().any(|(pid, _)| *pid == holder)
    {
        holders.insert(0, (holder, None));
    }
    let describe = |pids: &Vec<_>| describe_all(pids, selection, progress);
    Found {
        holders: describe(&holders),
        users: describe(&users),
        lifelines: lifelines.iter().map(describe).collect(),
    }
}

/// The processes that match the search.
#[derive(Debug, Default)]
struct Matches {
    holders: Vec<(u32, Option<Mode>)>,
    users: Vec<(u32, Option<Mode>)>,
    /// By the index of the lifeline in the search.
    lifelines: Vec<Vec<(u32, Option<Mode>)>>,
}

impl Matches {
    /// Adds the matches of a process, which another of its tables may have added before.
    fn add(&mut self, pid: u32, seen: FileMatches) {
        let add = |to: &mut Vec<(u32, Option<Mode>)>, mode| {
            if to.iter().all(|(found, _)| *found != pid) {
                to.push((pid, mode));
            }
        };
        for (n, keepers) in self.lifelines.iter_mut().enumerate().take(64) {
            if seen.lifelines & (1 << n) != 0 {
                add(keepers, None);
            }
        }
        if seen.holds {
            add(&mut self.holders, None);
            self.users.retain(|(found, _)| *found != pid);
        } else if seen.uses {
            let mode = if seen.writes { Mode::Exclusive } else { Mode::Shared };
            add(&mut self.users, Some(mode));
        }
    }

    /// Returns whether a process that must exist is missing.
    fn is_incomplete(&self, search: &Search) -> bool {
        let holder =
            search.locked.is_some() && search.reported_pid.is_none() && self.holders.is_empty();
        holder || self.lifelines.iter().take(64).any(Vec::is_empty)
    }
}

fn describe_all(
    pids: &[(u32, Option<Mode>)],
    selection: &Selection<'_>,
    progress: &ProgressFile,
) -> Processes {
    let (first, rest) = pids.split_at(pids.len().min(NAMED));
    let describe = |(pid, mode): &(u32, Option<Mode>)| {
        // The kernel may report a process that is skipped.
        Some(Process { mode: *mode, ..describe(*pid, selection.has(*pid), progress)? })
    };
    Processes { named: first.iter().filter_map(describe).collect(), more: rest.len() }
}

/// Returns whether a link is the path of a file or device that may be locked.
fn may_be_disk(link: &[u8]) -> bool {
    link.starts_with(b"/") && !IRRELEVANT_DEVICES.iter().any(|device| link.starts_with(device))
}

/// Searches the threads of a process that have a file table of their own.
fn search_thread_tables(
    search: &Search,
    (pid, dir): (u32, &OwnedFd),
    seen: &mut FileMatches,
    progress: &ProgressFile,
    deadline: Instant,
) {
    let keep_going = || {
        progress.advance();
        Instant::now() <= deadline
    };
    for thread in threads_with_own_table(Path::new(&format!("/proc/{pid}")), keep_going) {
        // Opened through the directory of the process, so that it is a thread of the same process.
        if let Some(thread) = open_dir(dir, format!("task/{thread}")) {
            search_table(search, &thread, seen, progress);
        }
    }
}

/// Searches the descriptors of a process or thread. Returns whether it has any.
fn search_table(
    search: &Search,
    dir: &OwnedFd,
    seen: &mut FileMatches,
    progress: &ProgressFile,
) -> bool {
    // The process has exited, or is not accessible.
    let Some(fds) = open_dir(dir, c"fd") else { return false };
    let Ok(entries) = Dir::read_from(&fds) else { return false };
    let mut has_any = false;
    let mut info = String::new();
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let Some(link) = read_link(&fds, name) else { continue };
        has_any = true;
        seen.lifelines |= search.lifeline(&link);
        if !search.is_for_files() || !may_be_disk(&link) {
            continue;
        }
        progress.advance();
        let path = [b"fdinfo/", name.to_bytes()].concat();
        let Some(file) = open_file(dir.as_fd(), path.as_slice()) else { continue };
        info.clear();
        // The kernel writes only text.
        if file.take(MAX_FDINFO_LEN).read_to_string(&mut info).is_err() {
            continue;
        }
        let mut listed = FileMatches::default();
        info.lines().for_each(|line| search.match_lock(line, &mut listed));
        if listed == FileMatches::default() {
            continue;
        }
        let is = |node: &Node| is_same_file(&fds, name, node);
        if listed.holds && search.locked.as_ref().is_some_and(|(node, ..)| is(node)) {
            seen.holds = true;
        }
        if listed.uses && search.disk.as_ref().is_some_and(is) {
            seen.uses = true;
            seen.writes |= listed.writes;
        }
    }
    has_any
}

/// Returns whether a descriptor of a process refers to the file `node`. Sends no request to the
/// file system: cached attributes are enough.
fn is_same_file(fds: &OwnedFd, name: &CStr, node: &Node) -> bool {
    let found = statx(fds, name, AtFlags::STATX_DONT_SYNC, StatxFlags::INO);
    found.is_ok_and(|found| {
        let dev = makedev(found.stx_dev_major, found.stx_dev_minor);
        (dev, found.stx_ino) == (node.dev, node.ino)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_may_be_disks() {
        for link in ["/srv/a", "/dev/sda", "/srv/a (deleted)", "/dev/loop0"] {
            assert!(may_be_disk(link.as_bytes()), "{link}");
        }
        for link in ["pipe:[7]", "socket:[7]", "anon_inode:[eventpoll]", "/dev/null", "/dev/pts/3"]
        {
            assert!(!may_be_disk(link.as_bytes()), "{link}");
        }
    }
}
