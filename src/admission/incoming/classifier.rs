//! Decides what becomes of each message: it is passed to zbus, queued, refused or dropped.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::admission::Admission;
use crate::admission::message::BUS_NAME;
use crate::admission::message::framer::{Frame, Framer, MAX_MESSAGE_LEN};
use crate::admission::message::header::{Header, MessageKind};
use crate::admission::message::raw::RawMessage;
use crate::admission::message::sender::insert_sender;
use crate::admission::quota::call::{RefusedCall, check_descriptors};
use crate::admission::quota::refusal::RefusalReason;
use crate::admission::quota::refusal_queue::RefusalQueue;
use crate::admission::transport::socket::ReadOutcome;
use crate::lock::descriptor::received::Received;
use crate::service::Error;

/// The maximum number of received descriptors that no message has claimed. A working bus never
/// sends more.
const MAX_UNCLAIMED_DESCRIPTORS: usize = 1024;

/// The numbers of messages in one read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in crate::admission) struct Classified {
    /// Messages that are passed to zbus, or queued.
    pub(in crate::admission) accepted: usize,
    /// Messages that were refused or dropped.
    pub(in crate::admission) rejected: usize,
}

/// The decision about descriptors that are to be read next.
#[derive(Debug)]
pub(in crate::admission) enum DescriptorPlan {
    /// The descriptors are received.
    Receive,
    /// The descriptors come after this many bytes, which must be read first.
    ReadFirst(usize),
    /// The descriptors are discarded.
    Discard(RefusalReason),
}

/// The messages of one socket that were received and are not handled yet.
#[derive(Debug)]
pub(in crate::admission) struct Classifier {
    framer: Framer,
    /// The received descriptors of messages that are not complete yet.
    descriptors: VecDeque<Received>,
    /// If the descriptors of the message that is being read were lost, the reason.
    missing: Option<RefusalReason>,
    /// Replies and signals, in order. For a client of the private socket: calls that are not
    /// addressed to the service.
    pub(in crate::admission) others: VecDeque<RawMessage>,
    /// The calls that are refused.
    pub(in crate::admission) refusals: RefusalQueue,
    /// Whether the reply to `Hello`, which zbus sends during the handshake, is not received yet.
    awaits_hello: bool,
    /// The client of the private socket that sends all messages; `None` for a bus.
    client: Option<Arc<str>>,
}

impl Classifier {
    /// Creates a classifier for messages of a bus.
    pub(in crate::admission) fn new() -> Self {
        Self::with_client(None)
    }

    /// Creates a classifier for messages of a client of the private socket.
    pub(in crate::admission) fn for_client(name: Arc<str>) -> Self {
        Self::with_client(Some(name))
    }

    fn with_client(client: Option<Arc<str>>) -> Self {
        Self {
            framer: Framer::new(),
            descriptors: VecDeque::new(),
            missing: None,
            others: VecDeque::new(),
            refusals: RefusalQueue::default(),
            awaits_hello: client.is_none(),
            client,
        }
    }

    /// Returns the buffers for the next read: one for bytes and one for descriptors.
    pub(in crate::admission) fn read_buffer(&mut self) -> (&mut [u8], &mut VecDeque<Received>) {
        (self.framer.read_buffer(), &mut self.descriptors)
    }

    /// Appends bytes and descriptors that were read during the handshake.
    pub(in crate::admission) fn append(&mut self, bytes: &[u8], descriptors: Vec<Received>) {
        self.framer.append(bytes);
        self.descriptors.extend(descriptors);
    }

