//! A process, referred to by a pidfd, which never refers to another process (`pidfd_open(2)`).

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FsWord, OFlags, fcntl_getfl, fstat, fstatfs};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;

use super::Error;
use super::watched_fd::WatchedFd;
use crate::lock::descriptor::passed::OpenFile;
use crate::lock::descriptor::received::Received;

/// The file system in which pidfds have unique inode numbers, since Linux 6.9 (`PID_FS_MAGIC` in
/// <linux/magic.h>).
const PIDFS: FsWord = 0x5049_4446;

/// A key that identifies a process until the host is rebooted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessKey {
    /// The start time, in ticks since boot; 0 if it is not known.
    pub start: u64,
    /// The inode number of the pidfds; 0 if the kernel does not assign unique numbers.
    pub inode: u64,
}

/// Opens a pidfd of the process `pid`; `None` if the process does not exist or no descriptor is free.
#[must_use]
pub fn open_pidfd(pid: u32) -> Option<OwnedFd> {
    try_open_pidfd(pid).ok()
}

/// Opens a pidfd of the process `pid`.
///
/// # Errors
///
/// The errors of `pidfd_open(2)`; `ESRCH` for a number that no process can have.
fn try_open_pidfd(pid: u32) -> Result<OwnedFd, Errno> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pidfd_open(number.ok_or(Errno::SRCH)?, PidfdFlags::empty())
}

/// Returns the inode number of a pidfd, which no other process has until the host is rebooted (Linux
/// 6.9); `None` if the kernel does not assign unique numbers.
#[must_use]
pub fn pidfd_inode(pidfd: BorrowedFd<'_>) -> Option<u64> {
    try_pidfd_inode(pidfd).ok().flatten()
}

/// Returns the inode number of a pidfd; `None` if the kernel does not assign unique numbers.
///
/// # Errors
///
/// The errors of `fstatfs(2)` and `fstat(2)`.
fn try_pidfd_inode(pidfd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let file_system = fstatfs(pidfd)?;
    let inode = fstat(pidfd)?.st_ino;
    Ok((file_system.f_type == PIDFS).then_some(inode))
}

/// Returns whether the process of a pidfd has exited; `false` if this cannot be determined.
#[must_use]
pub fn has_exited(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Returns the pid of a pidfd. The descriptor may be of any kind.
///
/// # Errors
///
/// The errors of [`Process::from_pidfd`].
fn pid_of(pidfd: BorrowedFd<'_>) -> Result<u32, Error> {
    // Only for a pidfd: for other descriptors, the kernel takes locks of theirs to write it.
    let look = OpenFile::at(pidfd).map_err(io::Error::from);
    if !look.map_err(Error::system("stat a descriptor"))?.is_process() {
        return Err(Error::NotAProcess);
    }
    // `PIDFD_THREAD` of <linux/pidfd.h> is the same flag.
    let flags = fcntl_getfl(pidfd).map_err(io::Error::from);
    let flags = flags.map_err(Error::system("read a process descriptor"))?;
    if flags.contains(OFlags::EXCL) {
        return Err(Error::IsThread);
    }
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))
        .map_err(Error::system("read a process descriptor"))?;
    // The kernel writes this line for pidfds only (pidfd_open(2)): -1 for a process that has been
    // waited for, 0 for a process that is not visible in the pid namespace of the service.
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
    match pid.map(str::parse::<i64>) {
        Some(Ok(0)) => Err(Error::Hidden),
        Some(Ok(pid)) => u32::try_from(pid).map_err(|_| Error::Ended),
        _ => Err(Error::NotAProcess),
    }
}

/// A process that is watched for its exit.
#[derive(Debug)]
pub struct Process {
    pidfd: WatchedFd,
    pid: u32,
    /// The start time, in ticks since boot; 0 if it is not known.
    start: u64,
    permitted: bool,
}

impl Process {
    /// Opens the process that has this pid now.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchProcess`].
    pub fn from_pid(pid: u32) -> Result<Self, Error> {
        match try_open_pidfd(pid) {
            Ok(pidfd) => Self::watch(pidfd, pid),
            // The number of a thread that is not a process: EINVAL, since Linux 6.16 ENOENT.
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Err(Error::NoSuchProcess(pid)),
            Err(errno) => Err(Error::system("open a process")(errno.into())),
        }
    }

    /// Opens the process of a pidfd that a caller has passed. The service opens a pidfd of its own,
    /// since closing the passed descriptor may block as long as its sender likes.
    ///
    /// # Errors
    ///
    /// [`Error::NotAProcess`] for any other kind of descriptor, and the errors of [`Self::from_pidfd`].
    pub fn from_received(received: &Received) -> Result<Self, Error> {
        let pid = pid_of(received.as_fd())?;
        let own = Self::from_pid(pid)?;
        // No other process had this pid meanwhile, since the first one has not been waited for yet.
        if pid_of(received.as_fd())? == pid { Ok(own) } else { Err(Error::Ended) }
    }

    /// Wraps a pidfd of the service.
    ///
    /// # Errors
    ///
    /// [`Error::NotAProcess`] for another kind of descriptor; [`Error::IsThread`] for a pidfd of a
    /// single thread (`PIDFD_THREAD`); [`Error::Ended`] for a process that has exited and been
    /// waited for; [`Error::Hidden`] for a process in another pid namespace.
    pub fn from_pidfd(pidfd: OwnedFd) -> Result<Self, Error> {
        let pid = pid_of(pidfd.as_fd())?;
        Self::watch(pidfd, pid)
    }

    /// Wraps a stashed pidfd of the process that had this pid when it was stashed. The process may
    /// have exited.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if it cannot be registered with the event loop.
    pub fn from_stashed(pidfd: OwnedFd, pid: u32) -> Result<Self, Error> {
        Self::watch(pidfd, pid)
    }

