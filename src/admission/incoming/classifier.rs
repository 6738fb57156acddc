//! Sorts what comes from the bus: passed on, queued, refused or dropped.

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
use crate::lock::received::Received;
use crate::service::Error;

/// Descriptors that no message has taken. More are never there, unless the bus is broken.
const MAX_UNCLAIMED_DESCRIPTORS: usize = 1024;

/// What one read has brought.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in crate::admission) struct Classified {
    /// Messages that are to be passed on, or may be.
    pub(in crate::admission) accepted: usize,
    /// Messages that were refused or dropped.
    pub(in crate::admission) rejected: usize,
}

/// What becomes of descriptors that are to be read next.
#[derive(Debug)]
pub(in crate::admission) enum DescriptorPlan {
    /// They are received.
    Receive,
    /// They come behind so many bytes, which are to be read first.
    ReadFirst(usize),
    /// They are discarded.
    Discard(RefusalReason),
}

/// What came and is not passed on.
#[derive(Debug)]
pub(in crate::admission) struct Classifier {
    framer: Framer,
    /// Descriptors that came and belong to messages that are not consumed.
    descriptors: VecDeque<Received>,
    /// Why the message that is being read has no descriptors, if these were lost.
    missing: Option<RefusalReason>,
    /// Replies and signals, in order; of a client of the private socket, calls that are not
    /// for the service.
    pub(in crate::admission) others: VecDeque<RawMessage>,
    /// Calls that are to be refused.
    pub(in crate::admission) refusals: RefusalQueue,
    /// Whether the reply to `Hello` is still to come, which the handshake sends by itself.
    awaits_hello: bool,
    /// The one client that sends all of it, where this is no bus.
    client: Option<Arc<str>>,
}

impl Classifier {
    /// Nothing has come from the bus.
    pub(in crate::admission) fn new() -> Self {
        Self::with_client(None)
    }

    /// Nothing has come from this client of the private socket.
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

    /// Room for what is read next, for its bytes and its descriptors.
    pub(in crate::admission) fn read_buffer(&mut self) -> (&mut [u8], &mut VecDeque<Received>) {
        (self.framer.read_buffer(), &mut self.descriptors)
    }

    /// Takes over what the handshake has read.
    pub(in crate::admission) fn append(&mut self, bytes: &[u8], descriptors: Vec<Received>) {
        self.framer.append(bytes);
        self.descriptors.extend(descriptors);
    }

    /// Tells what becomes of the descriptors that come with the last ones of the first `count` bytes
    /// in the room, which were not read yet.
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
            // A header that does not fit in, or a stream that is no D-Bus.
            Some((0, None)) | None => DescriptorPlan::Receive,
            Some((before, _)) => DescriptorPlan::ReadFirst(before),
        }
    }

    /// Puts the first byte of a message into the room. Its descriptors were discarded.
    pub(in crate::admission) fn insert_discarded(&mut self, byte: u8, reason: RefusalReason) {
        if let Some(first) = self.framer.read_buffer().first_mut() {
            *first = byte;
        }
        self.missing = Some(reason);
    }

    /// Sorts the messages that are complete, after more bytes were read.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the bus has sent what is no D-Bus, and nothing after it can be understood.
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
                    let taken = match &missing {
                        Some(_) => Vec::new(),
                        None => take_descriptors(descriptors, &header, client, admission),
                    };
                    let with_sender = match client {
                        Some(_) if header.sender.is_some() => return Err(invalid_data("a sender")),
                        Some(name) => {
                            Some(insert_sender(bytes, name).map_err(|_| invalid_data("a header"))?)
                        }
                        None => None,
                    };
                    let incomplete = taken.len() < header.descriptor_count();
                    let accepted = if incomplete || (lost_descriptors && !taken.is_empty()) {
                        router.refuse(&header, missing.unwrap_or(RefusalReason::NoDescriptors));
                        false
                    } else {
                        let size = with_sender.as_ref().map_or(bytes.len(), Vec::len);
                        let raw = || RawMessage {
                            bytes: with_sender.unwrap_or_else(|| bytes.to_vec()),
                            descriptors: taken,
                        };
                        router.route(&header, size, raw)
                    };
                    classified.accepted += usize::from(accepted);
                    classified.rejected += usize::from(!accepted);
                }
                Frame::TooLong(header) => {
                    let header = parse_header(header)?;
                    if missing.take().is_none() {
                        drop(take_descriptors(descriptors, &header, client, admission));
                    }
                    let whose = "in one message".to_owned();
                    let reason = Error::Limit { what: "bytes", limit: MAX_MESSAGE_LEN, whose };
                    router.refuse(&header, reason.into());
                    classified.rejected += 1;
                }
            }
        }
        // The kernel hands out descriptors with bytes of the message that they belong to. What no
        // message has taken must not become part of another caller's.
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

/// Where messages go.
struct Router<'r> {
    admission: &'r Admission,
    now: Instant,
    others: &'r mut VecDeque<RawMessage>,
    refusals: &'r mut RefusalQueue,
    awaits_hello: &'r mut bool,
    client: Option<&'r str>,
}

impl Router<'_> {
    /// Returns whether the message is kept.
    fn route(
        &mut self,
        header: &Header<'_>,
        size: usize,
        raw: impl FnOnce() -> RawMessage,
    ) -> bool {
        // The bus passes on replies that nothing waits for, and signals of anybody.
        let is_passed_on = match (header.kind, self.client.or(header.sender)) {
            // Neither replies nor signals of a client mean anything.
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

/// Decides whether the descriptors of a message are to be received.
fn descriptor_plan(header: &Header<'_>, admission: &Admission) -> DescriptorPlan {
    match (header.kind, header.sender) {
        (MessageKind::Call, Some(sender)) => {
            let uid = admission.uid_of(sender);
            let Err(reason) = check_descriptors(uid, header.descriptor_count()) else {
                return DescriptorPlan::Receive;
            };
            if uid.is_none() {
                // So that the next call is judged by its user.
                admission.request_user_lookup(sender);
            }
            DescriptorPlan::Discard(reason)
        }
        // Those are dropped in any case.
        (MessageKind::Signal, sender) if sender != Some(BUS_NAME) => {
            DescriptorPlan::Discard(RefusalReason::NoDescriptors)
        }
        _ => DescriptorPlan::Receive,
    }
}

/// Takes the descriptors of a message from those that came, under the user that sent it: they are
/// closed under that user, whatever becomes of the message.
fn take_descriptors(
    descriptors: &mut VecDeque<Received>,
    header: &Header<'_>,
    client: Option<&str>,
    admission: &Admission,
) -> Vec<Received> {
    let count = header.descriptor_count().min(descriptors.len());
    let mut taken: Vec<Received> = descriptors.drain(..count).collect();
    if let Some(sender) = client.or(header.sender).filter(|_| count > 0) {
        let uid = admission.uid_of(sender);
        for descriptor in &mut taken {
            descriptor.set_sender(uid);
        }
    }
    taken
}

/// # Errors
///
/// A malformed header: how many descriptors belong to the message is not known then, and those of
/// one caller must not become another's.
fn parse_header(header: &[u8]) -> io::Result<Header<'_>> {
    Header::parse(header).map_err(|_| invalid_data("a malformed header"))
}

fn invalid_data(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the peer has sent {what}"))
}
