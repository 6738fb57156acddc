//! A pipe as a sign of life.
//!
//! The holder gets the *read* end, and may pass it on and inherit it as any descriptor; we keep
//! the write end, which reports an error once no copy of the read end is open anywhere (pipe(7)).
//! This way round no holder can fill the pipe or wake us with data. When we close our end, as
//! for an owner that was closed, a holder that watches its end sees it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::fcntl::OFlag;
use nix::poll::PollFlags;
use nix::sys::stat::fstat;
use nix::unistd::pipe2;
use tokio::io::Interest;

use super::Error;
use super::watched::Watched;

/// Our end of a lease.
#[derive(Debug)]
pub struct Lease(Watched);

impl Lease {
    /// A new lease and the end that is given away.
    ///
    /// # Errors
    ///
    /// [`Error::System`] where descriptors have run out.
    pub fn new() -> Result<(Self, OwnedFd), Error> {
        let made = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(io::Error::from);
        let (theirs, ours) = made.map_err(Error::system("making a lease"))?;
        Ok((Self::of(ours)?, theirs))
    }

    /// The lease of which this is our end.
    ///
    /// # Errors
    ///
    /// [`Error::System`] where it can't be watched.
    pub fn of(ours: OwnedFd) -> Result<Self, Error> {
        let ours = Watched::new(ours, Interest::ERROR, PollFlags::POLLERR);
        Ok(Self(ours.map_err(Error::system("watching a lease"))?))
    }

    /// The number of its pipe, by which it can be found among the open files of processes.
    ///
    /// # Errors
    ///
    /// [`Error::System`].
    pub fn inode(&self) -> Result<u64, Error> {
        let stat = fstat(self.as_fd()).map_err(io::Error::from);
        Ok(stat.map_err(Error::system("looking at a lease"))?.st_ino)
    }

    /// Finds leases of which our ends are lost: looks which processes have a pipe of that number
    /// open, and opens it for writing once more. What is missing in the answer is held by nobody.
    #[must_use]
    pub fn find(inodes: &[u64]) -> HashMap<u64, OwnedFd> {
        let wanted: HashMap<String, u64> =
            inodes.iter().map(|inode| (format!("pipe:[{inode}]"), *inode)).collect();
        let mut found = HashMap::new();
        // Processes come and go while we look: one that is gone holds nothing.
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let files = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
            for file in files {
                let link = fs::read_link(file.path()).ok();
                let link = link.as_ref().and_then(|link| link.to_str());
                let Some(inode) = link.and_then(|link| wanted.get(link)) else { continue };
                // Were it no reader, the lease would end at once, as any without one does.
                let flags = (OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits();
                let end = File::options().write(true).custom_flags(flags).open(file.path());
                if let Ok(end) = end {
                    found.insert(*inode, end.into());
                }
            }
        }
        found
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

impl AsFd for Lease {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lease_ends_with_its_last_copy() {
        let (lease, theirs) = Lease::new().unwrap();
        let copy = theirs.try_clone().unwrap();
        drop(theirs);
        assert!(!lease.0.seen().unwrap());
        drop(copy);
        lease.gone().await.unwrap();
    }

    #[tokio::test]
    async fn a_lease_is_found_by_who_holds_it() {
        let (lease, theirs) = Lease::new().unwrap();
        let inode = lease.inode().unwrap();
        drop(lease);
        let found = Lease::find(&[inode]).remove(&inode).unwrap();
        let lease = Lease::of(found).unwrap();
        assert!(!lease.0.seen().unwrap());
        drop(theirs);
        lease.gone().await.unwrap();
        drop(lease);
        assert!(Lease::find(&[inode]).is_empty());
    }
}
