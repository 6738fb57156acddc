//! Accepts connections to the listening socket, and checks the peer.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use crate::catalog::LogEvent;
use crate::life::Connection;
use crate::life::connection::Peer;

/// The largest number of clients. Each has a descriptor, and locks need descriptors, too.
const MAX_CLIENTS: usize = 16_384;

/// The result of one `accept(2)`.
#[derive(Debug)]
pub(super) enum Accepted {
    /// A connection of an authorized peer.
    Client(Connection, Peer),
    /// A connection that was closed at once, so that the peer need not wait.
    Refused,
    /// A connection that was closed, as the peer is not authorized.
    Denied,
    /// No descriptor was free for the connection, which is still in the queue.
    NoDescriptor,
    /// The queue is empty.
    Empty,
}

/// Accepts the next connection in the queue of `listener`, if the peer is root or `user`.
///
/// The file mode of the socket enforces the same, but an administrator may have changed it.
pub(super) fn accept(listener: BorrowedFd<'_>, user: u32, client_count: usize) -> Accepted {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let connection = match accept_with(listener, flags) {
        Ok(connection) => Connection::from_fd(connection),
        Err(Errno::AGAIN) => return Accepted::Empty,
        // The peer has disconnected already.
        Err(Errno::CONNABORTED | Errno::INTR) => return Accepted::Refused,
        Err(Errno::MFILE | Errno::NFILE) => {
            tracing::error!("cannot accept clients of virtlockd's socket: no free descriptors");
            return Accepted::NoDescriptor;
        }
        Err(errno) => {
            tracing::error!(
                "cannot accept a client of virtlockd's socket: {}",
                io::Error::from(errno)
            );
            return Accepted::Empty;
        }
    };
    let peer = match connection.peer() {
        Ok(peer) => peer,
        Err(error) => {
            tracing::error!(%error, "refusing a client of virtlockd's socket");
            return Accepted::Refused;
        }
    };
    if peer.uid != 0 && peer.uid != user {
        tracing::warn!(
            event = LogEvent::Denied.as_str(),
            caller.uid = peer.uid,
            caller.pid = peer.pid,
            reason = "not-authorized",
            "denied uid {} (pid {}): cannot use virtlockd's socket: it serves only root and the user \
             of the service",
            peer.uid,
            peer.pid
        );
        return Accepted::Denied;
    }
    if client_count >= MAX_CLIENTS {
        tracing::warn!(
            limit = MAX_CLIENTS,
            "refusing a client of virtlockd's socket: it has {MAX_CLIENTS} clients already"
        );
        return Accepted::Refused;
    }
    Accepted::Client(connection, peer)
}
