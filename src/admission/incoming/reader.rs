//! The receiving half of the connection, from which zbus gets one message after the other.
//!
//! 1. The socket is read as long as data is available, so that a call of the privileged user never
//!    waits behind calls of other users, neither here nor in the bus.
//! 2. Replies and signals of the bus come first: calls that are being answered wait for them.
//! 3. Before another call of an ordinary user is returned, the reader yields to the tasks of the
//!    event loop, so that the previous call has begun, and at most a few replies exist at the same
//!    time (backpressure).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::yield_now;
use tokio::time::sleep;
use zbus::connection::socket::ReadHalf;
use zbus::export::async_trait::async_trait;
use zbus::names::InterfaceName;
use zbus::{Message, ObjectPath};

use super::receiver::Receiver;
use crate::admission::Admission;
use crate::admission::message::{header, raw};
use crate::admission::quota::call::RefusedCall;
use crate::admission::quota::refusal::RefusalReason;
use crate::admission::transport::outbound::OutboundMessage;
use crate::admission::transport::readiness::Readiness;
use crate::admission::transport::socket::{ConnectedSocket, ReadOutcome};
use crate::lock::descriptor::received::Received;

/// The number of yields to the event loop between two calls of ordinary users: in the first, zbus
/// removes the call from its queue, in the second, its task begins, and in the third, the tasks run
/// that this task wakes.
const YIELDS: u8 = 3;
/// The maximum number of bytes of refusals that are passed to the bus at once.
const REFUSAL_BATCH: usize = 4 << 10;

/// The receiving half of a connection.
#[derive(Debug)]
pub struct Reader {
    socket: Arc<ConnectedSocket>,
    admission: Admission,
    receiver: Arc<Receiver>,
    /// Refusals that the bus has not accepted yet.
    outgoing: Vec<u8>,
    /// The number of yields since the last call was returned.
    yields: u8,
}

impl Reader {
    /// Creates the receiving half of `socket`.
    pub(in crate::admission) fn new(
        socket: Arc<ConnectedSocket>,
        readiness: Readiness,
        admission: Admission,
    ) -> Self {
        let receiver = Arc::new(Receiver::new(Arc::clone(&socket), readiness, admission.clone()));
        Self { socket, admission, receiver, outgoing: Vec::new(), yields: 0 }
    }

    /// Returns the next message for zbus, if one may be returned now.
    async fn next_message(&mut self, seq: u64) -> Option<Message> {
        while let Some(other) = self.receiver.next_other() {
            match raw::parse_trusted(seq, other).await {
                Ok(message) => return Some(message),
                Err(error) => tracing::debug!(%error, "discarded a message of the bus"),
            }
        }
        let ordinary = self.yields >= YIELDS && !self.socket.is_send_blocked();
        while let Some(call) = self.admission.next_call(ordinary) {
            let (checked, uid) = (call.check_descriptors(), call.sender_uid());
            let (sender, serial, no_reply) = (call.sender, call.serial, call.no_reply);
            if let Err(reason) = checked {
                self.reject(RefusedCall { sender, uid, serial, no_reply, reason });
                continue;
            }
            let mut call = call.raw;
            if no_reply {
                // The reply marks the end of the call. The writer drops it.
                header::clear_no_reply_flag(&mut call.bytes);
            }
            match raw::parse_with_stand_ins(seq, call).await {
                Ok((message, stand_ins)) => match self.check_visible(&sender, &message) {
                    Ok(()) => {
                        self.admission.keep_stand_ins(&sender, serial, stand_ins);
                        self.yields = 0;
                        return Some(message);
                    }
                    Err(reason) => {
                        self.reject(RefusedCall { sender, uid, serial, no_reply, reason });
                    }
                },
                Err(error) => {
                    let reason = RefusalReason::Malformed(error);
                    self.reject(RefusedCall { sender, uid, serial, no_reply, reason });
                }
            }
        }
        None
    }

