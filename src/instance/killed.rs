//! Recognizes an instance that was killed but has not exited, because a request hangs in the kernel.
//!
//! Such a process keeps its open files, and with them its lock on the runtime directory, for as long as
//! one of its threads is in the kernel; but it never executes user code again. All of its threads show
//! that: each has exited, is exiting, or has SIGKILL pending, which takes effect before the thread
//! returns to user space.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use crate::lock::model::identity::Identity;
use crate::lock::path::open::pin_name;

/// `PF_EXITING` (`<linux/sched.h>`), among the flags in `/proc/PID/stat`.
const PF_EXITING: u64 = 0x4;
/// The bit of SIGKILL in `SigPnd` of `/proc/PID/status`.
const SIGKILL_BIT: u64 = 1 << (nix::libc::SIGKILL - 1);

/// Whether a process was killed, but has the lock file locked.
///
/// The process's open files prove that it has the lock: the process id in the lock file may be that of an
/// earlier instance, if the holder has not written its own yet.
pub(super) fn holds_lock(pid: u32, path: &Path, file: &File) -> bool {
    // Checked twice: the second check finds threads that were started during the first one, and killed
    // threads start none.
    let Ok(first) = killed_threads(pid) else { return false };
    let second = killed_threads(pid);
    second.is_ok_and(|second| second == first)
        && first.iter().any(|tid| has_locked(pid, *tid, path, file))
}

/// Returns the threads of a process, if all of them were killed.
///
/// # Errors
///
/// If a thread was not killed, or that cannot be found out.
fn killed_threads(pid: u32) -> io::Result<BTreeSet<u32>> {
    let mut threads = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = entry?.file_name();
        let tid = name.to_str().and_then(|name| name.parse().ok());
        let tid: u32 = tid.ok_or(io::ErrorKind::InvalidData)?;
        if !is_killed(pid, tid)? {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        threads.insert(tid);
    }
    if threads.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(threads) }
}

fn is_killed(pid: u32, tid: u32) -> io::Result<bool> {
    let read = |file| fs::read_to_string(format!("/proc/{pid}/task/{tid}/{file}"));
    let (stat, status) = match (read("stat"), read("status")) {
        (Ok(stat), Ok(status)) => (stat, status),
        (Err(error), _) | (_, Err(error)) => {
            let gone = [io::ErrorKind::NotFound].contains(&error.kind())
                || error.raw_os_error() == Some(nix::libc::ESRCH);
            return if gone { Ok(true) } else { Err(error) };
        }
    };
    Ok(has_exited(&stat) || has_sigkill_pending(&status))
}

/// Whether a thread has exited, or is exiting, according to `/proc/PID/stat`.
fn has_exited(stat: &str) -> bool {
    // The name, in parentheses, may contain any character (proc_pid_stat(5)).
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let state = fields.next().unwrap_or_default();
    // The flags are the 9th field, the 7th after the name.
    let flags = fields.nth(5).and_then(|flags| flags.parse::<u64>().ok()).unwrap_or_default();
    matches!(state, "Z" | "X") || flags & PF_EXITING != 0
}

/// Whether SIGKILL is pending for a thread, according to `/proc/PID/status`.
fn has_sigkill_pending(status: &str) -> bool {
    let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
    let pending = pending.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    pending.is_some_and(|pending| pending & SIGKILL_BIT != 0)
}

/// Whether a thread has `file` open, and a lock by that open file description.
fn has_locked(pid: u32, tid: u32, path: &Path, file: &File) -> bool {
    let thread = format!("/proc/{pid}/task/{tid}");
    let Ok(path) = path.canonicalize() else { return false };
    let files = fs::read_dir(format!("{thread}/fd")).into_iter().flatten().flatten();
    let mut numbers = files.filter_map(|entry| {
        // Other open files may be on a file system that does not respond. The name selects a file on
        // this one; device and inode, which are read without a request to a server, identify it.
        (fs::read_link(entry.path()).ok()? == path).then_some(())?;
        let pinned = pin_name(&entry.path()).ok()?;
        let same = Identity::of_open(&pinned)? == Identity::of_open(file.as_fd())?;
        same.then(|| entry.file_name())
    });
    numbers.any(|number| {
        let info = fs::read_to_string(format!("{thread}/fdinfo/{}", number.display()));
        info.is_ok_and(|info| info.lines().any(|line| line.starts_with("lock:")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_process_is_not_killed() {
        let own = std::process::id();
        assert!(killed_threads(own).is_err());
        assert!(killed_threads(u32::MAX).is_err());
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().lock().unwrap();
        let path = file.path().canonicalize().unwrap();
        assert!(has_locked(own, own, &path, file.as_file()));
        assert!(!has_locked(own, own, Path::new("/none/such"), file.as_file()));
        assert!(!holds_lock(own, &path, file.as_file()));
        file.as_file().unlock().unwrap();
        assert!(!has_locked(own, own, &path, file.as_file()));
    }

    #[test]
    fn the_states_of_threads_are_read() {
        let stat = |state, flags| format!("7 (a) b (c) {state} 1 2 3 4 5 {flags} 0 0");
        assert!(has_exited(&stat("Z", "0")) && has_exited(&stat("D", "4194564")));
        assert!(!has_exited(&stat("D", "4194560")) && !has_exited(""));
        assert!(has_sigkill_pending("Name:\tx\nSigPnd:\t0000000000000100\nShdPnd:\t0\n"));
        assert!(!has_sigkill_pending("SigPnd:\t0000000000000200\nShdPnd:\t0000000000000100\n"));
    }

    #[test]
    fn a_zombie_holds_no_lock() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = || killed_threads(child.id()).is_ok();
        while !ended() {
            std::thread::yield_now();
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!holds_lock(child.id(), file.path(), file.as_file()));
        child.wait().unwrap();
    }
}
