//! Identifies processes by their start time and users.
//!
//! Only `/proc/PID/stat` and `status` are read, which take no lock that a process can hold.
//! Therefore processes are also identified if other processes of their user are skipped.

use std::fs;

use crate::inspector::identity::ProcessIdentity;
use crate::inspector::progress::ProgressFile;

/// Identifies a process; `None` if it does not exist.
pub(super) fn identify(pid: u32, progress: &ProgressFile) -> Option<ProcessIdentity> {
    progress.set_process(pid, 0);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let mut uids = uids.split_whitespace().map(|field| field.parse().ok());
    let mut next = || uids.next().flatten();
    Some(ProcessIdentity { start: start_time(&stat)?, uids: [next()?, next()?, next()?, next()?] })
}

/// Parses the start time in the text of `/proc/PID/stat`, in ticks since boot.
pub(super) fn start_time(stat: &str) -> Option<u64> {
    // The name, in parentheses, may contain anything. `starttime` is field 22, the 20th after the
    // name (proc_pid_stat(5)).
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_identified_while_it_exists() {
        let progress = ProgressFile::new().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let identity = identify(child.id(), &progress).unwrap();
        let me = rustix::process::getuid().as_raw();
        assert!(identity.belongs_to(me) && !identity.belongs_to(me + 1));
        assert_eq!(identity.uid(), me);
        assert_eq!(progress.read().pid, child.id());
        assert!(identity.start >= identify(std::process::id(), &progress).unwrap().start);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(identify(child.id(), &progress), None);
        assert_eq!(start_time("1 (a) b) S 0 0"), None);
    }
}
