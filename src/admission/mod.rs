//! Admission control: bounds what callers may send to the service, before zbus parses it.
//!
//! zbus parses and queues every message that it receives, and runs each call as a task of its own,
//! without a bound. Any user can send a hundred thousand calls a second. Therefore zbus runs the
//! connection to the bus over the [`Socket`] of this module, which classifies messages by their
//! headers. Read the rooms in the order in which a call passes through them:
//!
//! 1. [`incoming`] reads the socket and classifies messages. Replies to the service's own calls, and
//!    signals of the bus itself, go to zbus first. Other signals, and replies that the service does
//!    not expect, are dropped.
//! 2. [`quota`] counts calls for each connection and each user, whatever their interface: calls and
//!    bytes in flight, and calls in a second. A call over a quota is answered with `LimitsExceeded`,
//!    which is written as bytes; no other object is built for it. A call is in flight until its reply
//!    is sent. Calls of a connection whose user is not known yet are kept, up to some KiB, until the
//!    bus has identified the user.
//! 3. The scheduler in [`quota`] has one queue of admitted calls for each user. The calls of the
//!    privileged user, to which no quota applies, go first. The other users take turns (round robin),
//!    and only while the bus accepts replies (backpressure).
//! 4. [`outgoing`] sends replies, and marks each call as complete when its reply passes. A message
//!    that the bus does not accept at once waits in an outbound queue. If the bus has stopped reading
//!    (a stall), the connection is closed, and the caller of this module reconnects.
//! 5. [`private`] serves clients of the private socket, which has no bus. Their calls pass through
//!    the same quotas and the same scheduler, and are never queued in a bus.
//!
//! [`message`] parses and writes the D-Bus wire format, [`transport`] has the sockets, and
//! [`control`] connects the rooms: it is the state that they share.
//!
//! The socket also hides objects from callers that may not see them, and selects the text of errors
//! ([`crate::privacy`]).
//!
//! The socket is always read, during a flood by a thread of its own ([`incoming`]): a
//! message that waits in the bus would delay the next call of root. Therefore memory is bounded by
//! the calls that are admitted, and not by the calls that are sent. A user that calls too fast is
//! refused at a bounded rate ([`quota::refusal_queue`]), since a refusal costs the bus as much as a
//! call (throttling).

mod control;
mod incoming;
mod message;
mod outgoing;
mod private;
mod quota;
mod transport;

use std::os::fd::AsFd as _;
use std::sync::Arc;

use zbus::connection::socket::Split;

pub use self::control::{Admission, UserLookups};
pub use self::incoming::reader::Reader;
pub use self::message::stand_in;
use self::outgoing::stall_detector;
pub use self::outgoing::writer::Writer;
pub use self::quota::refusal::IdentificationError;
use self::transport::readiness::Readiness;
use self::transport::socket::ConnectedSocket;
use crate::bus::Bus;

/// A connected socket with admission control, over which zbus runs a connection.
#[derive(Debug)]
pub struct Socket {
    inner: Arc<ConnectedSocket>,
    readiness: Readiness,
    admission: Admission,
}

impl Socket {
    /// Connects to a bus.
    ///
    /// # Errors
    ///
    /// If the bus does not exist, or its address is not the address of a Unix socket.
    pub async fn connect(bus: Bus, admission: &Admission) -> zbus::Result<Self> {
        let inner = Arc::new(ConnectedSocket::connect(bus).await?);
        let readiness = Readiness::new(inner.as_fd())?;
        Ok(Self { inner, readiness, admission: admission.clone() })
    }
}

impl zbus::connection::Socket for Socket {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Self::ReadHalf, Self::WriteHalf> {
        let Self { inner: socket, readiness, admission } = self;
        tokio::spawn(stall_detector::monitor(Arc::clone(&socket), admission.clone()));
        let reader = Reader::new(Arc::clone(&socket), readiness, admission.clone());
        Split::new(reader, Writer::new(socket, admission))
    }
}
