//! A descriptor whose state the event loop watches.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::registration::register;

/// An own descriptor, registered with the event loop for as long as it lives.
#[derive(Debug)]
pub(super) struct Watched {
    fd: AsyncFd<OwnedFd>,
    interest: Interest,
    sign: PollFlags,
}

impl Watched {
    /// Watches for one sign: `interest` is what the event loop calls it, `sign` what poll(2) does.
    pub(super) fn new(fd: OwnedFd, interest: Interest, sign: PollFlags) -> io::Result<Self> {
        Ok(Self { fd: register(fd, interest)?, interest, sign })
    }

    /// Whether the sign is there now.
    pub(super) fn seen(&self) -> io::Result<bool> {
        let mut asked = [PollFd::new(self, self.sign)];
        // A signal that comes meanwhile is no answer.
        while let Err(errno) = poll(&mut asked, Some(&Timespec::default())) {
            if errno != Errno::INTR {
                return Err(errno.into());
            }
        }
        Ok(asked[0].revents().contains(self.sign))
    }

    /// Returns once the sign is there.
    pub(super) async fn wait(&self) -> io::Result<()> {
        loop {
            let mut ready = self.fd.ready(self.interest).await?;
            if self.seen()? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}
