//! The service manager's descriptor store: what is in it comes back after a crash or a restart.
//!
//! systemd keeps descriptors for a service (`FileDescriptorStoreMax=`, `sd_pid_notify_with_fds(3)`).
//! It drops what exceeds its limit and tells nobody, so whether it has taken something is looked
//! up afterwards, in its own table of open files.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;
use nix::unistd::{getppid, pipe2};
use sd_notify::NotifyState;

use super::Error;
use super::inherited::{name_into, name_out};
use super::pair::Pair;
use crate::step::step;

/// How long the manager may take to answer, in milliseconds; it may be busy reading a thousand
/// units again.
const PATIENCE: u16 = 10_000;

/// Where pairs are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// With the manager that has this process number.
    Manager(u32),
    /// Nowhere: no manager offers it. What is parked ends with the process, but not at an exec.
    Nowhere,
}

impl Store {
    /// The store of whoever started this process.
    #[must_use]
    pub fn of_parent() -> Self {
        let parent = u32::try_from(getppid().as_raw()).unwrap_or(1);
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(_) => Self::Manager(parent),
            None => Self::Nowhere,
        }
    }

    /// Gives both ends of a pair to the store. `false`: it did not take them.
    ///
    /// # Errors
    ///
    /// Where the manager can't be reached, or does not answer.
    pub(super) fn put(self, pair: &Pair) -> Result<bool, Error> {
        let Self::Manager(manager) = self else { return Ok(false) };
        let names = [name_into(pair.number), name_out(pair.number)];
        for (name, end) in names.iter().zip(pair.ends()) {
            // Not to be watched: that the other end is ours is no reason to drop this one.
            let states =
                [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
            sd_notify::notify_with_fds(&states, &[end]).map_err(storing)?;
            step("store-end");
        }
        barrier().map_err(storing)?;
        let has = |end| has(manager, end);
        let taken = pair.ends().into_iter().map(has).collect::<Result<Vec<_>, Error>>()?;
        if taken.iter().all(|taken| *taken) {
            return Ok(true);
        }
        self.remove(pair.number)?;
        Ok(false)
    }

    /// Takes both ends of a pair out of the store.
    ///
    /// # Errors
    ///
    /// Where the manager can't be reached.
    pub(super) fn remove(self, number: u64) -> Result<(), Error> {
        if self == Self::Nowhere {
            return Ok(());
        }
        for name in [name_into(number), name_out(number)] {
            let states = [NotifyState::FdStoreRemove, NotifyState::FdName(&name)];
            sd_notify::notify(&states).map_err(storing)?;
        }
        Ok(())
    }
}

fn storing(cause: io::Error) -> Error {
    Error::System { doing: "storing descriptors with the service manager", cause }
}

/// Returns once the manager has dealt with all that was sent to it (`sd_notify_barrier(3)`).
fn barrier() -> io::Result<()> {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
    sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[theirs.as_fd()])?;
    drop(theirs);
    let mut asked = [PollFd::new(ours.as_fd(), PollFlags::POLLHUP)];
    match poll(&mut asked, PollTimeout::from(PATIENCE))? {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer")),
        _ => Ok(()),
    }
}

/// Whether a process has a socket of ours open too.
fn has(process: u32, socket: BorrowedFd<'_>) -> Result<bool, Error> {
    let looking = |cause: io::Error| Error::System {
        doing: "looking whether the service manager has stored a descriptor",
        cause,
    };
    let inode = fstat(socket).map_err(|errno| looking(errno.into()))?.st_ino;
    let link = format!("socket:[{inode}]");
    let open = fs::read_dir(format!("/proc/{process}/fd")).map_err(looking)?;
    // One that is closed while we look is no longer open.
    let mut links = open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    Ok(links.any(|there| there.as_os_str() == link.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_socket_is_seen() {
        let pair = Pair::new(1).unwrap();
        assert!(has(std::process::id(), pair.ends()[0]).unwrap());
        assert!(!has(1, pair.ends()[0]).unwrap());
        assert!(!Store::Nowhere.put(&pair).unwrap());
    }
}
