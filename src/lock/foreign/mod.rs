//! Foreign holders: what the kernel reports about the holder of a conflicting lock that does not
//! belong to this service, and the holder's own record. The inspector finds the processes later
//! ([`ForeignHolder::name`]); this module examines no process.

pub mod file_tables;
mod node;

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};

use super::ofd::ConflictingLock;
use crate::lock::holder_record::in_file;
use crate::lock::holder_record::xattr;
use crate::lock::model::error::Error;
use crate::lock::model::holder_entry::{Entry, Recorded};
use crate::lock::model::mode::Mode;
use crate::lock::model::process::Process;
use crate::lock::model::process_search::ForeignLock;
use crate::lock::model::process_search::{Found, Node, Processes, Search};
use crate::lock::model::refusal::{ForeignHolder, Naming, Unnamed};

/// A request that may be refused, with what its refusal has to contain.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Request<'r> {
    /// The requested name.
    pub(super) resource: &'r str,
    /// The file whose byte is requested, if it is not the disk itself.
    pub(super) lock_file: Option<&'r str>,
    /// The disk, if it is known.
    pub(super) disk: Option<BorrowedFd<'r>>,
    /// The id of this host.
    pub(super) host_id: Option<&'r str>,
    /// Records of locks that do not conflict: those of the lock that is to be converted.
    pub(super) own: &'r [Entry],
    /// The request is retried often, so its refusal does not search for the holder.
    pub(super) non_blocking: bool,
}

impl Request<'_> {
    /// Returns the refusal for a byte that another program has locked.
    pub(super) fn refused(&self, file: &File, other: Option<ConflictingLock>) -> Error {
        // Only an exclusive lock conflicts with a shared request; otherwise the kernel has reported
        // the mode.
        let mode = other.map_or(Mode::Exclusive, |other| other.mode);
        let recorded = if self.non_blocking { Vec::new() } else { self.recorded(file, mode) };
        let reported_pid = other.and_then(|other| other.pid);
        self.describe(file.as_fd(), mode, ForeignLock::Byte, reported_pid, recorded)
    }

    /// Returns the refusal for a file on which another program has a file lease.
    pub(super) fn refused_by_lease(&self, file: BorrowedFd<'_>) -> Error {
        self.describe(file, Mode::Exclusive, ForeignLock::Lease, None, Vec::new())
    }

    fn describe(
        &self,
        file: BorrowedFd<'_>,
        mode: Mode,
        by: ForeignLock,
        reported_pid: Option<u32>,
        recorded: Vec<Recorded>,
    ) -> Error {
        let search = (!self.non_blocking).then(|| {
            let locked = Node::of(file).map(|node| (node, by, mode));
            Search { locked, reported_pid, disk: self.disk.and_then(Node::of), ..Search::default() }
        });
        Error::HeldElsewhere(Box::new(ForeignHolder {
            resource: self.resource.to_owned(),
            lock_file: self.lock_file.map(str::to_owned),
            mode,
            by,
            processes: Processes::default(),
            recorded,
            users: Processes::default(),
            naming: search.map_or(Naming::Done, |search| {
                let host_id = self.host_id.map(str::to_owned);
                Naming::Needed(Box::new(Unnamed { search, host_id }))
            }),
        }))
    }

    /// Returns the holder records that are consistent with what the kernel reports, also from
    /// inside a lock file. Records of a crashed holder remain in place. A disk is never read.
    fn recorded(&self, file: &File, mode: Mode) -> Vec<Recorded> {
        let mut recorded = xattr::read(file);
        if recorded.is_empty() && self.lock_file.is_some() {
            recorded = in_file::read(file);
        }
        self.consistent(recorded, mode)
    }

    fn consistent(&self, mut recorded: Vec<Recorded>, mode: Mode) -> Vec<Recorded> {
        recorded.retain(|Recorded { host_id, entry, .. }| {
            let is_this_host = self.host_id == Some(host_id);
            let own = is_this_host && self.own.iter().any(|own| own.is_of_same_lock(entry));
            let ended = is_this_host && entry.pid != 0 && !Process::exists(entry.pid);
            entry.mode == mode && !own && !ended
        });
        if mode == Mode::Exclusive {
            // An exclusive holder removes all other records. A record that exists besides is stale
            // or forged, and which one is unknown; the newest is the most likely to be true.
            recorded.sort_by_key(|recorded| std::cmp::Reverse(recorded.entry.since));
            recorded.truncate(1);
        }
        recorded
    }
}

