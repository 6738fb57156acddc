//! The service manager's descriptor store: what is in it comes back after a crash or a restart.
//!
//! systemd keeps descriptors for a service (`FileDescriptorStoreMax=`, `sd_pid_notify_with_fds(3)`).
//! It drops what exceeds its limit and tells nobody, so whether it has taken something is looked
//! up afterwards, in its own table of open files.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
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
        if self == Self::Nowhere {
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
    /// Where the manager's open files may not be looked at, as under some security modules, it is
    /// believed that it took what it was given.
    ///
    /// # Errors
    ///
    /// Where looking fails otherwise.
    pub(super) fn has(self, pair: &Pair) -> Result<bool, Error> {
        let Self::Manager(manager) = self else { return Ok(false) };
        for end in pair.ends() {
            match has(manager, end) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                Err(cause) => {
                    let doing = "looking whether the service manager has stored a descriptor";
                    return Err(Error::System { doing, cause });
                }
            }
        }
        Ok(true)
    }

    /// Takes both ends of a pair out of the store.
    ///
    /// # Errors
    ///
    /// Where the manager can't be reached.
    pub(super) fn remove(self, pair: &str) -> Result<(), Error> {
        if self == Self::Nowhere {
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
        step("store-end");
    }
    barrier().map_err(storing)
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
    // A signal is no answer; none comes that often.
    let answered = loop {
        match poll(&mut asked, PollTimeout::from(PATIENCE)) {
            Err(Errno::EINTR) => {}
            answered => break answered?,
        }
    };
    match answered {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer")),
        _ => Ok(()),
    }
}

/// Whether a process has a socket of ours open too.
fn has(process: u32, socket: BorrowedFd<'_>) -> io::Result<bool> {
    let link = format!("socket:[{}]", fstat(socket)?.st_ino);
    let open = fs::read_dir(format!("/proc/{process}/fd"))?;
    let mut hidden = None;
    for entry in open {
        match fs::read_link(entry?.path()) {
            Ok(there) if there.as_os_str() == link.as_str() => return Ok(true),
            // Listing them is allowed to more than looking at them.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => hidden = Some(error),
            // Another, or one that was closed while we looked.
            Ok(_) | Err(_) => {}
        }
    }
    hidden.map_or(Ok(false), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_socket_is_seen() {
        let pair = Pair::new(1, "p1".into()).unwrap();
        assert!(has(std::process::id(), pair.ends()[0]).unwrap());
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let seen = has(other.id(), pair.ends()[0]);
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(!seen.unwrap());
        assert!(!Store::Nowhere.put(&pair).unwrap());
    }
}
