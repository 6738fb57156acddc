//! A pipe as a sign of life.
//!
//! The holder gets the *read* end, and may pass it on and inherit it as any descriptor; we keep
//! the write end, which reports an error once no copy of the read end is open anywhere (pipe(7)).
//! This way round no holder can fill the pipe or wake us with data. When we close our end, as
//! for an owner that was closed, a holder that watches its end sees it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Error;

/// Our end of a lease.
#[derive(Debug)]
pub struct Lease(AsyncFd<OwnedFd>);

impl Lease {
    /// A new lease and the end that is given away.
    ///
    /// # Errors
    ///
    /// [`Error::System`] where descriptors have run out.
    pub fn new() -> Result<(Self, OwnedFd), Error> {
        let failed = Error::system("making a lease");
        let made = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(io::Error::from);
        let (theirs, ours) = made.map_err(failed)?;
        let ours = AsyncFd::with_interest(ours, Interest::ERROR);
        Ok((Self(ours.map_err(Error::system("watching a lease"))?), theirs))
    }

    /// Returns once the last copy of the other end is closed.
    ///
    /// # Errors
    ///
    /// Only where the event loop is at its end.
    pub async fn gone(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.ready(Interest::ERROR).await?;
            if self.is_gone()? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }

    fn is_gone(&self) -> io::Result<bool> {
        let mut asked = [PollFd::new(self.0.get_ref().as_fd(), PollFlags::empty())];
        poll(&mut asked, PollTimeout::ZERO)?;
        Ok(asked[0].revents().is_some_and(|seen| seen.contains(PollFlags::POLLERR)))
    }
}
