//! Registers the connection to the bus for reading.
//!
//! A registration for reading wakes the event loop for each message that arrives, also while
//! another thread reads. During a flood, that costs as much again as reading. Therefore the socket
//! is registered for reading separately from writing, and only while the event loop reads.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::registration::register;
use crate::sync::lock;

/// The registration of a socket for reading, which can be suspended.
#[derive(Debug)]
pub(in crate::admission) struct Readiness {
    /// A duplicate: an epoll instance accepts each descriptor only once, and the socket itself is
    /// registered for writing.
    socket: Arc<OwnedFd>,
    registration: Mutex<Option<Arc<AsyncFd<Arc<OwnedFd>>>>>,
}

impl Readiness {
    /// Registers a socket for reading.
    ///
    /// # Errors
    ///
    /// The errors of `dup(2)` and `epoll_ctl(2)`.
    pub(in crate::admission) fn new(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let readiness =
            Self { socket: Arc::new(socket.try_clone_to_owned()?), registration: Mutex::default() };
        readiness.resume()?;
        Ok(readiness)
    }

    /// Registers the socket again if the registration is suspended. Requires an event loop.
    ///
    /// # Errors
    ///
    /// The errors of `epoll_ctl(2)`.
    pub(in crate::admission) fn resume(&self) -> io::Result<()> {
        let mut registration = lock(&self.registration);
        if registration.is_none() {
            let socket = Arc::clone(&self.socket);
            *registration = Some(Arc::new(register(socket, Interest::READABLE)?));
        }
        Ok(())
    }

    /// Suspends the registration: the socket does not become readable until
    /// [`resume`](Self::resume). No task may wait in [`readable`](Self::readable) meanwhile.
    pub(in crate::admission) fn suspend(&self) {
        *lock(&self.registration) = None;
    }

    fn registration(&self) -> Option<Arc<AsyncFd<Arc<OwnedFd>>>> {
        lock(&self.registration).clone()
    }

    /// Waits until the socket is readable.
    ///
    /// # Errors
    ///
    /// If the event loop has ended.
    pub(in crate::admission) async fn readable(&self) -> io::Result<()> {
        match self.registration() {
            Some(socket) => {
                let mut ready = socket.readable().await?;
                // A read that finds no data clears it.
                ready.retain_ready();
                Ok(())
            }
            None => std::future::pending().await,
        }
    }

    /// Calls `read`, unless the socket is known to have no data. `read` must return `WouldBlock` if
    /// there is none.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, and the errors of `read`.
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
