//! The connection of a VM's process to virtlockd's socket.
//!
//! libvirt opens it in the process that becomes the VM, which inherits it and never sends anything
//! on it again. Therefore the connection lives exactly as long as the VM. The frontend that serves
//! the socket detects the end of the connection; no task waits for it here.

use std::io;
use std::mem::MaybeUninit;
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

/// The service's end of the connection.
#[derive(Debug)]
pub struct Connection(OwnedFd);

/// The process that opened a connection, as the kernel recorded it at that moment (`unix(7)`,
/// `SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The pid in the pid namespace of the service; 0 for a process that is not visible there.
    pub pid: u32,
    /// The user of the process.
    pub uid: u32,
}

impl Connection {
    /// Wraps the service's end of a connection.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self(stream.into())
    }

    /// Returns whether a descriptor refers to a socket.
    ///
    /// # Errors
    ///
    /// The errors of `fstat(2)`.
    pub fn is_socket(fd: impl AsFd) -> io::Result<bool> {
        Ok(FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Socket)
    }

    /// Wraps a descriptor of the service's end of a connection.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Returns the process that opened the connection.
    ///
    /// # Errors
    ///
    /// [`Error::System`].
    pub fn peer(&self) -> Result<Peer, Error> {
        // rustix cannot represent the pid 0.
        let credentials = getsockopt(&self.0, PeerCredentials).map_err(io::Error::from);
        let credentials =
            credentials.map_err(Error::system("read the credentials of a connection"))?;
        Ok(Peer { pid: u32::try_from(credentials.pid()).unwrap_or(0), uid: credentials.uid() })
    }

    /// Returns a pidfd of the process that opened the connection (`SO_PEERPIDFD`, Linux 6.5);
    /// `None` if the kernel does not provide it.
    #[must_use]
    pub fn peer_pidfd(&self) -> Option<OwnedFd> {
        getsockopt(&self.0, PeerPidfd).ok()
    }

    /// Shuts the connection down for both ends, whatever duplicates of the service's end exist.
    /// Does nothing if it is shut down already.
    pub fn shut_down(&self) {
        // The only possible error is that the peer has disconnected.
        let _ = shutdown(&self.0, Shutdown::Both);
    }

    /// Reads available bytes; `Ok(0)` if the peer has closed the connection.
    ///
    /// # Errors
    ///
    /// The errors of `read(2)`; `EAGAIN` if no data is available.
    pub fn read<'b>(&self, buffer: &'b mut [MaybeUninit<u8>]) -> Result<&'b [u8], Errno> {
        rustix::io::read(&self.0, buffer).map(|(read, _)| &*read)
    }

    /// Returns whether unread data is available; `Some(false)` if the peer has closed the
    /// connection, and `None` if it is open and no data is available.
    ///
    /// # Errors
    ///
    /// The errors of `recv(2)`, except for `EAGAIN`.
    pub fn has_unread(&self) -> Result<Option<bool>, Errno> {
        use rustix::net::{RecvFlags, recv};
        match recv(&self.0, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((count, _)) => Ok(Some(count > 0)),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Writes as many bytes as the socket accepts at once. Never raises a signal if the peer has
    /// disconnected.
    ///
    /// # Errors
    ///
    /// The errors of `send(2)`.
    pub fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        use rustix::net::{SendFlags, send};
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        send(&self.0, bytes, flags)
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
    fn a_shutdown_reaches_the_peer_despite_duplicates() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let copy = ours.try_clone().unwrap();
        let ours = Connection::new(ours);
        assert_eq!(ours.peer().unwrap().pid, std::process::id());
        ours.shut_down();
        assert_eq!(rustix::io::read(&theirs, &mut [0; 8]), Ok(0));
        assert_eq!(ours.write(b"x"), Err(Errno::PIPE));
        drop(copy);
        assert!(Connection::is_socket(&theirs).unwrap());
        assert!(!Connection::is_socket(std::fs::File::open("/dev/null").unwrap()).unwrap());
    }
}
