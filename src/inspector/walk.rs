//! The walk through what all processes have open.
//!
//! For each descriptor its link is read first (`/proc/PID/fd/N`), which takes no lock. Sockets, pipes,
//! epoll descriptors and the like are skipped by it; `fdinfo/N` is read of files and devices only. A
//! lock line is compared with the file itself, as subvolumes share what it says.
//!
//! Threads may have file tables of their own ([`crate::lock::foreign::file_tables`]). These are looked at where
//! the leader of a process has none, and otherwise only while the holder, or a process with a lifeline,
//! is missing after a walk through all leaders.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, CWD, Dir, Mode as Permissions, OFlags, StatxFlags, makedev, openat, readlinkat, statx,
};
use rustix::param::clock_ticks_per_second;

use super::describe::describe;
use super::identify;
use super::position::Position;
use super::skip::Skipped;
use crate::lock::foreign::fdinfo::{Found, NAMED, Node, Processes, Search, Seen};
use crate::lock::foreign::file_tables::threads_with_own_table;
use crate::lock::model::mode::Mode;
use crate::lock::model::process::Process;

/// What of one description is read. Its locks come first.
const INFO: u64 = 16 * 1024;
/// How long a walk may take. On a host with so many open files that it takes longer, what was not
/// found by then stays unnamed.
const LONGEST: Duration = Duration::from_secs(2);
/// How long the walk through the tables of threads may take, where the walk before it took no longer:
/// what was found without the tables of threads must not come too late for its caller.
const LONGEST_OF_THREADS: Duration = Duration::from_millis(25);
/// What is no disk, and what most processes have open.
const DEVICES: [&[u8]; 7] = [
    b"/dev/null",
    b"/dev/zero",
    b"/dev/urandom",
    b"/dev/tty",
    b"/dev/pts/",
    b"/dev/dri/",
    b"/dev/fuse",
];

/// Looks through the selected processes.
pub(super) fn search(search: &Search, selection: &Selection<'_>, position: &Position) -> Found {
    let started = Instant::now();
    let end = started + LONGEST;
    let mut hits = Hits { lifelines: vec![Vec::new(); search.lifelines.len()], ..Hits::default() };
    for (pid, folder) in selection.processes() {
        let Some(uid) = selection.user_of(pid, &folder) else { continue };
        position.at(pid, uid);
        let mut seen = Seen::default();
        if !look_at(search, &folder, &mut seen, position) {
            look_at_threads(search, (pid, &folder), &mut seen, position, end);
        }
        hits.add(pid, seen);
        if Instant::now() > end {
            break;
        }
    }
    if hits.misses(search) {
        let end = end.min(Instant::now() + started.elapsed().max(LONGEST_OF_THREADS));
        for (pid, folder) in selection.processes() {
            let Some(uid) = selection.user_of(pid, &folder) else { continue };
            position.at(pid, uid);
            let mut seen = Seen::default();
            look_at_threads(search, (pid, &folder), &mut seen, position, end);
            hits.add(pid, seen);
            if Instant::now() > end {
                break;
            }
        }
    }
    let Hits { mut holders, users, lifelines } = hits;
    // The kernel itself names it, even where its descriptors can't be listed.
    if let Some(told) = search.told
        && !holders.iter().any(|(pid, _)| *pid == told)
    {
        holders.insert(0, (told, None));
    }
    let named = |pids: &Vec<_>| named(pids, selection, position);
    Found {
        holders: named(&holders),
        users: named(&users),
        lifelines: lifelines.iter().map(named).collect(),
    }
}

/// The processes in which something was found.
#[derive(Debug, Default)]
struct Hits {
    holders: Vec<(u32, Option<Mode>)>,
    users: Vec<(u32, Option<Mode>)>,
    /// In the order of the search.
    lifelines: Vec<Vec<(u32, Option<Mode>)>>,
}

