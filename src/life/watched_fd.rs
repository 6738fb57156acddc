//! A descriptor that the event loop watches.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::registration::register;

/// A descriptor of the service, registered with the event loop until it is dropped.
#[derive(Debug)]
pub(super) struct WatchedFd {
    fd: AsyncFd<OwnedFd>,
    interest: Interest,
    event: PollFlags,
}

impl WatchedFd {
    /// Watches for one event, which is `interest` for the event loop and `event` for poll(2).
    pub(super) fn new(fd: OwnedFd, interest: Interest, event: PollFlags) -> io::Result<Self> {
        Ok(Self { fd: register(fd, interest)?, interest, event })
    }

    /// Returns whether the event is pending now.
    pub(super) fn is_ready(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(self, self.event)];
        // Interrupted by a signal: poll again.
        while let Err(errno) = poll(&mut fds, Some(&Timespec::default())) {
            if errno != Errno::INTR {
                return Err(errno.into());
            }
        }
        Ok(fds[0].revents().contains(self.event))
    }

    /// Waits for the event.
    pub(super) async fn wait(&self) -> io::Result<()> {
        loop {
            let mut ready = self.fd.ready(self.interest).await?;
            if self.is_ready()? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }
}

impl AsFd for WatchedFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}
