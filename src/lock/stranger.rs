//! Who holds a lock that is none of ours: what the kernel tells, what `/proc` tells, and what the
//! holder itself has recorded.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};

use super::attribute;
use super::error::Error;
use super::fdinfo::{Found, Node, Processes, Search};
use super::holder::{Stranger, StrangersLock};
use super::mode::Mode;
use super::ofd::InTheWay;
use super::process::Process;
use super::recorded::{Entry, Recorded};
use super::slots;

/// A request that may be refused, as far as its refusal has to tell of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Request<'r> {
    /// The name that was asked for.
    pub(super) resource: &'r str,
    /// The file whose byte is asked for, where it is not the disk itself.
    pub(super) lock_file: Option<&'r str>,
    /// The disk, where it is known.
    pub(super) disk: Option<BorrowedFd<'r>>,
    /// The id of this host.
    pub(super) host_id: Option<&'r str>,
    /// What is recorded of locks that are not in the way: of the one that is to be changed.
    pub(super) own: &'r [Entry],
    /// It is asked again and again: nobody is looked for.
    pub(super) hasty: bool,
}

impl Request<'_> {
    /// The refusal for a byte that somebody has locked.
    pub(super) fn refused(&self, file: &File, other: Option<InTheWay>) -> Error {
        // A shared wish is refused by an exclusive lock only; otherwise what the kernel said.
        let mode = other.map_or(Mode::Exclusive, |other| other.mode);
        let by = StrangersLock::Byte;
        let mut found = self.look(file.as_fd(), by, mode);
        // It is named by the kernel itself, even where its descriptors are not ours to see.
        if let Some(process) = other.and_then(|other| other.pid).and_then(Process::of)
            && !found.holders.has(process.pid)
        {
            found.holders.named.insert(0, process);
        }
        let recorded = if self.hasty { Vec::new() } else { self.recorded(file) };
        let recorded = self.believe(recorded, mode, &found.holders);
        self.told(mode, by, found, recorded)
    }

    /// The refusal for a file that somebody has a lease on.
    pub(super) fn refused_by_lease(&self, file: BorrowedFd<'_>) -> Error {
        let (mode, by) = (Mode::Exclusive, StrangersLock::Lease);
        let found = self.look(file, by, mode);
        self.told(mode, by, found, Vec::new())
    }

    fn look(&self, file: BorrowedFd<'_>, by: StrangersLock, mode: Mode) -> Found {
        if self.hasty {
            return Found::default();
        }
        let locked = Node::of(file).map(|node| (node, by, mode));
        Search { locked, disk: self.disk.and_then(Node::of) }.perform()
    }

    fn told(&self, mode: Mode, by: StrangersLock, found: Found, recorded: Vec<Recorded>) -> Error {
        let Found { holders: mut processes, mut users } = found;
        if !recorded.is_empty() {
            // Through whom the machines hold it that are named.
            processes.leave_out(Process::is_service);
        }
        users.leave_out(|user| recorded.iter().any(|recorded| self.is_process(recorded, user)));
        Error::HeldElsewhere(Box::new(Stranger {
            resource: self.resource.to_owned(),
            lock_file: self.lock_file.map(str::to_owned),
            mode,
            by,
            processes,
            recorded,
            users,
        }))
    }

    fn is_process(&self, recorded: &Recorded, process: &Process) -> bool {
        let uuid = process.machine.as_ref().and_then(|machine| machine.uuid);
        let here = self.host_id == Some(&recorded.host_id);
        recorded.entry.pid == process.pid && (here || uuid == Some(recorded.entry.uuid))
    }

    /// What stands beside a lock; of a lock file, in it, too. A disk is never read.
    fn recorded(&self, file: &File) -> Vec<Recorded> {
        let mut recorded = attribute::read(file);
        if recorded.is_empty() && self.lock_file.is_some() {
            recorded = slots::read(file);
        }
        recorded
    }

    /// The records that fit what the kernel shows. Those of a holder that crashed stay behind.
    fn believe(
        &self,
        mut recorded: Vec<Recorded>,
        mode: Mode,
        processes: &Processes,
    ) -> Vec<Recorded> {
        // A service writes records; any other program that holds alone is who holds.
        let mut named = processes.named.iter();
        if mode == Mode::Exclusive
            && named.clone().next().is_some()
            && !named.any(Process::is_service)
        {
            return Vec::new();
        }
        recorded.retain(|Recorded { host_id, entry, .. }| {
            let here = self.host_id == Some(host_id);
            let own = here && self.own.iter().any(|own| own.is_of_same_lock(entry));
            let ended = here && entry.pid != 0 && !Process::lives(entry.pid);
            entry.mode == mode && !own && !ended
        });
        if mode == Mode::Exclusive {
            // Whoever holds alone clears the others away. What came after him is stale or false,
            // and which it is can't be told; the last is the likeliest.
            recorded.sort_by_key(|recorded| std::cmp::Reverse(recorded.entry.since));
            recorded.truncate(1);
        }
        recorded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn recorded(host: &str, lock: u64, mode: Mode, pid: u32) -> Recorded {
        let (name, user, path) = (format!("web{lock}"), "root".to_owned(), "/a".to_owned());
        let entry = Entry { lock, name, uuid: Uuid::from_u128(1), pid, user, mode, since: 1, path };
        Recorded { host_id: host.to_owned(), host: host.to_owned(), entry }
    }

    fn processes(programs: &[&str]) -> Processes {
        let process = |program: &&str| Process {
            pid: 1,
            program: (*program).to_owned(),
            uid: 0,
            machine: None,
            mode: None,
        };
        Processes { named: programs.iter().map(process).collect(), more: 0 }
    }

    #[test]
    fn a_record_is_believed_where_the_kernel_shows_nothing_else() {
        let own = recorded("here", 3, Mode::Shared, 0);
        let entries = [own.entry.clone()];
        let request = Request { host_id: Some("here"), own: &entries, ..Request::default() };
        let me = std::process::id();
        let all = || {
            vec![
                own.clone(),
                recorded("here", 4, Mode::Shared, me),
                recorded("here", 5, Mode::Shared, u32::MAX),
                recorded("there", 3, Mode::Shared, u32::MAX),
                recorded("there", 6, Mode::Exclusive, 0),
            ]
        };
        let believed = |mode, programs: &[&str]| -> Vec<u64> {
            let believed = request.believe(all(), mode, &processes(programs));
            believed.iter().map(|recorded| recorded.entry.lock).collect()
        };
        assert_eq!(believed(Mode::Shared, &[]), [4, 3]);
        assert_eq!(believed(Mode::Shared, &["perl"]), [4, 3]);
        assert_eq!(believed(Mode::Exclusive, &[]), [6]);
        assert_eq!(believed(Mode::Exclusive, &["vmlockd"]), [6]);
        assert_eq!(believed(Mode::Exclusive, &["perl"]), [0; 0]);
    }
}
