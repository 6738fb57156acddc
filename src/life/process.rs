//! A process, by a descriptor that can't come to mean another one (`pidfd_open(2)`).

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FsWord, OFlags, fcntl_getfl, fstat, fstatfs};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;

use super::Error;
use super::watched::Watched;
use crate::lock::descriptor::passed::Look;
use crate::lock::descriptor::received::Received;

/// Where pidfds have numbers of their own, since Linux 6.9 (`PID_FS_MAGIC` in <linux/magic.h>).
const PIDFS: FsWord = 0x5049_4446;

/// What a process can be known by, as long as the host is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// When it was started, in ticks since boot; 0 where that is not known.
    pub start: u64,
    /// The number of its pidfds; 0 where the kernel gives none.
    pub inode: u64,
}

/// Opens the process that has a number now; `None` where there is none, or no descriptor is left.
#[must_use]
pub fn open(pid: u32) -> Option<OwnedFd> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    pidfd_open(number, PidfdFlags::empty()).ok()
}

/// Returns the number of a process descriptor's inode, which no other process has until the host is
/// booted again (Linux 6.9); `None` from kernels that do not number processes.
#[must_use]
pub fn inode_of(pidfd: BorrowedFd<'_>) -> Option<u64> {
    let place = fstatfs(pidfd).ok()?;
    let inode = fstat(pidfd).ok()?.st_ino;
    (place.f_type == PIDFS).then_some(inode)
}

/// Whether the process of a descriptor has ended. False where that can't be told.
#[must_use]
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Returns the number of the process behind a descriptor of any kind.
///
/// # Errors
///
/// Those of [`Process::by_pidfd`].
fn pid_of(pidfd: BorrowedFd<'_>) -> Result<u32, Error> {
    // Only of a process descriptor: for others, the kernel takes locks of theirs to write it.
    let look = Look::at(pidfd).map_err(io::Error::from);
    if !look.map_err(Error::system("stat a descriptor"))?.is_process() {
        return Err(Error::NotAProcess);
    }
    // `PIDFD_THREAD` of <linux/pidfd.h> is this flag.
    let flags = fcntl_getfl(pidfd).map_err(io::Error::from);
    let flags = flags.map_err(Error::system("read a process descriptor"))?;
    if flags.contains(OFlags::EXCL) {
        return Err(Error::IsThread);
    }
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))
        .map_err(Error::system("read a process descriptor"))?;
    // The kernel writes this line for pidfds alone (pidfd_open(2)): -1 for one that has been
    // waited for, 0 for one that our namespace does not show.
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
    match pid.map(str::parse::<i64>) {
        Some(Ok(0)) => Err(Error::Hidden),
        Some(Ok(pid)) => u32::try_from(pid).map_err(|_| Error::Ended),
        _ => Err(Error::NotAProcess),
    }
}

/// A watched process.
#[derive(Debug)]
pub struct Process {
    pidfd: Watched,
    pid: u32,
    /// When it was started, in ticks since boot; 0 where that is not known.
    start: u64,
    permitted: bool,
}

