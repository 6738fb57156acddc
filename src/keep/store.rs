//! The service manager's descriptor store: what is in it comes back after a crash or a restart.
//!
//! systemd keeps descriptors for a service (`FileDescriptorStoreMax=`, `sd_pid_notify_with_fds(3)`).
//! It drops what exceeds its limit and tells nobody, so whether it has taken something is looked
//! up afterwards, in its own table of open files: by an inspector, since the service may not read it.

use std::io;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, getppid};
use sd_notify::NotifyState;

use super::Error;
use super::inherited::{name_into, name_out};
use super::pair::Pair;
use crate::failpoint::failpoint;
use crate::inspector::Inspector;

/// How long the manager may take to answer; it may be busy reading a thousand
/// units again.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Where pairs are stored.
#[derive(Debug, Clone)]
pub enum Store {
    /// With the manager that has this process number, whose open files this inspector reads.
    Manager(u32, Inspector),
    /// Nowhere: no manager offers it. What is parked ends with the process, but not at an exec.
    Nowhere,
}

impl Store {
    /// The store of whoever started this process.
    #[must_use]
    pub fn of_parent(inspector: &Inspector) -> Self {
        let parent = u32::try_from(Pid::as_raw(getppid())).unwrap_or(1);
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(_) => Self::Manager(parent, inspector.clone()),
            None => Self::Nowhere,
        }
    }

    /// Whether no manager offers a store.
    pub(super) fn is_nowhere(&self) -> bool {
        matches!(self, Self::Nowhere)
    }

    /// Gives both ends of a pair to the store. `false`: it did not take them.
    ///
    /// # Errors
    ///
    /// Where the manager can't be reached, or does not answer.
    pub(super) fn put(&self, pair: &Pair) -> Result<bool, Error> {
        if self.is_nowhere() {
            return Ok(false);
        }
        let taken = give(pair).and_then(|()| self.has(pair));
        if !matches!(taken, Ok(true)) {
            // Not one end alone, nor one that might be taken for that of a pair to come.
            self.remove(&pair.name)?;
        }
        taken
    }

    /// Whether both ends of a pair are in the store.
    ///
    /// Where the manager's open files can't be looked at, as under some security modules, it is
    /// believed that it took what it was given.
    ///
    /// # Errors
    ///
    /// Where an end of the pair itself can't be looked at.
    pub(super) fn has(&self, pair: &Pair) -> Result<bool, Error> {
        let Self::Manager(manager, inspector) = self else { return Ok(false) };
        let mut links = Vec::new();
        for end in pair.ends() {
            let stat = fstat(end).map_err(io::Error::from);
            let stat = stat.map_err(Error::system("stat a socket pair"))?;
            links.push(format!("socket:[{}]", stat.st_ino));
        }
        Ok(inspector.has_open(*manager, links).unwrap_or(true))
    }

    /// Takes both ends of a pair out of the store.
    ///
    /// # Errors
    ///
    /// Where the manager can't be reached.
    pub(super) fn remove(&self, pair: &str) -> Result<(), Error> {
        if self.is_nowhere() {
            return Ok(());
        }
        for name in [name_into(pair), name_out(pair)] {
            let states = [NotifyState::FdStoreRemove, NotifyState::FdName(&name)];
            sd_notify::notify(&states).map_err(storing)?;
        }
        Ok(())
    }
}

/// Sends both ends to the manager, and waits until it has dealt with them.
fn give(pair: &Pair) -> Result<(), Error> {
    let names = [name_into(&pair.name), name_out(&pair.name)];
    for (name, end) in names.iter().zip(pair.ends()) {
        // Not to be watched: that the other end is ours is no reason to drop this one.
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

/// Returns once the manager has dealt with all that was sent to it (`sd_notify_barrier(3)`).
fn barrier() -> io::Result<()> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[theirs.as_fd()])?;
    drop(theirs);
    let mut asked = [PollFd::new(&ours, PollFlags::HUP)];
    // A signal is no answer; none comes that often.
    let answered = loop {
        match poll(&mut asked, Some(&PATIENCE)) {
            Err(Errno::INTR) => {}
            answered => break answered?,
        }
    };
    match answered {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, "it is not responding")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_stored_nowhere() {
        let pair = Pair::new(1, "p1".into()).unwrap();
        assert!(!Store::Nowhere.put(&pair).unwrap());
        assert!(!Store::Nowhere.has(&pair).unwrap());
    }

    #[test]
    fn a_manager_that_cannot_be_looked_at_is_believed() {
        let pair = Pair::new(1, "p1".into()).unwrap();
        assert!(Store::Manager(1, Inspector::default()).has(&pair).unwrap());
    }
}
