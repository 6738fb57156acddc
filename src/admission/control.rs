//! The state of admission control that the other rooms share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::{Notify, mpsc};

use super::message::header::Header;
use super::message::raw::RawMessage;
use super::message::stand_in::StandIns;
use super::quota::call::{AdmittedCall, RefusedCall};
use super::quota::pending_replies::PendingReplies;
use super::quota::refusal::IdentificationError;
use super::quota::scheduler::{CallScheduler, UserLookup};
use super::transport::clients::Clients;
use super::transport::outbound::OutboundMessage;
use super::transport::socket::ConnectedSocket;
use crate::privacy::Privacy;
use crate::service::Service;
use crate::sync::lock;

/// The connection of a caller, and the serial number of its call.
type CallId = (Arc<str>, u32);

/// Receives the names of connections whose users must be looked up.
pub type UserLookups = mpsc::UnboundedReceiver<Arc<str>>;

/// Admission control of one connection to a bus. A clone refers to the same state.
#[derive(Debug, Clone)]
pub struct Admission(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    service: Service,
    privacy: Privacy,
    scheduler: Mutex<CallScheduler>,
    /// Calls that were refused when their user became known.
    refused: Mutex<Vec<RefusedCall>>,
    /// The descriptors of calls in flight, by caller and serial number.
    stand_ins: Mutex<HashMap<CallId, Vec<StandIns>>>,
    /// The service's own calls that are not answered yet.
    pending_replies: Mutex<PendingReplies>,
    lookups: mpsc::UnboundedSender<Arc<str>>,
    /// Clients of the private socket.
    clients: Clients,
    /// Whether the connection was closed because the bus had stopped reading it.
    stalled: AtomicBool,
    wake: Notify,
}

impl Admission {
    /// Creates the state for a new connection. No quota applies to the user `privileged`. Call
    /// [`set_user`](Self::set_user) for each connection whose name is received from [`UserLookups`].
    #[must_use]
    pub fn new(service: Service, privileged: u32) -> (Self, UserLookups) {
        let (lookups, names) = mpsc::unbounded_channel();
        let shared = Shared {
            privacy: Privacy::new(service.clone(), privileged),
            service,
            scheduler: Mutex::new(CallScheduler::new(privileged)),
            refused: Mutex::default(),
            stand_ins: Mutex::default(),
            pending_replies: Mutex::default(),
            lookups,
            clients: Clients::default(),
            stalled: AtomicBool::new(false),
            wake: Notify::new(),
        };
        (Self(Arc::new(shared)), names)
    }

    /// Returns what callers on this connection may see.
    #[must_use]
    pub fn privacy(&self) -> &Privacy {
        &self.0.privacy
    }

    /// Returns the clients of the private socket.
    pub(in crate::admission) fn clients(&self) -> &Clients {
        &self.0.clients
    }

    /// Sets the user of a connection. If the user cannot be identified, the calls that the connection
    /// has sent are refused, and its next call starts another lookup.
    pub fn set_user(&self, sender: &str, uid: Result<u32, IdentificationError>) {
        let limits = self.0.service.limits();
        let refused = lock(&self.0.scheduler).set_user(sender, uid, &limits, Instant::now());
        lock(&self.0.refused).extend(refused);
        self.wake();
    }

    /// Requests a lookup of the user of a connection that has no queued call.
    pub(in crate::admission) fn request_user_lookup(&self, sender: &str) {
        let limits = self.0.service.limits();
        if lock(&self.0.scheduler).needs_user_lookup(sender, &limits, Instant::now()) {
            self.send_user_lookup(sender);
        }
    }

    fn send_user_lookup(&self, sender: &str) {
        // Fails only while the connection to the bus is being closed.
        let _ = self.0.lookups.send(sender.into());
    }

    /// Returns the user of a connection; `None` if it is not known.
    pub(in crate::admission) fn uid_of(&self, sender: &str) -> Option<u32> {
        lock(&self.0.scheduler).uid_of(sender)
    }

    /// Returns the names of all connections that have called and are not known to have left the bus.
    #[must_use]
    pub fn connections(&self) -> Vec<Arc<str>> {
        lock(&self.0.scheduler).connections()
    }

    /// Removes a connection that has left the bus.
    pub fn remove_connection(&self, sender: &str) {
        self.0.clients.remove(sender);
        lock(&self.0.scheduler).remove_connection(sender);
        self.0.privacy.remove_viewer(sender);
    }