    /// Checks that the caller may see the object that it calls.
    ///
    /// # Errors
    ///
    /// [`RefusalReason::UnknownObject`].
    fn check_visible(&self, sender: &str, message: &Message) -> Result<(), RefusalReason> {
        let header = message.header();
        let Some(path) = header.path().map(ObjectPath::as_str) else { return Ok(()) };
        let interface = header.interface().map(InterfaceName::as_str);
        let privacy = self.admission.privacy();
        if privacy.hides(sender, path, interface) {
            return Err(RefusalReason::UnknownObject(path.to_owned()));
        }
        privacy.record_call(
            sender,
            path,
            interface,
            header.member().map_or("", |member| member.as_str()),
        );
        Ok(())
    }

    /// Refuses a call that was admitted.
    fn reject(&self, refused: RefusedCall) {
        self.admission.complete_call(&refused.sender, refused.serial);
        self.receiver.with_refusals(|refusals| refusals.push(refused, Instant::now()));
    }

    /// Sends refusals that are due, as far as the bus accepts them at once. Returns whether the bus
    /// has accepted all of them.
    fn send_refusals(&mut self) -> io::Result<bool> {
        let now = Instant::now();
        let refused = self.admission.drain_refused();
        if !refused.is_empty() {
            self.receiver.with_refusals(|refusals| {
                for refused in refused {
                    refusals.push(refused, now);
                }
            });
        }
        while self.socket.try_flush(&mut self.outgoing)? {
            let (outgoing, admission) = (&mut self.outgoing, &self.admission);
            self.receiver.with_refusals(|refusals| {
                refusals.pop_due(now, |refused| {
                    let reply = OutboundMessage::Bytes(refused.to_error_reply());
                    let reply = admission.send_to_client(&refused.sender, reply);
                    if let Some(OutboundMessage::Bytes(bytes)) = reply {
                        outgoing.extend_from_slice(&bytes);
                    }
                    outgoing.len() < REFUSAL_BATCH
                });
            });
            if self.outgoing.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits for data, for a wake-up, or for the next refusal to be due.
    async fn wait(&mut self) -> io::Result<()> {
        let all_sent = self.send_refusals()?;
        let delay = self.receiver.with_refusals(|refusals| refusals.delay());
        let flooded = self.receiver.is_flooded();
        tokio::select! {
            readable = self.receiver.readable(), if !flooded => readable,
            () = self.admission.woken() => Ok(()),
            flushed = self.socket.flush(&mut self.outgoing), if !all_sent => flushed,
            () = sleep(delay.unwrap_or_default()), if all_sent && delay.is_some() => Ok(()),
        }
    }
}

#[async_trait]
impl ReadHalf for Reader {
    async fn receive_message(
        &mut self,
        seq: u64,
        already_received_bytes: &mut Vec<u8>,
        already_received_fds: &mut Vec<OwnedFd>,
    ) -> zbus::Result<Message> {
        if !already_received_bytes.is_empty() {
            let descriptors = already_received_fds.drain(..).map(Received::from);
            self.receiver.append(already_received_bytes, descriptors.collect())?;
            already_received_bytes.clear();
        }
        loop {
            let received = self.receiver.receive()?;
            if let Some(message) = self.next_message(seq).await {
                return Ok(message);
            }
            let pacing = self.yields < YIELDS && self.admission.has_queued_calls();
            if received || pacing {
                self.yields = self.yields.saturating_add(1);
                if received {
                    self.send_refusals()?;
                }
                yield_now().await;
            } else {
                self.wait().await?;
            }
        }
    }

    /// Reads during the handshake.
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        loop {
            let mut descriptors: Vec<Received> = Vec::new();
            match self.receiver.receive_handshake(buffer, &mut descriptors) {
                Ok(ReadOutcome { bytes, .. }) => {
                    // No other client has sent anything during the handshake with the bus.
                    let descriptors = descriptors.into_iter().filter_map(Received::into_inner);
                    return Ok((bytes, descriptors.collect()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.receiver.readable().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }
}

/// Closes the connection, so that a thread that reads it ends.
impl Drop for Reader {
    fn drop(&mut self) {
        if let Err(error) = self.socket.close() {
            tracing::debug!(%error, "cannot close the connection to the bus");
        }
    }
}
