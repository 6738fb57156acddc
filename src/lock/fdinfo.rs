//! Which processes of this host have a lock on a file, and which have a disk open.
//!
//! A lock of an open file description belongs to no process; but `/proc/PID/fdinfo/FD` of everyone
//! who has the description shows it (`proc_pid_fdinfo(5)`), and so it does a POSIX lock of the
//! process. One walk over all of them finds both who holds our byte and who uses a disk: QEMU has
//! locks of its own on the images that it has open (bytes 100 and 200 and up, QEMU's
//! `block/file-posix.c`). The walk reads `/proc` only, never the file, so it can't hang on storage.
//! It is made for a refusal or a question, once, and never to wait for something. `/proc/locks` is
//! never read: that stops every lock operation on the host meanwhile.

use std::fs::{self, File};
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::stat::{fstat, major, minor};

use super::holder::StrangersLock;
use super::mode::Mode;
use super::process::Process;

/// How many processes are named; the rest is counted.
pub const NAMED: usize = 3;
/// What of one description is read. Its locks come first.
const INFO: u64 = 16 * 1024;
/// How long the walk may take. On a host with so many open files that it takes longer, what was
/// not found by then stays unnamed.
const LONGEST: Duration = Duration::from_secs(2);

/// A file as the kernel lists locks on it: `fe:00:10085382`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node(String);

impl Node {
    /// That of an open file.
    #[must_use]
    pub fn of(file: BorrowedFd<'_>) -> Option<Self> {
        let stat = fstat(file).ok()?;
        let device = device_of_mount(file).unwrap_or((major(stat.st_dev), minor(stat.st_dev)));
        Some(Self(format!("{:02x}:{:02x}:{}", device.0, device.1, stat.st_ino)))
    }
}

/// The device by which the kernel lists locks: that of the mounted file system. `st_dev` is another
/// on overlayfs and in btrfs subvolumes. `None` for a mount that is not in our namespace.
fn device_of_mount(file: BorrowedFd<'_>) -> Option<(u64, u64)> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().to_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    // "36 35 98:0 /root /mnt …": the mount, its parent, its device (proc_pid_mountinfo(5)).
    let device = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.next()? == mount).then(|| fields.nth(1))?
    })?;
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// What is looked for.
#[derive(Debug, Clone)]
pub struct Search {
    /// The file whose lock is in the way, and what kind of lock and mode that is.
    pub locked: Option<(Node, StrangersLock, Mode)>,
    /// The disk.
    pub disk: Option<Node>,
}

/// Processes, as many as are named, and how many there are besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Processes {
    /// Those that are named.
    pub named: Vec<Process>,
    /// The others.
    pub more: usize,
}

impl Processes {
    fn add(&mut self, pid: u32, mode: Option<Mode>) {
        if self.named.len() < NAMED {
            self.named.extend(Process::of(pid).map(|process| Process { mode, ..process }));
        } else {
            self.more += 1;
        }
    }

    /// Whether this process is among those that are named.
    #[must_use]
    pub fn has(&self, pid: u32) -> bool {
        self.named.iter().any(|process| process.pid == pid)
    }

    /// Without those of them that are known otherwise.
    pub fn leave_out(&mut self, known: impl Fn(&Process) -> bool) {
        self.named.retain(|process| !known(process));
    }
}

/// Who was found, each once: the holders of the lock, and those users of the disk that are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Processes that have the lock.
    pub holders: Processes,
    /// Processes that have the disk open and locked in their own way.
    pub users: Processes,
}

/// What one process has of what is looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    holds: bool,
    uses: bool,
    writes: bool,
}

impl Search {
    /// Looks through all processes but this one.
    #[must_use]
    pub fn perform(&self) -> Found {
        let (mut found, end) = (Found::default(), Instant::now() + LONGEST);
        let Ok(entries) = fs::read_dir("/proc") else { return found };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut info = String::new();
        for pid in pids.filter(|pid| *pid != std::process::id()) {
            let seen = self.look_at(pid, &mut info);
            if seen.holds {
                found.holders.add(pid, None);
            } else if seen.uses {
                let mode = if seen.writes { Mode::Exclusive } else { Mode::Shared };
                found.users.add(pid, Some(mode));
            }
            if Instant::now() > end {
                break;
            }
        }
        found
    }

