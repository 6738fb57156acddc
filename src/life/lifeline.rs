//! A lifeline: a pipe whose end reports that an owner has gone.
//!
//! The holder gets the *read* end, and may pass it on and inherit it like any descriptor. The
//! service keeps the write end, which reports an error when no copy of the read end is open any
//! more (pipe(7)). With the ends in this order, a holder can neither fill the pipe nor wake the
//! service with data. When the service closes its end, for example because it closes the owner, a
//! holder that polls the read end is notified.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::fs::fstat;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;

use super::Error;
use super::watched_fd::WatchedFd;

/// The service's end of a lifeline.
#[derive(Debug)]
pub struct Lifeline(WatchedFd);

impl Lifeline {
    /// Creates a lifeline. Returns also the read end for the holder.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if no descriptor is free.
    pub fn new() -> Result<(Self, OwnedFd), Error> {
        let pipe = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(io::Error::from);
        let (theirs, ours) = pipe.map_err(Error::system("create a lifeline"))?;
        Ok((Self::from_fd(ours)?, theirs))
    }

    /// Wraps the service's end of a lifeline.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if it cannot be registered with the event loop.
    pub fn from_fd(ours: OwnedFd) -> Result<Self, Error> {
        let ours = WatchedFd::new(ours, Interest::ERROR, PollFlags::ERR);
        Ok(Self(ours.map_err(Error::system("watch a lifeline"))?))
    }

    /// Returns the inode number of the pipe, by which it can be found among the open files of
    /// processes.
    ///
    /// # Errors
    ///
    /// [`Error::System`].
    pub fn inode(&self) -> Result<u64, Error> {
        let stat = fstat(self.as_fd()).map_err(io::Error::from);
        Ok(stat.map_err(Error::system("stat a lifeline"))?.st_ino)
    }

    /// Waits until the last copy of the read end is closed.
    ///
    /// # Errors
    ///
    /// Only if the event loop has ended.
    pub async fn closed(&self) -> io::Result<()> {
        self.0.wait().await
    }
}

impl AsFd for Lifeline {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lifeline_closes_with_its_last_copy() {
        let (lifeline, theirs) = Lifeline::new().unwrap();
        let copy = theirs.try_clone().unwrap();
        drop(theirs);
        assert!(!lifeline.0.is_ready().unwrap());
        drop(copy);
        lifeline.closed().await.unwrap();
    }
}
