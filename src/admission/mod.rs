//! Admission control: what of the messages on the bus reaches the service at all.
//!
//! zbus parses each message that comes, queues it, and runs each call as a task of its own, as many
//! as there are. Any user can send hundred thousand calls a second. So the connection to the bus
//! runs over a socket of our own ([`Socket`]), whose receiving half sorts messages by their headers
//! before zbus sees them:
//!
//! - Replies to our own calls, and signals of the bus itself, are passed on first. Other signals,
//!   and replies that nothing waits for, are dropped.
//! - Calls are counted for each connection and each user, whatever their interface: how many are in
//!   flight, how many bytes these have, and how many come in a second. A call over a limit is
//!   answered with `LimitsExceeded`, by bytes that are written at once; nothing else is built for
//!   it. A call stays in flight until the sending half sees its reply.
//! - Admitted calls wait in one queue for each user. Those of the user to whom no quota applies go
//!   first; the others take turns, and go on only while replies are taken by the bus.
//! - The calls of a connection whose user is not known are kept, some KiB of them, until the bus
//!   has said which one it is.
//!
//! A client of the private socket ([`peer`]) is no connection to the bus. Its calls are admitted and
//! dispatched like those that come from the bus, and never wait in one.
//!
//! The same socket hides objects from callers that may not see them, and chooses the text of errors
//! ([`crate::privacy`]).
//!
//! What the bus does not take at once waits in a queue of its own ([`outbound`]). A bus that has
//! stopped reading is left ([`stall`]), and the caller of this module comes back to it.
//!
//! The socket is always read, during a flood by a thread of its own ([`inbox`]): what waits in the
//! bus for us would keep back the next call of root. So memory is bounded by what is admitted, and
//! not by what is sent. A user that calls too fast is refused at a bounded rate ([`refusals`]),
//! since a refusal costs the bus as much as a call.

mod account;
mod call;
mod discard;
mod driver;
mod expected;
mod framer;
mod greeting;
pub mod handed;
mod head;
mod inbox;
mod intake;
mod ledger;
mod link;
mod order;
mod outbound;
mod peer;
mod peers;
mod rate;
mod raw;
mod reader;
mod readiness;
mod refusal;
mod refusals;
mod stall;
mod stamp;
mod unsent;
mod writer;

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, mpsc};
use zbus::connection::socket::Split;

use self::call::{Admitted, Raw, Refused};
use self::expected::Expected;
use self::handed::Handed;
use self::head::Head;
use self::ledger::{Ledger, Outcome};
use self::link::Link;
use self::peers::{Parcel, Peers};
pub use self::reader::Reader;
use self::readiness::Readiness;
pub use self::refusal::Unidentified;
pub use self::writer::Writer;
use crate::bus::Bus;
use crate::privacy::Privacy;
use crate::service::Service;

/// The name by which the bus itself sends messages.
const BUS: &str = "org.freedesktop.DBus";

/// The connection of a caller, and the serial number of its call.
type CallId = (Arc<str>, u32);

/// Connections whose user is to be found out.
pub type Unknown = mpsc::UnboundedReceiver<Arc<str>>;

/// What is admitted and in flight on one connection to a bus.
#[derive(Debug, Clone)]
pub struct Admission(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    service: Service,
    privacy: Privacy,
    ledger: Mutex<Ledger>,
    /// Calls that were refused once their user was known.
    refused: Mutex<Vec<Refused>>,
    /// The descriptors of calls that are being answered, by caller and serial number.
    handed: Mutex<HashMap<CallId, Vec<Handed>>>,
    /// The service's own calls that are not answered.
    expected: Mutex<Expected>,
    unknown: mpsc::UnboundedSender<Arc<str>>,
    /// Clients that are connected without a bus.
    peers: Peers,
    /// Whether the connection was closed because the bus did not read it.
    stalled: AtomicBool,
    wake: Notify,
}

impl Admission {
    /// Nothing in flight; no quota applies to the user `privileged`. Tells which connections'
    /// users are to be found out: [`identified`](Self::identified) is to be called for each.
    #[must_use]
    pub fn new(service: Service, privileged: u32) -> (Self, Unknown) {
        let (unknown, names) = mpsc::unbounded_channel();
        let shared = Shared {
            privacy: Privacy::new(service.clone(), privileged),
            service,
            ledger: Mutex::new(Ledger::new(privileged)),
            refused: Mutex::default(),
            handed: Mutex::default(),
            expected: Mutex::default(),
            unknown,
            peers: Peers::default(),
            stalled: AtomicBool::new(false),
            wake: Notify::new(),
        };
        (Self(Arc::new(shared)), names)
    }

    /// What callers on this connection may see.
    #[must_use]
    pub fn privacy(&self) -> &Privacy {
        &self.0.privacy
    }

    /// Enters which user a connection belongs to. Without one, what it has called is refused, and
    /// its next call begins anew.
    pub fn identified(&self, sender: &str, uid: Result<u32, Unidentified>) {
        let limits = self.0.service.limits();
        let refused = lock(&self.0.ledger).identify(sender, uid, &limits, Instant::now());
        lock(&self.0.refused).extend(refused);
        self.0.wake.notify_one();
    }

