//! The receiving half: passes on one message after the other.
//!
//! The socket is read as long as there is something, so that a call of the privileged user never
//! waits behind those of others, neither here nor in the bus. Replies and signals of the bus are
//! passed on first: calls that are being answered wait for them. Before another call of an ordinary
//! user is passed on, the tasks of the event loop have a turn, so that the one before it has begun
//! and at most a few of their replies exist at a time.

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

use super::call::Refused;
use super::inbox::Inbox;
use super::link::{Arrived, Link};
use super::peers::Parcel;
use super::readiness::Readiness;
use super::{Admission, head, raw, refusal};
use crate::lock::received::Received;

/// Turns of the event loop between two calls of ordinary users: one in which zbus takes the call
/// from its queue, one in which its task begins, and one for what that wakes.
const TURNS: u8 = 3;
/// Bytes of refusals that are handed to the bus at one time.
const REFUSALS: usize = 4 << 10;

/// The receiving half.
#[derive(Debug)]
pub struct Reader {
    link: Arc<Link>,
    admission: Admission,
    inbox: Arc<Inbox>,
    /// Refusals that the bus has not taken.
    outgoing: Vec<u8>,
    /// Turns of the event loop since the last call was passed on.
    turns: u8,
}

impl Reader {
    /// Receives over this link.
    pub(super) fn new(link: Arc<Link>, readiness: Readiness, admission: Admission) -> Self {
        let inbox = Arc::new(Inbox::new(Arc::clone(&link), readiness, admission.clone()));
        Self { link, admission, inbox, outgoing: Vec::new(), turns: 0 }
    }

    /// Passes on the next message, if one may be passed on now.
    async fn pass_on(&mut self, seq: u64) -> Option<Message> {
        while let Some(other) = self.inbox.next_other() {
            match raw::parse_trusted(seq, other).await {
                Ok(message) => return Some(message),
                Err(error) => tracing::debug!(%error, "discarded a message of the bus"),
            }
        }
        let ordinary = self.turns >= TURNS && !self.link.is_blocked();
        while let Some(call) = self.admission.next(ordinary) {
            let (checked, uid) = (call.check_descriptors(), call.uid());
            let (sender, serial, no_reply) = (call.sender, call.serial, call.no_reply);
            if let Err(why) = checked {
                self.reject(Refused { sender, uid, serial, no_reply, why });
                continue;
            }
            let mut call = call.raw;
            if no_reply {
                // So that zbus says when it has finished. The reply is dropped on its way out.
                head::expect_reply(&mut call.bytes);
            }
            match raw::parse(seq, call).await {
                Ok((message, handed)) => match self.check(&sender, &message) {
                    Ok(()) => {
                        self.admission.keep(&sender, serial, handed);
                        self.turns = 0;
                        return Some(message);
                    }
                    Err(why) => self.reject(Refused { sender, uid, serial, no_reply, why }),
                },
                Err(error) => {
                    let why = refusal::Error::Malformed(error);
                    self.reject(Refused { sender, uid, serial, no_reply, why });
                }
            }
        }
        None
    }

    /// Checks that the caller may see the object that it calls.
    ///
    /// # Errors
    ///
    /// [`refusal::Error::UnknownObject`].
    fn check(&self, sender: &str, message: &Message) -> Result<(), refusal::Error> {
        let header = message.header();
        let Some(path) = header.path().map(ObjectPath::as_str) else { return Ok(()) };
        let interface = header.interface().map(InterfaceName::as_str);
        let privacy = self.admission.privacy();
        if privacy.hides(sender, path, interface) {
            return Err(refusal::Error::UnknownObject(path.to_owned()));
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
    fn reject(&self, refused: Refused) {
        self.admission.answered(&refused.sender, refused.serial);
        self.inbox.with_refusals(|refusals| refusals.push(refused, Instant::now()));
    }

    /// Sends refusals, as far as they may be sent and the bus takes them. Returns whether the bus
    /// has taken all of these.
    fn refuse(&mut self) -> io::Result<bool> {
        let now = Instant::now();
        let refused = self.admission.take_refused();
        if !refused.is_empty() {
            self.inbox.with_refusals(|refusals| {
                for refused in refused {
                    refusals.push(refused, now);
                }
            });
        }
        while self.link.refuse(&mut self.outgoing)? {
            let (outgoing, admission) = (&mut self.outgoing, &self.admission);
            self.inbox.with_refusals(|refusals| {
                refusals.send(now, |refused| {
                    let Refused { sender, serial, why, .. } = refused;
                    let mut bytes = Vec::new();
                    refusal::write(&mut bytes, &sender, serial, why.name(), &why.to_string());
                    let parcel = admission.send_to_peer(&sender, Parcel::Bytes(bytes));
                    if let Some(Parcel::Bytes(bytes)) = parcel {
                        outgoing.extend_from_slice(&bytes);
                    }
                    outgoing.len() < REFUSALS
                });
            });
            if self.outgoing.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until there is something to do.
    async fn wait(&mut self) -> io::Result<()> {
        let all_sent = self.refuse()?;
        let delay = self.inbox.with_refusals(|refusals| refusals.delay());
        let flooded = self.inbox.is_flooded();
        tokio::select! {
            readable = self.inbox.readable(), if !flooded => readable,
            () = self.admission.woken() => Ok(()),
            flushed = self.link.flush(&mut self.outgoing), if !all_sent => flushed,
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
            self.inbox.append(already_received_bytes, descriptors.collect())?;
            already_received_bytes.clear();
        }
        loop {
            let received = self.inbox.receive()?;
            if let Some(message) = self.pass_on(seq).await {
                return Ok(message);
            }
            let pacing = self.turns < TURNS && self.admission.has_queued();
            if received || pacing {
                self.turns = self.turns.saturating_add(1);
                if received {
                    self.refuse()?;
                }
                yield_now().await;
            } else {
                self.wait().await?;
            }
        }
    }

    /// Reads for the handshake.
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        loop {
            let mut descriptors: Vec<Received> = Vec::new();
            match self.inbox.receive_greeting(buffer, &mut descriptors) {
                Ok(Arrived { count, .. }) => {
                    // While the bus greets, no other client has sent anything.
                    let descriptors = descriptors.into_iter().filter_map(Received::into_inner);
                    return Ok((count, descriptors.collect()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.inbox.readable().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }
}

/// A thread that reads sees the end of the connection.
impl Drop for Reader {
    fn drop(&mut self) {
        if let Err(error) = self.link.close() {
            tracing::debug!(%error, "cannot close the connection to the bus");
        }
    }
}