impl Hits {
    /// Adds what was seen in a process, which may be known from another of its tables.
    fn add(&mut self, pid: u32, seen: Seen) {
        let add = |to: &mut Vec<(u32, Option<Mode>)>, mode| {
            if to.iter().all(|(known, _)| *known != pid) {
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
            self.users.retain(|(known, _)| *known != pid);
        } else if seen.uses {
            let mode = if seen.writes { Mode::Exclusive } else { Mode::Shared };
            add(&mut self.users, Some(mode));
        }
    }

    /// Whether a process that has something of this is missing.
    fn misses(&self, search: &Search) -> bool {
        let holder = search.locked.is_some() && search.told.is_none() && self.holders.is_empty();
        holder || self.lifelines.iter().take(64).any(Vec::is_empty)
    }
}

fn named(
    pids: &[(u32, Option<Mode>)],
    selection: &Selection<'_>,
    position: &Position,
) -> Processes {
    let (first, rest) = pids.split_at(pids.len().min(NAMED));
    let describe = |(pid, mode): &(u32, Option<Mode>)| {
        // The kernel may name one that is skipped.
        Some(Process { mode: *mode, ..describe(*pid, selection.has(*pid), position)? })
    };
    Processes { named: first.iter().filter_map(describe).collect(), more: rest.len() }
}

/// The processes that are looked at.
pub(super) struct Selection<'s> {
    skipped: &'s Skipped,
    users: HashSet<u32>,
    /// The user namespace to which they must belong, where that matters.
    namespace: Option<Vec<u8>>,
    own: [u32; 2],
}

impl<'s> Selection<'s> {
    /// All but those that are skipped, the service and this process.
    pub(super) fn new(skipped: &'s Skipped, service: u32) -> Self {
        let namespace = || link(CWD, c"/proc/self/ns/user");
        Self {
            skipped,
            users: skipped.users(),
            namespace: if skipped.skips_namespaces() { namespace() } else { None },
            own: [std::process::id(), service],
        }
    }

    /// Returns them with their directories below `/proc`, which stay those of the same process.
    fn processes(&self) -> impl Iterator<Item = (u32, OwnedFd)> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let others = pids.filter(|pid| !self.own.contains(pid));
        others.filter_map(|pid| Some((pid, open_folder(CWD, format!("/proc/{pid}"))?)))
    }

    /// Whether a process is there, and is not to be skipped.
    pub(super) fn has(&self, pid: u32) -> bool {
        let folder = open_folder(CWD, format!("/proc/{pid}"));
        folder.is_some_and(|folder| self.user_of(pid, &folder).is_some())
    }

    /// Returns the user of a process, `None` where the process is to be skipped.
    ///
    /// Neither the owner of `/proc/PID` nor `stat` nor the links in `ns` take a lock of the process.
    pub(super) fn user_of(&self, pid: u32, folder: impl AsFd) -> Option<u32> {
        let folder = folder.as_fd();
        let uid = statx(folder, c"", AtFlags::EMPTY_PATH, StatxFlags::UID).ok()?.stx_uid;
        if self.skipped.is_empty() {
            return Some(uid);
        }
        let hung = self.skipped.hang_at(pid).is_some_and(|hang| {
            // What can't be compared is taken for the same.
            start_of(folder).is_none_or(|start| start <= hang.at)
        });
        let foreign = || match &self.namespace {
            Some(own) => link(folder, c"ns/user").is_none_or(|namespace| namespace != *own),
            None => false,
        };
        (!hung && !self.users.contains(&uid) && !foreign()).then_some(uid)
    }
}

/// When a process was started, in microseconds since boot.
fn start_of(folder: BorrowedFd<'_>) -> Option<u64> {
    let mut stat = String::new();
    open_file(folder, c"stat")?.take(INFO).read_to_string(&mut stat).ok()?;
    let ticks = identify::start_of(&stat)?;
    ticks.checked_mul(1_000_000)?.checked_div(clock_ticks_per_second())
}

