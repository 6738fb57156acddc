//! Who is let in.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use crate::catalog::Kind;
use crate::life::Connection;
use crate::life::connection::Peer;

/// How many clients there may be at one time: each takes a descriptor, and what locks need must
/// be left.
const CLIENTS: usize = 16_384;

/// What came of waiting at the door.
#[derive(Debug)]
pub(super) enum Accepted {
    /// A client.
    Client(Connection, Peer),
    /// Somebody who was sent away: that he sees, and need not wait for.
    Refused,
    /// The same, of one who may not come in.
    Denied,
    /// There is no descriptor left for whoever waits.
    Exhausted,
    /// Nobody is waiting.
    Nobody,
}

/// Lets in whoever waits next: root, or this user. The mode of the socket says the same; but it is
/// a file, whose mode somebody may have changed.
pub(super) fn accept(listener: BorrowedFd<'_>, user: u32, clients: usize) -> Accepted {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let connection = match accept_with(listener, flags) {
        Ok(connection) => Connection::of(connection),
        Err(Errno::AGAIN) => return Accepted::Nobody,
        // He has left already.
        Err(Errno::CONNABORTED | Errno::INTR) => return Accepted::Refused,
        Err(Errno::MFILE | Errno::NFILE) => {
            tracing::error!("cannot accept clients of virtlockd's socket: no free descriptors");
            return Accepted::Exhausted;
        }
        Err(errno) => {
            tracing::error!(
                "cannot accept a client of virtlockd's socket: {}",
                io::Error::from(errno)
            );
            return Accepted::Nobody;
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
            event = Kind::Denied.as_str(),
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
    if clients >= CLIENTS {
        tracing::warn!(
            limit = CLIENTS,
            "refusing a client of virtlockd's socket: it has {CLIENTS} clients already"
        );
        return Accepted::Refused;
    }
    Accepted::Client(connection, peer)
}