    /// Decides about the descriptors that come with the last of the next `count` bytes. These bytes
    /// are in the read buffer, but were not consumed from the socket.
    pub(in crate::admission) fn plan_descriptors(
        &self,
        count: usize,
        admission: &Admission,
    ) -> DescriptorPlan {
        let has_descriptors =
            |header: &[u8]| Header::parse(header).is_ok_and(|header| header.descriptors > 0);
        match self.framer.peek_header(count, has_descriptors) {
            Some((0, Some(header))) => match Header::parse(header) {
                Ok(header) => descriptor_plan(&header, admission),
                Err(_) => DescriptorPlan::Receive,
            },
            // The header is longer than the buffer, or the stream is not D-Bus.
            Some((0, None)) | None => DescriptorPlan::Receive,
            Some((before, _)) => DescriptorPlan::ReadFirst(before),
        }
    }

    /// Writes the first byte of a message whose descriptors were discarded into the read buffer.
    pub(in crate::admission) fn insert_discarded(&mut self, byte: u8, reason: RefusalReason) {
        if let Some(first) = self.framer.read_buffer().first_mut() {
            *first = byte;
        }
        self.missing = Some(reason);
    }

    /// Classifies the messages that are complete after a read.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the stream is not D-Bus, so that nothing after it can be parsed.
    pub(in crate::admission) fn classify(
        &mut self,
        outcome: ReadOutcome,
        admission: &Admission,
    ) -> io::Result<Classified> {
        let ReadOutcome { bytes: count, lost_descriptors, .. } = outcome;
        self.framer.advance(count);
        let Self { framer, descriptors, missing, others, refusals, awaits_hello, client } = self;
        let (now, client) = (Instant::now(), client.as_deref());
        let mut router = Router { admission, now, others, refusals, awaits_hello, client };
        let mut classified = Classified::default();
        loop {
            match framer.next_frame().map_err(|_| invalid_data("a malformed message"))? {
                Frame::Incomplete => break,
                Frame::Message(bytes, header) => {
                    let header = parse_header(bytes.get(..header).unwrap_or_default())?;
                    let missing = missing.take();
                    let claimed = match &missing {
                        Some(_) => Vec::new(),
                        None => claim_descriptors(descriptors, &header, client, admission),
                    };
                    let with_sender = match client {
                        Some(_) if header.sender.is_some() => return Err(invalid_data("a sender")),
                        Some(name) => {
                            Some(insert_sender(bytes, name).map_err(|_| invalid_data("a header"))?)
                        }
                        None => None,
                    };
                    let incomplete = claimed.len() < header.descriptor_count();
                    let accepted = if incomplete || (lost_descriptors && !claimed.is_empty()) {
                        router.refuse(&header, missing.unwrap_or(RefusalReason::NoDescriptors));
                        false
                    } else {
                        let size = with_sender.as_ref().map_or(bytes.len(), Vec::len);
                        let raw = || RawMessage {
                            bytes: with_sender.unwrap_or_else(|| bytes.to_vec()),
                            descriptors: claimed,
                        };
                        router.route(&header, size, raw)
                    };
                    classified.accepted += usize::from(accepted);
                    classified.rejected += usize::from(!accepted);
                }
                Frame::TooLong(header) => {
                    let header = parse_header(header)?;
                    if missing.take().is_none() {
                        drop(claim_descriptors(descriptors, &header, client, admission));
                    }
                    let whose = "in one message".to_owned();
                    let reason = Error::Limit { what: "bytes", limit: MAX_MESSAGE_LEN, whose };
                    router.refuse(&header, reason.into());
                    classified.rejected += 1;
                }
            }
        }
        // The kernel delivers descriptors with bytes of the message to which they belong. A
        // descriptor that no message has claimed must not become part of a message of another
        // caller.
        if framer.is_empty() || lost_descriptors {
            descriptors.clear();
        }
        if lost_descriptors && !framer.is_empty() {
            *missing = Some(RefusalReason::NoDescriptors);
        }
        if descriptors.len() > MAX_UNCLAIMED_DESCRIPTORS {
            return Err(invalid_data("descriptors that belong to no message"));
        }
        Ok(classified)
    }
}

