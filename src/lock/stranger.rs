//! Who holds a lock that is none of ours, as far as the kernel tells.
//!
//! `F_OFD_GETLK` names the process of a POSIX lock. A lock of an open file description belongs to
//! no process; but `/proc/PID/fdinfo/FD` of everyone who has the description shows it
//! (`proc_pid_fdinfo(5)`). That walk reads `/proc` only, never the file, so it can't hang on storage,
//! and it is done for a refusal alone. `/proc/locks` is never read: it stops every lock operation
//! on the host meanwhile.

use std::fs;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::Path;

use nix::sys::stat::{fstat, major, minor};

use super::error::Error;
use super::holder::{Process, Stranger, StrangersLock};
use super::mode::Mode;
use super::ofd::InTheWay;
use super::printable::shown;

/// The refusal for a lock that a stranger has; `wanted` is the mode asked for.
pub(super) fn error(
    resource: &str,
    lock_file: Option<&str>,
    file: BorrowedFd<'_>,
    wanted: Mode,
    other: Option<InTheWay>,
    by: StrangersLock,
) -> Error {
    // A shared wish is refused by an exclusive lock only; otherwise what the kernel said.
    let mode = other.map_or(Mode::Exclusive, |other| other.mode);
    let process = match other.and_then(|other| other.pid) {
        Some(pid) => process(pid),
        None => find(file, by, wanted),
    };
    let lock_file = lock_file.map(str::to_owned);
    Error::HeldElsewhere(Box::new(Stranger {
        resource: resource.to_owned(),
        lock_file,
        mode,
        by,
        process,
    }))
}

/// What `/proc` tells of a process; `None` once it is gone.
#[must_use]
pub fn process(pid: u32) -> Option<Process> {
    let program = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let program = shown(String::from_utf8_lossy(&program).trim_end_matches('\n'));
    Some(Process { pid, program, uid: real_uid(pid)? })
}

/// The real user of a process, from `/proc/PID/status`.
fn real_uid(pid: u32) -> Option<u32> {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// Looks through all processes for one that shows the lock.
fn find(file: BorrowedFd<'_>, by: StrangersLock, wanted: Mode) -> Option<Process> {
    let stat = fstat(file).ok()?;
    let (major, minor) = device_of_mount(file).unwrap_or((major(stat.st_dev), minor(stat.st_dev)));
    let node = format!("{major:02x}:{minor:02x}:{}", stat.st_ino);
    fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .find(|pid| shows(*pid, &node, by, wanted))
        .and_then(process)
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

fn shows(pid: u32, node: &str, by: StrangersLock, wanted: Mode) -> bool {
    let Ok(files) = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fdinfo")) else {
        return false; // gone, or not ours to see
    };
    files
        .filter_map(|file| fs::read_to_string(file.ok()?.path()).ok())
        .any(|info| info.lines().any(|line| line_shows(line, node, by, wanted)))
}

/// Whether a line of fdinfo tells of a lock in the way: `lock: 1: OFDLCK ADVISORY WRITE -1
/// fe:00:10085382 0 EOF`.
fn line_shows(line: &str, node: &str, by: StrangersLock, wanted: Mode) -> bool {
    let Some(line) = line.strip_prefix("lock:") else {
        return false;
    };
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, kind, _, mode, _, at, start, _end] = fields[..] else {
        return false;
    };
    if at != node {
        return false;
    }
    match by {
        StrangersLock::Lease => kind == "LEASE",
        StrangersLock::Byte => {
            matches!(kind, "OFDLCK" | "POSIX")
                && start == "0"
                && (mode == "WRITE" || wanted == Mode::Exclusive)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_fdinfo() {
        let byte = |line, wanted| line_shows(line, "fe:00:42", StrangersLock::Byte, wanted);
        let write = "lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:42 0 0";
        assert!(byte(write, Mode::Shared) && byte(write, Mode::Exclusive));
        let read = "lock:\t1: POSIX  ADVISORY  READ 12 fe:00:42 0 EOF";
        assert!(!byte(read, Mode::Shared) && byte(read, Mode::Exclusive));
        assert!(!byte("lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:42 100 103", Mode::Exclusive));
        assert!(!byte("lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:43 0 0", Mode::Exclusive));
        assert!(!byte("pos:\t0", Mode::Exclusive));
        let lease = "lock:\t1: LEASE  ACTIVE    WRITE 77 fe:00:42 0 EOF";
        assert!(line_shows(lease, "fe:00:42", StrangersLock::Lease, Mode::Exclusive));
    }

    #[test]
    fn a_process_is_described() {
        let me = process(std::process::id()).unwrap();
        assert_eq!(me.uid, nix::unistd::getuid().as_raw());
        assert!(!me.program.is_empty());
        assert!(process(u32::MAX).is_none());
    }
}