impl Process {
    /// The process that has this number now.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchProcess`].
    pub fn by_pid(pid: u32) -> Result<Self, Error> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pidfd = pidfd_open(number.ok_or(Error::NoSuchProcess(pid))?, PidfdFlags::empty());
        match pidfd {
            Ok(pidfd) => Self::watch(pidfd, pid),
            // A number that is a thread's and not a process's: EINVAL, since Linux 6.16 ENOENT.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {
                Err(Error::NoSuchProcess(pid))
            }
            Err(errno) => Err(Error::system("open a process")(errno.into())),
        }
    }

    /// The process behind a descriptor that a caller passed, by a descriptor of this service's own:
    /// to close the passed one may block for as long as its sender wishes.
    ///
    /// # Errors
    ///
    /// [`Error::NotAProcess`] for any other kind of descriptor, and those of [`Self::by_pidfd`].
    pub fn by_received(received: &Received) -> Result<Self, Error> {
        let pid = pid_of(received.as_fd())?;
        let own = Self::by_pid(pid)?;
        // No other process had this number meanwhile: the first one has not been waited for yet.
        if pid_of(received.as_fd())? == pid { Ok(own) } else { Err(Error::Ended) }
    }

    /// The process behind a descriptor of this service's own.
    ///
    /// # Errors
    ///
    /// [`Error::NotAProcess`] for any other kind of descriptor, [`Error::IsThread`] for one that means a
    /// thread only (`PIDFD_THREAD`), [`Error::Ended`] for one that has
    /// ended and been waited for, [`Error::Hidden`] for one of another pid namespace.
    pub fn by_pidfd(pidfd: OwnedFd) -> Result<Self, Error> {
        let pid = pid_of(pidfd.as_fd())?;
        Self::watch(pidfd, pid)
    }

    /// The process that had this number when its descriptor was parked; it may have ended.
    ///
    /// # Errors
    ///
    /// [`Error::System`] where it can't be watched.
    pub fn restored(pidfd: OwnedFd, pid: u32) -> Result<Self, Error> {
        Self::watch(pidfd, pid)
    }

    fn watch(pidfd: OwnedFd, pid: u32) -> Result<Self, Error> {
        // POLLIN: it has exited, whether or not it was waited for (pidfd_open(2)).
        let pidfd = Watched::new(pidfd, Interest::READABLE, PollFlags::IN);
        let pidfd = pidfd.map_err(Error::system("watch a process"))?;
        Ok(Self { pidfd, pid, start: 0, permitted: false })
    }

    /// Finds a process of which the descriptor is lost, if it lives. `start` tells when the process
    /// that has a number now was started, and is asked only where the kernel does not number pidfds.
    /// Where it can't tell, the process that has the number is taken for the same one: what it keeps
    /// must not be given up while it may live.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchProcess`], also where the number is another's by now.
    pub fn find(
        pid: u32,
        known: Known,
        start: impl FnOnce(u32) -> Option<u64>,
    ) -> Result<Self, Error> {
        let process = Self::by_pid(pid)?.started(known.start);
        let inode = process.inode()?;
        let same = if known.inode != 0 && inode != 0 {
            known.inode == inode
        } else {
            known.start == 0 || start(pid).is_none_or(|start| start == known.start)
        };
        process.check_alive()?;
        if same { Ok(process) } else { Err(Error::NoSuchProcess(pid)) }
    }

    /// What it can be found by where its descriptor is lost.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchProcess`] if it has ended.
    pub fn known(&self) -> Result<Known, Error> {
        let inode = self.inode()?;
        self.check_alive()?;
        Ok(Known { start: self.start, inode })
    }

    /// Returns the number of its pidfds, which no other process has as long as the host is up; 0 where
    /// the kernel gives none.
    ///
    /// # Errors
    ///
    /// [`Error::System`].
    pub fn inode(&self) -> Result<u64, Error> {
        let system = Error::system("read a process descriptor");
        let look = || Ok((fstatfs(self.pidfd.as_fd())?, fstat(self.pidfd.as_fd())?.st_ino));
        let (place, inode) = look().map_err(|errno: rustix::io::Errno| system(errno.into()))?;
        Ok(if place.f_type == PIDFS { inode } else { 0 })
    }

    /// The same, with the time when it was started, in ticks since boot.
    #[must_use]
    pub fn started(self, start: u64) -> Self {
        Self { start, ..self }
    }

    /// The same, where whoever named it was allowed to though it is another user's.
    #[must_use]
    pub fn permitted(self, permitted: bool) -> Self {
        Self { permitted, ..self }
    }

    /// Whether whoever named it was allowed to though it is another user's.
    #[must_use]
    pub fn is_permitted(&self) -> bool {
        self.permitted
    }

    /// Sends it a signal, whatever has its number by now (`pidfd_send_signal(2)`).
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchProcess`] if it has ended; [`Error::System`] where it is not allowed.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        pidfd_send_signal(self.pidfd.as_fd(), signal).map_err(|errno| match errno {
            rustix::io::Errno::SRCH => Error::NoSuchProcess(self.pid),
            errno => Error::system("send a signal")(errno.into()),
        })
    }

    /// Its number, for people.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Checks that it has not ended. What was found out by its number counts only if it still lives
    /// afterwards: the number may be another's by then.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchProcess`] if it has ended.
    pub fn check_alive(&self) -> Result<(), Error> {
        let ended = self.pidfd.seen().map_err(Error::system("poll a process"))?;
        if ended { Err(Error::NoSuchProcess(self.pid)) } else { Ok(()) }
    }

    /// Returns once the process has ended, whether or not it was waited for.
    ///
    /// # Errors
    ///
    /// Only where the event loop is at its end.
    pub async fn gone(&self) -> io::Result<()> {
        self.pidfd.wait().await
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::process::Command;

    #[tokio::test]
    async fn a_process_ends_before_it_is_waited_for() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::by_pid(child.id()).unwrap();
        process.check_alive().unwrap();
        let known = process.known().unwrap();
        let find = |known, start| Process::find(child.id(), known, |_| start);
        assert!(find(known, None).is_ok());
        if known.inode != 0 {
            assert!(find(Known { inode: known.inode + 1, ..known }, None).is_err());
            assert!(find(Known { start: 7, ..known }, Some(8)).is_ok());
        }
        // As a kernel without numbers has it written down.
        let known = Known { start: 7, inode: 0 };
        assert!(find(known, Some(7)).is_ok() && find(known, None).is_ok());
        assert!(find(known, Some(8)).is_err());
        assert_eq!(find(known, Some(7)).unwrap().known().unwrap().start, 7);
        child.kill().unwrap();
        process.gone().await.unwrap();
        assert!(matches!(process.known(), Err(Error::NoSuchProcess(_))));
        child.wait().unwrap();
        assert!(matches!(Process::by_pid(child.id()), Err(Error::NoSuchProcess(_))));
    }

    #[tokio::test]
    async fn only_a_pidfd_is_a_pidfd() {
        let file = File::open("/dev/null").unwrap();
        assert!(matches!(Process::by_pidfd(file.into()), Err(Error::NotAProcess)));
        let me = Pid::from_raw(std::process::id().cast_signed()).unwrap();
        let me = pidfd_open(me, PidfdFlags::empty()).unwrap();
        let copy = Received::from(me.try_clone().unwrap());
        assert_eq!(Process::by_received(&copy).unwrap().pid(), std::process::id());
        assert_eq!(Process::by_pidfd(me).unwrap().pid(), std::process::id());
        assert!(matches!(Process::by_pid(0), Err(Error::NoSuchProcess(0))));
    }
}
