//! When the event loop may read the connection to the bus.
//!
//! A registration for reading wakes the event loop for each message that comes,
//! also while another thread reads: during a flood, that costs as much again as the reading. So reading is registration
//! apart from writing, and only while the event loop reads.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::registration::register;
use crate::sync::lock;

/// The registration of a socket for reading, which may be suspended.
#[derive(Debug)]
pub(in crate::admission) struct Readiness {
    /// A descriptor of its own: an epoll instance takes each only once, and that of the link is
    /// registration for writing.
    socket: Arc<OwnedFd>,
    registration: Mutex<Option<Arc<AsyncFd<Arc<OwnedFd>>>>>,
}

impl Readiness {
    /// Registers a socket for reading.
    ///
    /// # Errors
    ///
    /// Those of `dup(2)` and `epoll_ctl(2)`.
    pub(in crate::admission) fn new(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let readiness =
            Self { socket: Arc::new(socket.try_clone_to_owned()?), registration: Mutex::default() };
        readiness.resume()?;
        Ok(readiness)
    }

    /// Registers the socket again, if it is not. Needs an event loop.
    ///
    /// # Errors
    ///
    /// Those of `epoll_ctl(2)`.
    pub(in crate::admission) fn resume(&self) -> io::Result<()> {
        let mut registration = lock(&self.registration);
        if registration.is_none() {
            let socket = Arc::clone(&self.socket);
            *registration = Some(Arc::new(register(socket, Interest::READABLE)?));
        }
        Ok(())
    }

    /// Ends the registration: nothing is readable until it is [resumed](Self::resume). Nothing may
    /// wait in [`readable`](Self::readable) meanwhile.
    pub(in crate::admission) fn suspend(&self) {
        *lock(&self.registration) = None;
    }

    fn registration(&self) -> Option<Arc<AsyncFd<Arc<OwnedFd>>>> {
        lock(&self.registration).clone()
    }

    /// Waits until there is something to read.
    ///
    /// # Errors
    ///
    /// Where the event loop has ended.
    pub(in crate::admission) async fn readable(&self) -> io::Result<()> {
        match self.registration() {
            Some(socket) => {
                let mut ready = socket.readable().await?;
                // Cleared by a read that finds nothing.
                ready.retain_ready();
                Ok(())
            }
            None => std::future::pending().await,
        }
    }

    /// Reads, unless it is known that nothing is there. `read` must end in `WouldBlock` if that is
    /// so.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, and those of `read`.
    pub(in crate::admission) fn try_read<T>(
        &self,
        read: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let Some(socket) = self.registration() else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        socket.try_io(Interest::READABLE, |_| read())
    }
}