impl ForeignHolder {
    /// Returns what has to be searched for in order to name the holder.
    #[must_use]
    pub fn search(&self) -> Option<&Search> {
        match &self.naming {
            Naming::Needed(unnamed) => Some(&unnamed.search),
            Naming::Done | Naming::Late(_) => None,
        }
    }

    /// Whether any holder is known by name.
    #[must_use]
    pub fn is_named(&self) -> bool {
        !self.processes.named.is_empty() || !self.recorded.is_empty()
    }

    /// Stores the processes that hold the lock and that use the disk; `None` if they could not be
    /// found in time.
    pub fn name(&mut self, found: Option<Found>) {
        let Naming::Needed(unnamed) = std::mem::take(&mut self.naming) else { return };
        let Unnamed { search, host_id } = *unnamed;
        let Some(Found { mut holders, mut users, .. }) = found else {
            self.naming = Naming::Late(search.reported_pid);
            return;
        };
        // A service writes records; any other program that holds the lock exclusively is the
        // holder.
        let mut named = holders.named.iter();
        if self.mode == Mode::Exclusive
            && !holders.named.is_empty()
            && !named.any(Process::is_service)
        {
            self.recorded.clear();
        }
        if !self.recorded.is_empty() {
            // Services hold the lock on behalf of the VMs that are named.
            holders.leave_out(Process::is_service);
        }
        let is_process = |recorded: &Recorded, process: &Process| {
            let uuid = process.machine.as_ref().and_then(|machine| machine.uuid);
            let is_this_host = host_id.as_ref() == Some(&recorded.host_id);
            recorded.entry.pid == process.pid && (is_this_host || uuid == Some(recorded.entry.uuid))
        };
        users.leave_out(|user| self.recorded.iter().any(|recorded| is_process(recorded, user)));
        (self.processes, self.users) = (holders, users);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn recorded(host: &str, lock: u64, mode: Mode, pid: u32) -> Recorded {
        let (name, user, path) = (format!("web{lock}"), "root".to_owned(), "/a".to_owned());
        let entry = Entry {
            lock,
            name,
            uuid: Uuid::from_u128(1),
            pid,
            user,
            mode,
            since: 1,
            path,
            why: String::new(),
        };
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
    fn records_are_used_if_consistent_with_the_kernel() {
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
            let file = tempfile::tempfile().unwrap();
            let recorded = request.consistent(all(), mode);
            let by = ForeignLock::Byte;
            let refused = request.describe(file.as_fd(), mode, by, None, recorded);
            let Error::HeldElsewhere(mut foreign) = refused else { panic!("{refused}") };
            assert!(foreign.search().unwrap().locked.is_some());
            foreign.name(Some(Found { holders: processes(programs), ..Found::default() }));
            assert_eq!(foreign.search(), None);
            foreign.recorded.iter().map(|recorded| recorded.entry.lock).collect()
        };
        assert_eq!(believed(Mode::Shared, &[]), [4, 3]);
        assert_eq!(believed(Mode::Shared, &["perl"]), [4, 3]);
        assert_eq!(believed(Mode::Exclusive, &[]), [6]);
        assert_eq!(believed(Mode::Exclusive, &["vmlockd"]), [6]);
        assert_eq!(believed(Mode::Exclusive, &["perl"]), [0; 0]);
    }
}
