//! The second frontend: libvirt's own lock protocol, as virtlockd implements it.
//!
//! An unmodified libvirt (`lock_manager = "lockd"`) calls this frontend instead of virtlockd. From the
//! wire up:
//!
//! 1. [`xdr`] encodes numbers and strings, [`frame`] is a message with its header, [`call`] is a
//!    procedure with its arguments, and [`remote_error`] is an error reply. These four are pure: they
//!    use no file, socket or clock.
//! 2. A thread of the `worker_pool` reads a message of a `client` and passes it to the client's
//!    `dispatcher`, which holds the state of the protocol and checks whether the call is allowed.
//! 3. `procedures` executes the call on the service; `error_mapping` converts the service's errors to
//!    libvirt's.
//!
//! The worker threads run beside the event loop, since an acquisition may block in the file system.
//! `leadership` decides which of them serves the clients.

pub mod call;
pub mod frame;
pub mod remote_error;
pub mod socket;
pub mod xdr;

mod accept;
mod client;
mod dispatcher;
mod error_mapping;
mod leadership;
mod procedures;
mod worker_pool;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::io::Errno;

use crate::life::Connection;
use crate::lock::OwnerId;
use crate::lock::model::owner::AnchorId;
use crate::service::Service;
use dispatcher::Dispatcher;
pub use socket::Socket;
use socket::SocketFile;
use worker_pool::WorkerPool;

/// A server of virtlockd's protocol, which runs for as long as the process does.
#[derive(Debug)]
pub struct Server {
    pool: Arc<WorkerPool>,
    /// The file of the socket, if this process created it.
    file: Option<SocketFile>,
}

impl Server {
    /// Starts to serve root and the user `user`: on connections that exist already, and on new
    /// connections to `socket`.
    ///
    /// Must be called in the context of the event loop. Every worker thread calls `on_start` first.
    ///
    /// # Errors
    ///
    /// The errors of `epoll_create(2)` and `epoll_ctl(2)`.
    pub fn start(
        service: &Service,
        user: u32,
        connections: Vec<(OwnerId, AnchorId, Arc<Connection>)>,
        socket: Option<Socket>,
        on_start: fn(),
    ) -> Result<Self, Errno> {
        let pool = WorkerPool::new(service.clone(), user, on_start)?;
        for (owner, anchor, connection) in connections {
            let dispatcher =
                Dispatcher::restored(service.clone(), Arc::clone(&connection), (owner, anchor));
            pool.add_client(&connection, dispatcher);
        }
        let file = socket.as_ref().and_then(|socket| socket.file().cloned());
        if let Some(socket) = socket {
            pool.listen(socket.fd)?;
        }
        Ok(Self { pool, file })
    }

    /// Returns the number of connected clients.
    #[must_use]
    pub fn client_count(&self) -> usize {
        self.pool.client_count()
    }

    /// Calls `f` with the listening socket, if there is one.
    pub fn with_listener<T>(&self, f: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        self.pool.with_listener(f)
    }

    /// Removes the file of the socket, unless another program has replaced it.
    pub fn remove_socket_file(&self) {
        match self.file.as_ref().map(SocketFile::remove) {
            None | Some(Ok(true)) => {}
            Some(Ok(false)) => {
                tracing::debug!(
                    "not removing the file of virtlockd's socket: it is missing, or another program has replaced it"
                );
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot remove the file of virtlockd's socket");
            }
        }
    }
}
