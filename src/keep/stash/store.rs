//! The file descriptor store of the service manager. Its descriptors come back after a crash or a
//! restart of the service.
//!
//! systemd keeps descriptors for a service (`FileDescriptorStoreMax=`,
//! `sd_pid_notify_with_fds(3)`). It drops descriptors beyond its limit without a reply. The service
//! therefore checks afterwards whether the store has a descriptor, in the manager's table of open
//! files. An inspector reads that table, since the service itself may not.

use std::io;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, getppid};
use sd_notify::NotifyState;

use super::pair::{SocketPair, name_into, name_out};
use crate::failpoint::failpoint;
use crate::inspector::Inspector;
use crate::keep::Error;

/// The timeout for a reply of the manager, which may be busy reloading a thousand units.
const TIMEOUT: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// The file descriptor store of the service manager, if it offers one.
#[derive(Debug, Clone)]
pub enum Store {
    /// The store of the manager with this PID, and the inspector that reads its open files.
    Manager(u32, Inspector),
    /// No manager offers a store. The stash ends with the process, but not at an exec.
    Unavailable,
}

impl Store {
    /// Returns the store of the parent process, if `$NOTIFY_SOCKET` is set.
    #[must_use]
    pub fn of_parent(inspector: &Inspector) -> Self {
        let parent = u32::try_from(Pid::as_raw(getppid())).unwrap_or(1);
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(_) => Self::Manager(parent, inspector.clone()),
            None => Self::Unavailable,
        }
    }

    /// Returns whether no manager offers a store.
    pub(super) fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable)
    }

    /// Adds both ends of a pair to the store. Returns `false` if the store does not have both
    /// afterwards.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if the manager cannot be reached, or does not reply in time.
    pub(super) fn put(&self, pair: &SocketPair) -> Result<bool, Error> {
        if self.is_unavailable() {
            return Ok(false);
        }
        let stored = send_ends(pair).and_then(|()| self.has(pair));
        if !matches!(stored, Ok(true)) {
            // A single end must not stay there: a later service could mistake it for the end of
            // another pair.
            self.remove(&pair.name)?;
        }
        stored
    }

    /// Returns whether both ends of a pair are in the store.
    ///
    /// Returns `true` if the manager's open files cannot be read, as under some security modules.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if an end of the pair cannot be examined.
    pub(super) fn has(&self, pair: &SocketPair) -> Result<bool, Error> {
        let Self::Manager(manager, inspector) = self else { return Ok(false) };
        let mut links = Vec::new();
        for end in pair.ends() {
            let stat = fstat(end).map_err(io::Error::from);
            let stat = stat.map_err(Error::system("stat a socket pair"))?;
            links.push(format!("socket:[{}]", stat.st_ino));
        }
        Ok(inspector.has_open(*manager, links).unwrap_or(true))
    }

    /// Removes both ends of a pair from the store.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if the manager cannot be reached.
    pub(super) fn remove(&self, pair: &str) -> Result<(), Error> {
        if self.is_unavailable() {
            return Ok(());
        }
        for name in [name_into(pair), name_out(pair)] {
            let states = [NotifyState::FdStoreRemove, NotifyState::FdName(&name)];
            sd_notify::notify(&states).map_err(storing)?;
        }
        Ok(())
    }
}

/// Sends both ends to the manager, and waits until it has processed the messages.
fn send_ends(pair: &SocketPair) -> Result<(), Error> {
    let names = [name_into(&pair.name), name_out(&pair.name)];
    for (name, end) in names.iter().zip(pair.ends()) {
        // The manager must not poll an end: it would drop it on EPOLLHUP or EPOLLERR, which depend
        // on the other end.
        let states =
            [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
        sd_notify::notify_with_fds(&states, &[end]).map_err(storing)?;
        failpoint("store-end");
    }
    barrier().map_err(storing)
}

fn storing(cause: io::Error) -> Error {
    Error::System { doing: "store descriptors with the service manager", cause }
}

/// Returns once the manager has processed all earlier messages (`sd_notify_barrier(3)`).
fn barrier() -> io::Result<()> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[theirs.as_fd()])?;
    drop(theirs);
    let mut polled = [PollFd::new(&ours, PollFlags::HUP)];
    // Signals are too rare to extend the timeout noticeably.
    let ready = loop {
        match poll(&mut polled, Some(&TIMEOUT)) {
            Err(Errno::INTR) => {}
            ready => break ready?,
        }
    };
    match ready {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, "it is not responding")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_store_nothing_is_stored() {
        let pair = SocketPair::new(1, "p1".into()).unwrap();
        assert!(!Store::Unavailable.put(&pair).unwrap());
        assert!(!Store::Unavailable.has(&pair).unwrap());
    }

    #[test]
    fn a_manager_whose_files_cannot_be_read_is_trusted() {
        let pair = SocketPair::new(1, "p1".into()).unwrap();
        assert!(Store::Manager(1, Inspector::default()).has(&pair).unwrap());
    }
}
