//! A former service that was killed and is not gone: a request of it hangs in the kernel.
//!
//! Such a process keeps its open files, and with them its lock on the runtime directory, for as long
//! as one of its threads is in the kernel. It executes nothing of its program any more. It is
//! recognized by all of its threads: each has ended, is ending, or has SIGKILL pending, which it
//! can't but obey before it returns to the program.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use crate::lock::identity::Identity;
use crate::lock::open::pin_name;

/// `PF_EXITING` (`<linux/sched.h>`), among the flags in `/proc/PID/stat`.
const EXITING: u64 = 0x4;
/// The bit of SIGKILL in `SigPnd` of `/proc/PID/status`.
const KILLED: u64 = 1 << (nix::libc::SIGKILL - 1);

/// Whether a process still has this lock file locked, though it will execute nothing any more.
///
/// That it has the lock is proven by its own open files: the number that the file has in it may be
/// that of an earlier service, while the one that holds the lock now has not written its own yet.
pub(super) fn holds(pid: u32, path: &Path, file: &File) -> bool {
    // Twice: what the threads that were seen could have started before is seen the second time, and
    // after it they start nothing.
    let Ok(first) = doomed_threads(pid) else { return false };
    let again = doomed_threads(pid);
    again.is_ok_and(|again| again == first) && first.iter().any(|tid| has(pid, *tid, path, file))
}

/// The threads of a process, if none of them will execute anything of the program any more.
///
/// # Errors
///
/// Where one will, or that can't be told.
fn doomed_threads(pid: u32) -> io::Result<BTreeSet<u32>> {
    let mut threads = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = entry?.file_name();
        let tid = name.to_str().and_then(|name| name.parse().ok());
        let tid: u32 = tid.ok_or(io::ErrorKind::InvalidData)?;
        if !is_doomed(pid, tid)? {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        threads.insert(tid);
    }
    if threads.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(threads) }
}

fn is_doomed(pid: u32, tid: u32) -> io::Result<bool> {
    let read = |file| fs::read_to_string(format!("/proc/{pid}/task/{tid}/{file}"));
    let (stat, status) = match (read("stat"), read("status")) {
        (Ok(stat), Ok(status)) => (stat, status),
        (Err(error), _) | (_, Err(error)) => {
            let gone = [io::ErrorKind::NotFound].contains(&error.kind())
                || error.raw_os_error() == Some(nix::libc::ESRCH);
            return if gone { Ok(true) } else { Err(error) };
        }
    };
    Ok(says_ended(&stat) || says_killed(&status))
}

/// Whether `/proc/PID/stat` says that a thread has ended, or is ending.
fn says_ended(stat: &str) -> bool {
    // The name, in parentheses, may hold anything (proc_pid_stat(5)).
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let state = fields.next().unwrap_or_default();
    // The flags are the 9th field, the 7th after the name.
    let flags = fields.nth(5).and_then(|flags| flags.parse::<u64>().ok()).unwrap_or_default();
    matches!(state, "Z" | "X") || flags & EXITING != 0
}

/// Whether `/proc/PID/status` says that SIGKILL is pending for a thread.
fn says_killed(status: &str) -> bool {
    let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
    let pending = pending.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    pending.is_some_and(|pending| pending & KILLED != 0)
}

/// Whether a thread has this very file open, and locked through that.
fn has(pid: u32, tid: u32, path: &Path, file: &File) -> bool {
    let thread = format!("/proc/{pid}/task/{tid}");
    let Ok(path) = path.canonicalize() else { return false };
    let files = fs::read_dir(format!("{thread}/fd")).into_iter().flatten().flatten();
    let mut numbers = files.filter_map(|entry| {
        // Other files of it may be where nothing answers. By its name this one is not, and by its
        // device and inode, which are not asked for either, it is the one.
        (fs::read_link(entry.path()).ok()? == path).then_some(())?;
        let there = pin_name(&entry.path()).ok()?;
        let same = Identity::of_open(&there)? == Identity::of_open(file.as_fd())?;
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
    fn who_lives_is_not_doomed() {
        let own = std::process::id();
        assert!(doomed_threads(own).is_err());
        assert!(doomed_threads(u32::MAX).is_err());
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().lock().unwrap();
        let path = file.path().canonicalize().unwrap();
        assert!(has(own, own, &path, file.as_file()));
        assert!(!has(own, own, Path::new("/none/such"), file.as_file()));
        assert!(!holds(own, &path, file.as_file()));
        file.as_file().unlock().unwrap();
        assert!(!has(own, own, &path, file.as_file()));
    }

    #[test]
    fn the_states_of_threads_are_read() {
        let stat = |state, flags| format!("7 (a) b (c) {state} 1 2 3 4 5 {flags} 0 0");
        assert!(says_ended(&stat("Z", "0")) && says_ended(&stat("D", "4194564")));
        assert!(!says_ended(&stat("D", "4194560")) && !says_ended(""));
        assert!(says_killed("Name:\tx\nSigPnd:\t0000000000000100\nShdPnd:\t0\n"));
        assert!(!says_killed("SigPnd:\t0000000000000200\nShdPnd:\t0000000000000100\n"));
    }

    #[test]
    fn a_process_that_has_ended_and_was_not_waited_for_holds_nothing() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = || doomed_threads(child.id()).is_ok();
        while !ended() {
            std::thread::yield_now();
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!holds(child.id(), file.path(), file.as_file()));
        child.wait().unwrap();
    }
}