/// Routes messages to the queues of a [`Classifier`].
struct Router<'r> {
    admission: &'r Admission,
    now: Instant,
    others: &'r mut VecDeque<RawMessage>,
    refusals: &'r mut RefusalQueue,
    awaits_hello: &'r mut bool,
    client: Option<&'r str>,
}

impl Router<'_> {
    /// Routes a message. Returns whether the message is kept.
    fn route(
        &mut self,
        header: &Header<'_>,
        size: usize,
        raw: impl FnOnce() -> RawMessage,
    ) -> bool {
        // The bus forwards replies that the service does not expect, and signals of any sender.
        let is_passed_on = match (header.kind, self.client.or(header.sender)) {
            // Replies and signals of a client have no meaning.
            (kind, _) if self.client.is_some() && kind != MessageKind::Call => false,
            (_, Some(_)) if self.client.is_some() && !header.is_for_service() => true,
            (MessageKind::Call, Some(sender)) => {
                let admitted = self.admission.admit(sender, header, size, raw, self.now);
                return admitted.map_err(|refused| self.refusals.push(refused, self.now)).is_ok();
            }
            (MessageKind::Reply, sender) => {
                let greeted = sender == Some(BUS_NAME) && std::mem::take(self.awaits_hello);
                let expected = |serial| self.admission.accept_reply(serial);
                greeted || header.reply_serial.is_some_and(expected)
            }
            (MessageKind::Signal, sender) => sender == Some(BUS_NAME),
            (MessageKind::Call | MessageKind::Unknown, _) => false,
        };
        if is_passed_on {
            self.others.push_back(raw());
        }
        is_passed_on
    }

    fn refuse(&mut self, header: &Header<'_>, reason: RefusalReason) {
        if let (MessageKind::Call, Some(sender)) = (header.kind, self.client.or(header.sender)) {
            let Header { serial, no_reply, .. } = *header;
            let uid = self.admission.uid_of(sender);
            let refused = RefusedCall { sender: sender.into(), uid, serial, no_reply, reason };
            self.refusals.push(refused, self.now);
        }
    }
}

/// Decides whether the descriptors of a message are received.
fn descriptor_plan(header: &Header<'_>, admission: &Admission) -> DescriptorPlan {
    match (header.kind, header.sender) {
        (MessageKind::Call, Some(sender)) => {
            let uid = admission.uid_of(sender);
            let Err(reason) = check_descriptors(uid, header.descriptor_count()) else {
                return DescriptorPlan::Receive;
            };
            if uid.is_none() {
                // The quota of the user applies to the next call.
                admission.request_user_lookup(sender);
            }
            DescriptorPlan::Discard(reason)
        }
        // These messages are dropped in any case.
        (MessageKind::Signal, sender) if sender != Some(BUS_NAME) => {
            DescriptorPlan::Discard(RefusalReason::NoDescriptors)
        }
        _ => DescriptorPlan::Receive,
    }
}

/// Removes the descriptors of a message from the received ones, and marks them with the user that
/// sent the message: they are closed on account of that user, whatever becomes of the message.
fn claim_descriptors(
    descriptors: &mut VecDeque<Received>,
    header: &Header<'_>,
    client: Option<&str>,
    admission: &Admission,
) -> Vec<Received> {
    let count = header.descriptor_count().min(descriptors.len());
    let mut claimed: Vec<Received> = descriptors.drain(..count).collect();
    if let Some(sender) = client.or(header.sender).filter(|_| count > 0) {
        let uid = admission.uid_of(sender);
        for descriptor in &mut claimed {
            descriptor.set_sender(uid);
        }
    }
    claimed
}

/// Parses the header of a message.
///
/// # Errors
///
/// `InvalidData` for a malformed header. It is not known how many descriptors belong to the
/// message, and descriptors of one caller must not be assigned to another.
fn parse_header(header: &[u8]) -> io::Result<Header<'_>> {
    Header::parse(header).map_err(|_| invalid_data("a malformed header"))
}

fn invalid_data(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the peer has sent {what}"))
}