    fn look_at(&self, pid: u32, info: &mut String) -> Seen {
        let mut seen = Seen::default();
        let folder = Path::new("/proc").join(pid.to_string()).join("fdinfo");
        // Gone, or not ours to see.
        let Ok(files) = fs::read_dir(folder) else { return seen };
        for file in files.filter_map(Result::ok) {
            info.clear();
            let Ok(file) = File::open(file.path()) else { continue };
            // What is no text is none of the kernel's.
            if file.take(INFO).read_to_string(info).is_err() {
                continue;
            }
            info.lines().for_each(|line| self.note(line, &mut seen));
        }
        seen
    }

    /// Notes what a line tells: `lock: 1: OFDLCK ADVISORY WRITE -1 fe:00:10085382 0 EOF`.
    fn note(&self, line: &str, seen: &mut Seen) {
        let Some(line) = line.strip_prefix("lock:") else { return };
        let mut fields = line.split_whitespace().skip(1);
        let mut next = || fields.next().unwrap_or_default();
        let (kind, _, mode, _, at, start, end) =
            (next(), next(), next(), next(), next(), next(), next());
        let is_byte = matches!(kind, "OFDLCK" | "POSIX");
        if let Some((Node(node), by, in_the_way)) = &self.locked
            && at == node
        {
            seen.holds |= match by {
                StrangersLock::Lease => kind == "LEASE",
                StrangersLock::Byte => {
                    let of_that = if *in_the_way == Mode::Exclusive { "WRITE" } else { "READ" };
                    is_byte && start == "0" && mode == of_that
                }
            };
        }
        let is_disk = self.disk.as_ref().is_some_and(|Node(node)| at == node);
        if let Some(range) = qemus(start, end).filter(|_| is_byte && is_disk) {
            seen.uses = true;
            seen.writes |= range.contains(&WRITES);
        }
    }
}

/// The byte that QEMU locks on an image that it writes.
const WRITES: u32 = 101;

/// A range that lies where QEMU locks its images: from 100 up, and less than 300.
fn qemus(start: &str, end: &str) -> Option<RangeInclusive<u32>> {
    let number = |text: &str| text.parse().ok().filter(|byte| (100..300).contains(byte));
    Some(number(start)?..=number(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(line: &str, by: StrangersLock, mode: Mode) -> (bool, bool) {
        let node = |text: &str| Node(text.to_owned());
        let search =
            Search { locked: Some((node("fe:00:42"), by, mode)), disk: Some(node("fe:00:7")) };
        let mut seen = Seen::default();
        search.note(line, &mut seen);
        assert_eq!(seen.writes, line.contains(" 100 101"));
        (seen.holds, seen.uses)
    }

    #[test]
    fn lines_of_fdinfo() {
        let byte = |line, mode| seen(line, StrangersLock::Byte, mode).0;
        let write = "lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:42 0 0";
        assert!(byte(write, Mode::Exclusive) && !byte(write, Mode::Shared));
        let read = "lock:\t1: POSIX  ADVISORY  READ 12 fe:00:42 0 EOF";
        assert!(byte(read, Mode::Shared) && !byte(read, Mode::Exclusive));
        assert!(!byte("lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:42 100 103", Mode::Shared));
        assert!(!byte("lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:43 0 0", Mode::Exclusive));
        for odd in ["pos:\t0", "lock:", "lock:\t1: OFDLCK ADVISORY", "", "lock:\u{0}"] {
            assert_eq!(seen(odd, StrangersLock::Byte, Mode::Exclusive), (false, false));
        }
        let lease = "lock:\t1: LEASE  ACTIVE    WRITE 77 fe:00:42 0 EOF";
        assert!(seen(lease, StrangersLock::Lease, Mode::Exclusive).0);
    }

    #[test]
    fn users_lock_as_qemu_does() {
        let uses = |line| seen(line, StrangersLock::Byte, Mode::Exclusive).1;
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
