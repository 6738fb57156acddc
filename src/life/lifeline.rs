//! A pipe as a sign of life.
//!
//! The holder gets the *read* end, and may pass it on and inherit it as any descriptor; we keep
//! the write end, which reports an error once no copy of the read end is open anywhere (pipe(7)).
//! This way round no holder can fill the pipe or wake us with data. When we close our end, as
//! for an owner that was closed, a holder that watches its end sees it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::fs::fstat;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;

use super::Error;
use super::watched::Watched;

/// Our end of a lifeline.
#[derive(Debug)]
pub struct Lifeline(Watched);

impl Lifeline {
    /// A new lifeline and the end that is given away.
    ///
    /// # Errors
    ///
    /// [`Error::System`] where descriptors have run out.
    pub fn new() -> Result<(Self, OwnedFd), Error> {
        let made = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(io::Error::from);
        let (theirs, ours) = made.map_err(Error::system("create a lifeline"))?;
        Ok((Self::of(ours)?, theirs))
    }

    /// The lifeline of which this is our end.
    ///
    /// # Errors
    ///
    /// [`Error::System`] where it can't be watched.
    pub fn of(ours: OwnedFd) -> Result<Self, Error> {
        let ours = Watched::new(ours, Interest::ERROR, PollFlags::ERR);
        Ok(Self(ours.map_err(Error::system("watch a lifeline"))?))
    }

    /// The number of its pipe, by which it can be found among the open files of processes.
    ///
    /// # Errors
    ///
    /// [`Error::System`].
    pub fn inode(&self) -> Result<u64, Error> {
        let stat = fstat(self.as_fd()).map_err(io::Error::from);
        Ok(stat.map_err(Error::system("stat a lifeline"))?.st_ino)
    }

    /// Returns once the last copy of the other end is closed.
    ///
    /// # Errors
    ///
    /// Only where the event loop is at its end.
    pub async fn gone(&self) -> io::Result<()> {
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
    async fn a_lifeline_ends_with_its_last_copy() {
        let (lifeline, theirs) = Lifeline::new().unwrap();
        let copy = theirs.try_clone().unwrap();
        drop(theirs);
        assert!(!lifeline.0.seen().unwrap());
        drop(copy);
        lifeline.gone().await.unwrap();
    }
}