    fn watch(pidfd: OwnedFd, pid: u32) -> Result<Self, Error> {
        // POLLIN: the process has exited, whether or not it was waited for (pidfd_open(2)).
        let pidfd = WatchedFd::new(pidfd, Interest::READABLE, PollFlags::IN);
        let pidfd = pidfd.map_err(Error::system("watch a process"))?;
        Ok(Self { pidfd, pid, start: 0, permitted: false })
    }

    /// Finds a running process whose pidfd was lost. `start_of` returns the start time of the
    /// process that has a pid now, and is called only if the kernel does not assign unique inode
    /// numbers to pidfds. If the start time is unknown, the process that has the pid is taken for
    /// the same one: its locks must not be released while it may be running.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchProcess`], also if the pid belongs to another process now.
    pub fn find(
        pid: u32,
        key: ProcessKey,
        start_of: impl FnOnce(u32) -> Option<u64>,
    ) -> Result<Self, Error> {
        let process = Self::from_pid(pid)?.with_start_time(key.start);
        let inode = process.inode()?;
        let same = if key.inode != 0 && inode != 0 {
            key.inode == inode
        } else {
            key.start == 0 || start_of(pid).is_none_or(|start| start == key.start)
        };
        process.check_alive()?;
        if same { Ok(process) } else { Err(Error::NoSuchProcess(pid)) }
    }

    /// Returns the key by which the process can be found if its pidfd is lost.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchProcess`] if the process has exited.
    pub fn key(&self) -> Result<ProcessKey, Error> {
        let inode = self.inode()?;
        self.check_alive()?;
        Ok(ProcessKey { start: self.start, inode })
    }

    /// Returns the inode number of the pidfds of the process, which no other process has until the
    /// host is rebooted; 0 if the kernel does not assign unique numbers.
    ///
    /// # Errors
    ///
    /// [`Error::System`].
    pub fn inode(&self) -> Result<u64, Error> {
        let inode = try_pidfd_inode(self.pidfd.as_fd());
        Ok(inode.map_err(Error::system("read a process descriptor"))?.unwrap_or(0))
    }

    /// Sets the start time, in ticks since boot.
    #[must_use]
    pub fn with_start_time(self, start: u64) -> Self {
        Self { start, ..self }
    }

    /// Sets whether the caller that registered the process was authorized to, although the process
    /// belongs to another user.
    #[must_use]
    pub fn with_permission(self, permitted: bool) -> Self {
        Self { permitted, ..self }
    }

    /// Returns whether the caller that registered the process was authorized to, although the
    /// process belongs to another user.
    #[must_use]
    pub fn is_permitted(&self) -> bool {
        self.permitted
    }

    /// Sends a signal to this process, never to another one with its pid (`pidfd_send_signal(2)`).
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchProcess`] if the process has exited; [`Error::System`] if the signal is not
    /// permitted.
    pub fn send_signal(&self, signal: Signal) -> Result<(), Error> {
        pidfd_send_signal(self.pidfd.as_fd(), signal).map_err(|errno| match errno {
            Errno::SRCH => Error::NoSuchProcess(self.pid),
            errno => Error::system("send a signal")(errno.into()),
        })
    }

    /// Returns the pid, for display.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Checks that the process has not exited. Data that was read by pid is valid only if this
    /// check succeeds afterwards: otherwise the pid may belong to another process.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchProcess`] if the process has exited.
    pub fn check_alive(&self) -> Result<(), Error> {
        let ended = self.pidfd.is_ready().map_err(Error::system("poll a process"))?;
        if ended { Err(Error::NoSuchProcess(self.pid)) } else { Ok(()) }
    }

    /// Waits until the process has exited, whether or not it was waited for.
    ///
    /// # Errors
    ///
    /// Only if the event loop has ended.
    pub async fn exited(&self) -> io::Result<()> {
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
    async fn an_exit_is_detected_before_the_process_is_waited_for() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::from_pid(child.id()).unwrap();
        process.check_alive().unwrap();
        let key = process.key().unwrap();
        let find = |key, start| Process::find(child.id(), key, |_| start);
        assert!(find(key, None).is_ok());
        if key.inode != 0 {
            assert!(find(ProcessKey { inode: key.inode + 1, ..key }, None).is_err());
            assert!(find(ProcessKey { start: 7, ..key }, Some(8)).is_ok());
        }
        // A kernel without unique inode numbers saves this key.
        let key = ProcessKey { start: 7, inode: 0 };
        assert!(find(key, Some(7)).is_ok() && find(key, None).is_ok());
        assert!(find(key, Some(8)).is_err());
        assert_eq!(find(key, Some(7)).unwrap().key().unwrap().start, 7);
        child.kill().unwrap();
        process.exited().await.unwrap();
        assert!(matches!(process.key(), Err(Error::NoSuchProcess(_))));
        child.wait().unwrap();
        assert!(matches!(Process::from_pid(child.id()), Err(Error::NoSuchProcess(_))));
    }

    #[tokio::test]
    async fn only_a_pidfd_is_accepted() {
        let file = File::open("/dev/null").unwrap();
        assert!(matches!(Process::from_pidfd(file.into()), Err(Error::NotAProcess)));
        let me = Pid::from_raw(std::process::id().cast_signed()).unwrap();
        let me = pidfd_open(me, PidfdFlags::empty()).unwrap();
        let copy = Received::from(me.try_clone().unwrap());
        assert_eq!(Process::from_received(&copy).unwrap().pid(), std::process::id());
        assert_eq!(Process::from_pidfd(me).unwrap().pid(), std::process::id());
        assert!(matches!(Process::from_pid(0), Err(Error::NoSuchProcess(0))));
    }
}