pub(super) fn open_folder(at: impl AsFd, path: impl rustix::path::Arg) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(at, path, flags, Permissions::empty()).ok()
}

pub(super) fn open_file(at: BorrowedFd<'_>, path: impl rustix::path::Arg) -> Option<File> {
    openat(at, path, OFlags::RDONLY | OFlags::CLOEXEC, Permissions::empty()).ok().map(File::from)
}

fn link(at: impl AsFd, path: &CStr) -> Option<Vec<u8>> {
    readlinkat(at, path, Vec::new()).ok().map(CString::into_bytes)
}

/// Whether a link leads to what may be locked: a file or a device, by its path.
fn may_be_disk(link: &[u8]) -> bool {
    link.starts_with(b"/") && !DEVICES.iter().any(|device| link.starts_with(device))
}

/// Looks at those threads of a process that have a file table of their own.
fn look_at_threads(
    search: &Search,
    (pid, folder): (u32, &OwnedFd),
    seen: &mut Seen,
    position: &Position,
    end: Instant,
) {
    let go_on = || {
        position.step();
        Instant::now() <= end
    };
    for thread in threads_with_own_table(Path::new(&format!("/proc/{pid}")), go_on) {
        // Of the same process, whatever has its number by now.
        if let Some(thread) = open_folder(folder, format!("task/{thread}")) {
            look_at(search, &thread, seen, position);
        }
    }
}

/// Looks at the descriptors of a process, or of a thread. Returns whether it has any.
fn look_at(search: &Search, folder: &OwnedFd, seen: &mut Seen, position: &Position) -> bool {
    // Gone, or not ours to see.
    let Some(fds) = open_folder(folder, c"fd") else { return false };
    let Ok(entries) = Dir::read_from(&fds) else { return false };
    let mut has_any = false;
    let mut info = String::new();
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let Some(link) = link(&fds, name) else { continue };
        has_any = true;
        seen.lifelines |= search.lifeline(&link);
        if !search.is_for_files() || !may_be_disk(&link) {
            continue;
        }
        position.step();
        let path = [b"fdinfo/", name.to_bytes()].concat();
        let Some(file) = open_file(folder.as_fd(), path.as_slice()) else { continue };
        info.clear();
        // What is no text is none of the kernel's.
        if file.take(INFO).read_to_string(&mut info).is_err() {
            continue;
        }
        let mut listed = Seen::default();
        info.lines().for_each(|line| search.note(line, &mut listed));
        if listed == Seen::default() {
            continue;
        }
        let is = |node: &Node| is_file(&fds, name, node);
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

/// Whether a descriptor of a process is open on this very file. Its file system is not asked: what
/// the kernel knows of it is enough.
fn is_file(fds: &OwnedFd, name: &CStr, node: &Node) -> bool {
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
    fn only_paths_are_candidates() {
        for link in ["/srv/a", "/dev/sda", "/srv/a (deleted)", "/dev/loop0"] {
            assert!(may_be_disk(link.as_bytes()), "{link}");
        }
        for link in ["pipe:[7]", "socket:[7]", "anon_inode:[eventpoll]", "/dev/null", "/dev/pts/3"]
        {
            assert!(!may_be_disk(link.as_bytes()), "{link}");
        }
    }

    #[test]
    fn a_process_that_hung_is_skipped_until_its_number_is_anothers() {
        let position = Position::new().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let folder = open_folder(CWD, format!("/proc/{}", child.id())).unwrap();
        let mut skipped = Skipped::default();
        let user = |skipped: &Skipped| Selection::new(skipped, 0).user_of(child.id(), &folder);
        let me = rustix::process::getuid().as_raw();
        assert_eq!(user(&skipped), Some(me));
        position.at(child.id(), me);
        let start = start_of(folder.as_fd()).unwrap();
        skipped.add(position.read(), start - 1);
        assert_eq!(user(&skipped), Some(me));
        skipped.add(position.read(), start);
        assert_eq!(user(&skipped), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
