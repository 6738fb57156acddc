//! The locks that `/proc/PID/fdinfo/FD` lists on a file, and the search for holders among them.
//!
//! A lock of an open file description belongs to no process, but `/proc/PID/fdinfo/FD` of every
//! process that has the description lists it (`proc_pid_fdinfo(5)`), as it lists a POSIX lock of
//! the process. One walk over all of them finds both the holders of a byte lock and the processes
//! that use a disk: QEMU has locks of its own on the images that it has open (bytes 100 and 200 and
//! up, QEMU's `block/file-posix.c`). The inspector performs the walk; this module defines what it
//! searches for, and parses a line. `/proc/locks` is never read: that blocks every lock operation
//! on the host meanwhile.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::lock::model::mode::Mode;
use crate::lock::model::process::Process;

/// The maximum number of named processes; the others are counted.
pub const NAMED: usize = 3;

/// A file, as the kernel lists locks on it and as `stat(2)` identifies it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Device and inode as in a lock line: `fe:00:10085382`. The device is that of the file system,
    /// so all subvolumes and snapshots of a btrfs share these.
    pub listed: String,
    /// The device (`st_dev`), which distinguishes subvolumes.
    pub dev: u64,
    /// The inode (`st_ino`).
    pub ino: u64,
}

/// The targets of a walk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Search {
    /// The file with the conflicting lock, and the kind and mode of that lock.
    pub locked: Option<(Node, ForeignLock, Mode)>,
    /// The process that the kernel itself reports as the holder. It is described even if its
    /// descriptors cannot be listed.
    #[serde(rename = "told")]
    pub reported_pid: Option<u32>,
    /// The disk.
    pub disk: Option<Node>,
    /// Lifelines, by the inodes of their pipes. At most 64.
    #[serde(default)]
    pub lifelines: Vec<u64>,
}

/// The type of a foreign holder's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForeignLock {
    /// A POSIX or open file description lock on the byte.
    Byte,
    /// A file lease, which the kernel breaks within `/proc/sys/fs/lease-break-time`.
    Lease,
}

/// Processes: some by name, and the number of the others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processes {
    /// The named processes.
    pub named: Vec<Process>,
    /// The number of the others.
    pub more: usize,
}

impl Processes {
    /// Whether this process is among the named ones.
    #[must_use]
    pub fn has(&self, pid: u32) -> bool {
        self.named.iter().any(|process| process.pid == pid)
    }

    /// Adds other processes, each once.
    pub fn merge(&mut self, others: Self) {
        for process in others.named {
            if !self.has(process.pid) {
                self.named.push(process);
            }
        }
        self.more += others.more;
    }

    /// Removes the named processes that `known` selects.
    pub fn leave_out(&mut self, known: impl Fn(&Process) -> bool) {
        self.named.retain(|process| !known(process));
    }
}

/// The processes that were found, each once: the holders of the lock, and the users of the disk
/// that do not hold it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Processes that hold the lock.
    pub holders: Processes,
    /// Processes that have the disk open with locks of their own.
    pub users: Processes,
    /// Processes that hold the lifelines, in the order of the search.
    #[serde(default)]
    pub lifelines: Vec<Processes>,
}

/// The matches of one open file of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileMatches {
    /// It holds the lock.
    pub holds: bool,
    /// It has the disk open, locked as QEMU locks an image.
    pub uses: bool,
    /// It writes the disk.
    pub writes: bool,
    /// The lifelines that it holds, as bits.
    pub lifelines: u64,
}

impl Search {
    /// Whether there is anything to look for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the search includes files or devices, and not lifelines only.
    #[must_use]
    pub fn is_for_files(&self) -> bool {
        self.locked.is_some() || self.disk.is_some()
    }

    /// Returns the lifeline, as a bit, to which a link in `/proc/PID/fd` leads; 0 for anything
    /// else.
    #[must_use]
    pub fn lifeline(&self, link: &[u8]) -> u64 {
        let inode = link.strip_prefix(b"pipe:[").and_then(|link| link.strip_suffix(b"]"));
        let inode = inode.and_then(|inode| str::from_utf8(inode).ok()?.parse::<u64>().ok());
        let index = self.lifelines.iter().position(|lifeline| Some(*lifeline) == inode);
        index.filter(|index| *index < 64).map_or(0, |index| 1 << index)
    }