    /// Has the user of a connection found out, of which nothing is kept.
    fn identify(&self, sender: &str) {
        let limits = self.0.service.limits();
        if lock(&self.0.ledger).is_to_be_identified(sender, &limits, Instant::now()) {
            // The connection to the bus may be closed already.
            let _ = self.0.unknown.send(sender.into());
        }
    }

    /// Returns the user of a connection, where it is known.
    fn uid_of(&self, sender: &str) -> Option<u32> {
        lock(&self.0.ledger).uid_of(sender)
    }

    /// The names of all connections that have called, and have not left as far as is known.
    #[must_use]
    pub fn connections(&self) -> Vec<Arc<str>> {
        lock(&self.0.ledger).connections()
    }

    /// Enters that a connection has left the bus.
    pub fn left(&self, sender: &str) {
        self.0.peers.leave(sender);
        lock(&self.0.ledger).forget(sender);
        self.0.privacy.remove_viewer(sender);
    }

    /// Whether no call is in flight, and every reply is sent or handed to the bus.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        lock(&self.0.ledger).is_idle() && self.0.peers.is_drained()
    }

    /// Has no more calls read from clients of the private socket.
    pub fn close_peers(&self) {
        self.0.peers.close();
    }

    fn offer(
        &self,
        sender: &str,
        head: &Head<'_>,
        size: usize,
        raw: impl FnOnce() -> Raw,
        now: Instant,
    ) -> Result<(), Refused> {
        let limits = self.0.service.limits();
        let offered = lock(&self.0.ledger).offer(sender, head, size, raw, &limits, now)?;
        if offered == Outcome::Identify {
            // Nobody finds it out any more where the connection is being closed.
            let _ = self.0.unknown.send(sender.into());
        }
        Ok(())
    }

    fn next(&self, ordinary: bool) -> Option<Admitted> {
        lock(&self.0.ledger).next(ordinary)
    }

    fn has_queued(&self) -> bool {
        lock(&self.0.ledger).has_queued()
    }

    fn take_refused(&self) -> Vec<Refused> {
        std::mem::take(&mut lock(&self.0.refused))
    }

    /// Enters that a call was answered. Returns whether the caller wants the reply.
    fn answered(&self, caller: &str, serial: u32) -> bool {
        let mut handed = lock(&self.0.handed);
        if !handed.is_empty() {
            handed.remove(&(Arc::from(caller), serial));
        }
        drop(handed);
        lock(&self.0.ledger).answered(caller, serial)
    }

    /// Keeps the descriptors of a call until it is answered.
    fn keep(&self, caller: &Arc<str>, serial: u32, handed: Handed) {
        if !handed.is_empty() {
            let call = (Arc::clone(caller), serial);
            lock(&self.0.handed).entry(call).or_default().push(handed);
        }
    }

    /// Has a message sent to a client of the private socket, if it is for one; otherwise it comes
    /// back.
    fn send_to_peer(&self, to: &str, parcel: Parcel) -> Option<Parcel> {
        self.0.peers.send(to, parcel)
    }

    /// Closes the connection to a bus that has stopped reading it.
    fn stall(&self, link: &Link) {
        self.0.stalled.store(true, Ordering::Relaxed);
        if let Err(error) = link.close() {
            tracing::debug!(%error, "cannot close a connection that the bus does not read");
        }
    }

    /// Whether the connection was closed because the bus did not read it.
    #[must_use]
    pub fn has_stalled(&self) -> bool {
        self.0.stalled.load(Ordering::Relaxed)
    }

    /// Enters that something was sent: what waited for that may go on.
    fn sent(&self) {
        if self.has_queued() {
            self.0.wake.notify_one();
        }
    }

    /// Enters a call of our own.
    fn expect(&self, serial: u32) {
        lock(&self.0.expected).insert(serial, Instant::now());
    }

    /// Whether this is the reply to a call of our own; it is not expected a second time.
    fn is_expected(&self, reply_serial: u32) -> bool {
        lock(&self.0.expected).remove(reply_serial)
    }

    /// Has the receiving half look what there is.
    fn wake(&self) {
        self.0.wake.notify_one();
    }

    async fn woken(&self) {
        self.0.wake.notified().await;
    }
}

/// A panic of another thread leaves counts as they are; each change is complete by itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connected socket with admission control, for zbus to run a connection over.
#[derive(Debug)]
pub struct Socket {
    link: Arc<Link>,
    readiness: Readiness,
    admission: Admission,
}

impl Socket {
    /// Connects to a bus.
    ///
    /// # Errors
    ///
    /// Where there is no bus, or its address is not that of a Unix socket.
    pub async fn connect(bus: Bus, admission: &Admission) -> zbus::Result<Self> {
        let link = Arc::new(Link::connect(bus).await?);
        let readiness = Readiness::new(link.as_fd())?;
        Ok(Self { link, readiness, admission: admission.clone() })
    }
}

impl zbus::connection::Socket for Socket {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Self::ReadHalf, Self::WriteHalf> {
        let Self { link, readiness, admission } = self;
        tokio::spawn(stall::watch(Arc::clone(&link), admission.clone()));
        let reader = Reader::new(Arc::clone(&link), readiness, admission.clone());
        Split::new(reader, Writer::new(link, admission))
    }
}
