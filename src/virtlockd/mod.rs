//! libvirt's own lock protocol, as virtlockd speaks it.
//!
//! An unmodified libvirt (`lock_manager = "lockd"`) calls this front as it would call virtlockd. The
//! wire first: [`xdr`] is how numbers and strings are written, [`frame`] is a message with its
//! header, [`call`] what is asked, [`fault`] how a refusal is told. These four touch nothing: no
//! file, no socket, no clock. A `session` is what one client has said, `deed` what is done for it;
//! a `client` is its connection, and a `pool` of threads serves all of them, beside the event loop.

pub mod call;
pub mod fault;
pub mod frame;
pub mod socket;
pub mod xdr;

mod accept;
mod client;
mod deed;
mod pool;
mod refusal;
mod session;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::io::Errno;

use crate::life::Connection;
use crate::lock::OwnerId;
use crate::lock::owner::AnchorId;
use crate::service::Service;
use pool::Pool;
use session::Session;
pub use socket::Socket;
use socket::SocketFile;

/// Serves clients of virtlockd's protocol for as long as the process lives.
#[derive(Debug)]
pub struct Server {
    pool: Arc<Pool>,
    /// The socket's file, where this process made it.
    file: Option<SocketFile>,
}

impl Server {
    /// Begins to serve root and this user: those that are connected already, and who connects to
    /// a socket. Needs the event loop's context; `on_start` is called in every thread.
    ///
    /// # Errors
    ///
    /// What `epoll_create(2)` and `epoll_ctl(2)` say.
    pub fn begin(
        service: &Service,
        user: u32,
        connections: Vec<(OwnerId, AnchorId, Arc<Connection>)>,
        socket: Option<Socket>,
        on_start: fn(),
    ) -> Result<Self, Errno> {
        let pool = Pool::new(service.clone(), user, on_start)?;
        for (owner, number, connection) in connections {
            let keeps = (owner, number);
            let session = Session::restored(service.clone(), Arc::clone(&connection), keeps);
            pool.admit(&connection, session);
        }
        let file = socket.as_ref().and_then(|socket| socket.file().cloned());
        if let Some(socket) = socket {
            pool.listen(socket.fd)?;
        }
        Ok(Self { pool, file })
    }

    /// How many clients there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.pool.count()
    }

    /// Does something with the socket, if there is one.
    pub fn with_listener<T>(&self, what: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        self.pool.with_listener(what)
    }

    /// Removes the socket's file, unless another program has put its own in this place.
    pub fn close(&self) {
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