    /// Returns whether no call is in flight, and every reply is sent or handed to the bus.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        lock(&self.0.scheduler).is_idle() && self.0.clients.is_drained()
    }

    /// Stops reading calls from clients of the private socket.
    pub fn stop_reading_clients(&self) {
        self.0.clients.stop_reading();
    }

    /// Admits a call of `size` bytes, or returns the reason why it is refused. `raw` is called only if
    /// the call is admitted.
    pub(in crate::admission) fn admit(
        &self,
        sender: &str,
        header: &Header<'_>,
        size: usize,
        raw: impl FnOnce() -> RawMessage,
        now: Instant,
    ) -> Result<(), RefusedCall> {
        let limits = self.0.service.limits();
        let lookup = lock(&self.0.scheduler).admit(sender, header, size, raw, &limits, now)?;
        if lookup == UserLookup::Needed {
            self.send_user_lookup(sender);
        }
        Ok(())
    }

    /// Returns the next call to dispatch. Unless `ordinary`, only a call of the privileged user.
    pub(in crate::admission) fn next_call(&self, ordinary: bool) -> Option<AdmittedCall> {
        lock(&self.0.scheduler).next_call(ordinary)
    }

    /// Returns whether a call waits to be dispatched.
    pub(in crate::admission) fn has_queued_calls(&self) -> bool {
        lock(&self.0.scheduler).has_queued_calls()
    }

    /// Removes and returns the calls that were refused when their user became known.
    pub(in crate::admission) fn drain_refused(&self) -> Vec<RefusedCall> {
        std::mem::take(&mut lock(&self.0.refused))
    }

    /// Marks a call as answered. Returns whether the caller wants the reply.
    pub(in crate::admission) fn complete_call(&self, caller: &str, serial: u32) -> bool {
        let mut stand_ins = lock(&self.0.stand_ins);
        if !stand_ins.is_empty() {
            stand_ins.remove(&(Arc::from(caller), serial));
        }
        drop(stand_ins);
        lock(&self.0.scheduler).complete(caller, serial)
    }

    /// Keeps the descriptors of a call until the call is answered.
    pub(in crate::admission) fn keep_stand_ins(
        &self,
        caller: &Arc<str>,
        serial: u32,
        stand_ins: StandIns,
    ) {
        if !stand_ins.is_empty() {
            let call = (Arc::clone(caller), serial);
            lock(&self.0.stand_ins).entry(call).or_default().push(stand_ins);
        }
    }

    /// Queues a message for a client of the private socket. Returns the message if it is not addressed
    /// to such a client.
    pub(in crate::admission) fn send_to_client(
        &self,
        to: &str,
        message: OutboundMessage,
    ) -> Option<OutboundMessage> {
        self.0.clients.send(to, message)
    }

    /// Closes the connection to a bus that has stopped reading it.
    pub(in crate::admission) fn close_stalled(&self, socket: &ConnectedSocket) {
        self.0.stalled.store(true, Ordering::Relaxed);
        if let Err(error) = socket.close() {
            tracing::debug!(%error, "cannot close a connection that the bus does not read");
        }
    }

    /// Returns whether the connection was closed because the bus had stopped reading it.
    #[must_use]
    pub fn has_stalled(&self) -> bool {
        self.0.stalled.load(Ordering::Relaxed)
    }

    /// Wakes the receiving half if calls wait to be dispatched. Called after a message was sent, since
    /// ordinary calls are held back while the bus does not accept replies.
    pub(in crate::admission) fn wake_if_queued(&self) {
        if self.has_queued_calls() {
            self.wake();
        }
    }

    /// Adds a call of the service itself, to which a reply is expected.
    pub(in crate::admission) fn expect_reply(&self, serial: u32) {
        lock(&self.0.pending_replies).insert(serial, Instant::now());
    }

    /// Returns whether the service expects a reply to its call `serial`. A second reply to the same
    /// call is not expected.
    pub(in crate::admission) fn accept_reply(&self, serial: u32) -> bool {
        lock(&self.0.pending_replies).remove(serial)
    }

    /// Wakes the receiving half.
    pub(in crate::admission) fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// Waits for [`wake`](Self::wake).
    pub(in crate::admission) async fn woken(&self) {
        self.0.wake.notified().await;
    }
}