    /// Records the matches of a line: `lock: 1: OFDLCK ADVISORY WRITE -1 fe:00:10085382 0 EOF`.
    pub fn match_lock(&self, line: &str, seen: &mut FileMatches) {
        let Some(line) = line.strip_prefix("lock:") else { return };
        let mut fields = line.split_whitespace().skip(1);
        let mut next = || fields.next().unwrap_or_default();
        let (kind, _, mode, _, at, start, end) =
            (next(), next(), next(), next(), next(), next(), next());
        let is_byte = matches!(kind, "OFDLCK" | "POSIX");
        if let Some((node, by, locked_mode)) = &self.locked
            && at == node.listed
        {
            seen.holds |= match by {
                ForeignLock::Lease => kind == "LEASE",
                ForeignLock::Byte => {
                    let expected = if *locked_mode == Mode::Exclusive { "WRITE" } else { "READ" };
                    is_byte && start == "0" && mode == expected
                }
            };
        }
        let is_disk = self.disk.as_ref().is_some_and(|node| at == node.listed);
        if let Some(range) = qemu_range(start, end).filter(|_| is_byte && is_disk) {
            seen.uses = true;
            seen.writes |= range.contains(&QEMU_WRITE_BYTE);
        }
    }
}

/// The byte that QEMU locks on an image that it writes.
const QEMU_WRITE_BYTE: u32 = 101;

/// Returns a range within the bytes at which QEMU locks its images: from 100 up, and less than 300.
fn qemu_range(start: &str, end: &str) -> Option<RangeInclusive<u32>> {
    let number = |text: &str| text.parse().ok().filter(|byte| (100..300).contains(byte));
    Some(number(start)?..=number(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(line: &str, by: ForeignLock, mode: Mode) -> (bool, bool) {
        let node = |text: &str| Node { listed: text.to_owned(), dev: 1, ino: 1 };
        let locked = Some((node("fe:00:42"), by, mode));
        let disk = Some(node("fe:00:7"));
        let search = Search { locked, disk, ..Search::default() };
        let mut seen = FileMatches::default();
        search.match_lock(line, &mut seen);
        assert_eq!(seen.writes, line.contains(" 100 101"));
        (seen.holds, seen.uses)
    }

    #[test]
    fn lines_of_fdinfo_are_parsed() {
        let byte = |line, mode| seen(line, ForeignLock::Byte, mode).0;
        let write = "lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:42 0 0";
        assert!(byte(write, Mode::Exclusive) && !byte(write, Mode::Shared));
        let read = "lock:\t1: POSIX  ADVISORY  READ 12 fe:00:42 0 EOF";
        assert!(byte(read, Mode::Shared) && !byte(read, Mode::Exclusive));
        assert!(!byte("lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:42 100 103", Mode::Shared));
        assert!(!byte("lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:43 0 0", Mode::Exclusive));
        for odd in ["pos:\t0", "lock:", "lock:\t1: OFDLCK ADVISORY", "", "lock:\u{0}"] {
            assert_eq!(seen(odd, ForeignLock::Byte, Mode::Exclusive), (false, false));
        }
        let lease = "lock:\t1: LEASE  ACTIVE    WRITE 77 fe:00:42 0 EOF";
        assert!(seen(lease, ForeignLock::Lease, Mode::Exclusive).0);
    }

    #[test]
    fn a_lifeline_is_recognized_by_its_link() {
        let search = Search { lifelines: vec![7, 9], ..Search::default() };
        assert_eq!((search.lifeline(b"pipe:[7]"), search.lifeline(b"pipe:[9]")), (1, 2));
        for link in ["pipe:[8]", "pipe:[]", "socket:[7]", "/pipe:[7]", ""] {
            assert_eq!(search.lifeline(link.as_bytes()), 0, "{link}");
        }
        assert!(!search.is_empty() && !search.is_for_files());
    }

    #[test]
    fn users_are_recognized_by_qemu_locks() {
        let uses = |line| seen(line, ForeignLock::Byte, Mode::Exclusive).1;
        assert!(uses("lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:7 100 101"));
        assert!(uses("lock:\t2: POSIX  ADVISORY  READ 12 fe:00:7 203 203"));
        for line in [
            "lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:42 100 103",
            "lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:7 0 0",
            "lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:7 0 EOF",
            "lock:\t1: LEASE  ACTIVE    WRITE 77 fe:00:7 100 103",
        ] {
            assert!(!uses(line), "{line}");
        }
    }
}
