//! The connection of a machine's own process to virtlockd's socket.
//!
//! libvirt opens it in the process that becomes the machine, which inherits it and never says
//! anything there again. So it lives as long as the machine does, and its end is the machine's.
//! Whoever serves the socket sees the end; nobody waits for it here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{
    getsockopt,
    sockopt::{PeerCredentials, PeerPidfd},
};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};

use super::Error;

/// Our end of it.
#[derive(Debug)]
pub struct Connection(OwnedFd);

/// Who opened a connection, as the kernel noted at that moment (`unix(7)`, `SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The process, in our pid namespace; 0 for one that is not visible from here.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
}

impl Connection {
    /// Our end.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self(stream.into())
    }

    /// Whether a descriptor is that of a socket.
    ///
    /// # Errors
    ///
    /// What `fstat(2)` says.
    pub fn is_one(fd: impl AsFd) -> io::Result<bool> {
        Ok(FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Socket)
    }

    /// The connection of which this is our end.
    #[must_use]
    pub fn of(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Who opened it.
    ///
    /// # Errors
    ///
    /// [`Error::System`].
    pub fn peer(&self) -> Result<Peer, Error> {
        // Not rustix's: there is no 0 among its process numbers.
        let seen = getsockopt(&self.0, PeerCredentials).map_err(io::Error::from);
        let seen = seen.map_err(Error::system("read the credentials of a connection"))?;
        Ok(Peer { pid: u32::try_from(seen.pid()).unwrap_or(0), uid: seen.uid() })
    }

    /// The process that opened it (`SO_PEERPIDFD`, Linux 6.5); `None` where the kernel does not tell.
    #[must_use]
    pub fn peer_process(&self) -> Option<OwnedFd> {
        getsockopt(&self.0, PeerPidfd).ok()
    }

    /// Ends it for the other side, whatever copies of our end exist. Of one that has ended already
    /// nothing is said.
    pub fn hang_up(&self) {
        // Nothing else can be wrong with a socket that is ours.
        let _ = shutdown(&self.0, Shutdown::Both);
    }

    /// Reads what has come; `Ok(0)`: the other side has closed it.
    ///
    /// # Errors
    ///
    /// What `read(2)` says, `EAGAIN` where nothing has come.
    pub fn read(&self, into: &mut [u8]) -> Result<usize, Errno> {
        rustix::io::read(&self.0, into)
    }

    /// Whether something has come that is not read yet; `Some(false)`: the other side has closed it.
    ///
    /// # Errors
    ///
    /// What `recv(2)` says, but for `EAGAIN`: that is `None`.
    pub fn has_come(&self) -> Result<Option<bool>, Errno> {
        use rustix::net::{RecvFlags, recv};
        match recv(&self.0, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((count, _)) => Ok(Some(count > 0)),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Writes as much as there is room for; never a signal where the other side is gone.
    ///
    /// # Errors
    ///
    /// What `send(2)` says.
    pub fn write(&self, from: &[u8]) -> Result<usize, Errno> {
        use rustix::net::{SendFlags, send};
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        send(&self.0, from, flags)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hang_up_is_seen_though_there_are_copies() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let copy = ours.try_clone().unwrap();
        let ours = Connection::new(ours);
        assert_eq!(ours.peer().unwrap().pid, std::process::id());
        ours.hang_up();
        assert_eq!(rustix::io::read(&theirs, &mut [0; 8]), Ok(0));
        assert_eq!(ours.write(b"x"), Err(Errno::PIPE));
        drop(copy);
        assert!(Connection::is_one(&theirs).unwrap());
        assert!(!Connection::is_one(std::fs::File::open("/dev/null").unwrap()).unwrap());
    }
}
