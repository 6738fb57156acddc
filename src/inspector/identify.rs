//! Identifies processes: when they were started, and whose they are.
//!
//! Reads `/proc/PID/stat` and `status` only, which take no lock that a process could hold. So
//! processes are identified also where others of their user are skipped.

use std::fs;

use serde::{Deserialize, Serialize};

use super::position::Position;

/// What identifies a process, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// When it was started, in ticks since boot.
    pub start: u64,
    /// Its real, effective, saved and file system user.
    pub uids: [u32; 4],
}

impl Identity {
    /// Whether the process is this user's altogether. A set-user-ID program that the user started is
    /// not.
    #[must_use]
    pub fn belongs_to(&self, uid: u32) -> bool {
        self.uids.iter().all(|field| *field == uid)
    }

    /// Returns the user that runs the process.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uids[0]
    }
}

/// Identifies a process; `None` once it is gone.
pub(super) fn identify(pid: u32, position: &Position) -> Option<Identity> {
    position.at(pid, 0);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let mut uids = uids.split_whitespace().map(|field| field.parse().ok());
    let mut next = || uids.next().flatten();
    Some(Identity { start: start_of(&stat)?, uids: [next()?, next()?, next()?, next()?] })
}

/// Returns the start in the text of `/proc/PID/stat`, in ticks since boot.
pub(super) fn start_of(stat: &str) -> Option<u64> {
    // The name, in parentheses, may hold anything; `starttime` is the 22nd field, the 20th after the
    // name (proc_pid_stat(5)).
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_identified_while_it_is_there() {
        let position = Position::new().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let identity = identify(child.id(), &position).unwrap();
        let me = rustix::process::getuid().as_raw();
        assert!(identity.belongs_to(me) && !identity.belongs_to(me + 1));
        assert_eq!(identity.uid(), me);
        assert_eq!(position.read().pid, child.id());
        assert!(identity.start >= identify(std::process::id(), &position).unwrap().start);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(identify(child.id(), &position), None);
        assert_eq!(start_of("1 (a) b) S 0 0"), None);
    }
}
