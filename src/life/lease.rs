//! A pipe as a sign of life.
//!
//! The holder gets the *read* end, and may pass it on and inherit it as any descriptor; we keep
//! the write end, which reports an error once no copy of the read end is open anywhere (pipe(7)).
//! This way round no holder can fill the pipe or wake us with data. When we close our end, as
//! for an owner that was closed, a holder that watches its end sees it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::poll::PollFlags;
use nix::sys::stat::{Mode, SFlag, fstat};
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
        let mut missing: HashSet<u64> = inodes.iter().copied().collect();
        let mut found = HashMap::new();
        // Processes come and go, and pass on what they have, while we look: so more than once.
        for _ in 0..SCANS {
            for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
                let files = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
                for file in files {
                    if let Some((inode, end)) = pipe_at(&file.path(), &missing) {
                        missing.remove(&inode);
                        found.insert(inode, end);
                    }
                }
            }
            if missing.is_empty() {
                break;
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

/// How often all processes are looked at before a lease counts as held by nobody.
const SCANS: usize = 3;

/// Our end of a pipe that a process has open, if it is one of these. Its holder may exchange what is
/// there at any time; so it is first taken hold of, then looked at, and then opened through that.
fn pipe_at(path: &Path, wanted: &HashSet<u64>) -> Option<(u64, OwnedFd)> {
    let link = fs::read_link(path).ok()?;
    let inode = link.to_str()?.strip_prefix("pipe:[")?.strip_suffix(']')?.parse().ok()?;
    if !wanted.contains(&inode) {
        return None;
    }
    let pin = nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    let stat = fstat(&pin).ok()?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    // Made by us, and no pipe of somebody else's that has come by the same number.
    let ours = stat.st_uid == nix::unistd::geteuid().as_raw();
    if kind != SFlag::S_IFIFO || stat.st_ino != inode || !ours {
        return None;
    }
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let own = format!("/proc/self/fd/{}", pin.as_raw_fd());
    // Were the process no reader, the lease would end at once, as any without one does.
    let end = nix::fcntl::open(own.as_str(), flags, Mode::empty()).ok()?;
    Some((inode, end))
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
