//! Sorts what comes from the bus: passed on, queued, refused or dropped.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::call::{Raw, Refused, check_descriptors};
use super::framer::{Frame, Framer, LONGEST};
use super::head::{Head, Kind};
use super::link::Arrived;
use super::refusal;
use super::refusals::Refusals;
use super::stamp::stamp;
use super::{Admission, BUS, driver};
use crate::lock::received::Received;
use crate::service::Error;

/// Descriptors that no message has taken. More are never there, unless the bus is broken.
const DESCRIPTORS: usize = 1024;

/// What one read has brought.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sorted {
    /// Messages that are to be passed on, or may be.
    pub(super) accepted: usize,
    /// Messages that were refused or dropped.
    pub(super) rejected: usize,
}

/// What becomes of descriptors that are to be read next.
#[derive(Debug)]
pub(super) enum Next {
    /// They are received.
    Wanted,
    /// They come behind so many bytes, which are to be read first.
    Behind(usize),
    /// They are discarded.
    Unwanted(refusal::Error),
}

/// What came and is not passed on.
#[derive(Debug)]
pub(super) struct Intake {
    framer: Framer,
    /// Descriptors that came and belong to messages that are not consumed.
    descriptors: VecDeque<Received>,
    /// Why the message that is being read has no descriptors, if these were lost.
    missing: Option<refusal::Error>,
    /// Replies and signals, in order; of a client of the private socket, calls that are not
    /// for the service.
    pub(super) others: VecDeque<Raw>,
    /// Calls that are to be refused.
    pub(super) refusals: Refusals,
    /// Whether the reply to `Hello` is still to come, which the handshake sends by itself.
    greeting: bool,
    /// The one client that sends all of it, where this is no bus.
    peer: Option<Arc<str>>,
}

impl Intake {
    /// Nothing has come from the bus.
    pub(super) fn new() -> Self {
        Self::from_bus_or(None)
    }

    /// Nothing has come from this client of the private socket.
    pub(super) fn of_peer(name: Arc<str>) -> Self {
        Self::from_bus_or(Some(name))
    }

    fn from_bus_or(peer: Option<Arc<str>>) -> Self {
        Self {
            framer: Framer::new(),
            descriptors: VecDeque::new(),
            missing: None,
            others: VecDeque::new(),
            refusals: Refusals::default(),
            greeting: peer.is_none(),
            peer,
        }
    }

    /// Room for what is read next, for its bytes and its descriptors.
    pub(super) fn room(&mut self) -> (&mut [u8], &mut VecDeque<Received>) {
        (self.framer.room(), &mut self.descriptors)
    }

    /// Takes over what the handshake has read.
    pub(super) fn append(&mut self, bytes: &[u8], descriptors: Vec<Received>) {
        self.framer.append(bytes);
        self.descriptors.extend(descriptors);
    }

    /// Tells what becomes of the descriptors that come with the last ones of the first `count` bytes
    /// in the room, which were not read yet.
    pub(super) fn next_descriptors(&self, count: usize, admission: &Admission) -> Next {
        let has_some = |header: &[u8]| Head::parse(header).is_ok_and(|head| head.descriptors > 0);
        match self.framer.find_in_room(count, has_some) {
            Some((0, Some(header))) => match Head::parse(header) {
                Ok(head) => judge(&head, admission),
                Err(_) => Next::Wanted,
            },
            // A header that does not fit in, or a stream that is no D-Bus.
            Some((0, None)) | None => Next::Wanted,
            Some((before, _)) => Next::Behind(before),
        }
    }

    /// Puts the first byte of a message into the room. Its descriptors were discarded.
    pub(super) fn discarded(&mut self, byte: u8, why: refusal::Error) {
        if let Some(first) = self.framer.room().first_mut() {
            *first = byte;
        }
        self.missing = Some(why);
    }

    /// Sorts the messages that are complete, after more bytes were read.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the bus has sent what is no D-Bus, and nothing after it can be understood.
    pub(super) fn sort(&mut self, arrived: Arrived, admission: &Admission) -> io::Result<Sorted> {
        let Arrived { count, lost, .. } = arrived;
        self.framer.filled(count);
        let Self { framer, descriptors, missing, others, refusals, greeting, peer } = self;
        let (now, peer) = (Instant::now(), peer.as_deref());
        let mut sorter = Sorter { admission, now, others, refusals, greeting, peer };
        let mut sorted = Sorted::default();
        loop {
            match framer.next().map_err(|_| broken("a malformed message"))? {
                Frame::Incomplete => break,
                Frame::Message(bytes, header) => {
                    let head = parse(bytes.get(..header).unwrap_or_default())?;
                    let missing = missing.take();
                    let taken = match &missing {
                        Some(_) => Vec::new(),
                        None => take(descriptors, &head, peer, admission),
                    };
                    let stamped = match peer {
                        Some(_) if head.sender.is_some() => return Err(broken("a sender")),
                        Some(name) => Some(stamp(bytes, name).map_err(|_| broken("a header"))?),
                        None => None,
                    };
                    let incomplete = taken.len() < descriptors_of(&head);
                    let accepted = if incomplete || (lost && !taken.is_empty()) {
                        sorter.refuse(&head, missing.unwrap_or(refusal::Error::NoDescriptors));
                        false
                    } else {
                        let size = stamped.as_ref().map_or(bytes.len(), Vec::len);
                        let raw = || Raw {
                            bytes: stamped.unwrap_or_else(|| bytes.to_vec()),
                            descriptors: taken,
                        };
                        sorter.sort(&head, size, raw)
                    };
                    sorted.accepted += usize::from(accepted);
                    sorted.rejected += usize::from(!accepted);
                }
                Frame::TooLong(header) => {
                    let head = parse(header)?;
                    if missing.take().is_none() {
                        drop(take(descriptors, &head, peer, admission));
                    }
                    let whose = "in one message".to_owned();
                    let why = Error::Limit { what: "bytes", limit: LONGEST, whose };
                    sorter.refuse(&head, why.into());
                    sorted.rejected += 1;
                }
            }
        }
        // The kernel hands out descriptors with bytes of the message that they belong to. What no
        // message has taken must not become part of another caller's.
        if framer.is_empty() || lost {
            descriptors.clear();
        }
        if lost && !framer.is_empty() {
            *missing = Some(refusal::Error::NoDescriptors);
        }
        if descriptors.len() > DESCRIPTORS {
            return Err(broken("descriptors that belong to no message"));
        }
        Ok(sorted)
    }
}

/// Where messages go.
struct Sorter<'r> {
    admission: &'r Admission,
    now: Instant,
    others: &'r mut VecDeque<Raw>,
    refusals: &'r mut Refusals,
    greeting: &'r mut bool,
    peer: Option<&'r str>,
}

impl Sorter<'_> {
    /// Returns whether the message is kept.
    fn sort(&mut self, head: &Head<'_>, size: usize, raw: impl FnOnce() -> Raw) -> bool {
        // The bus passes on replies that nothing waits for, and signals of anybody.
        let passed_on = match (head.kind, self.peer.or(head.sender)) {
            // Neither replies nor signals of a client mean anything.
            (kind, _) if self.peer.is_some() && kind != Kind::Call => false,
            (_, Some(_)) if self.peer.is_some() && !driver::is_for_service(head.destination) => {
                true
            }
            (Kind::Call, Some(sender)) => {
                let offered = self.admission.offer(sender, head, size, raw, self.now);
                return offered.map_err(|refused| self.refusals.push(refused, self.now)).is_ok();
            }
            (Kind::Reply, sender) => {
                let greeted = sender == Some(BUS) && std::mem::take(self.greeting);
                let expected = |serial| self.admission.is_expected(serial);
                greeted || head.reply_serial.is_some_and(expected)
            }
            (Kind::Signal, sender) => sender == Some(BUS),
            (Kind::Call | Kind::Unknown, _) => false,
        };
        if passed_on {
            self.others.push_back(raw());
        }
        passed_on
    }

    fn refuse(&mut self, head: &Head<'_>, why: refusal::Error) {
        if let (Kind::Call, Some(sender)) = (head.kind, self.peer.or(head.sender)) {
            let Head { serial, no_reply, .. } = *head;
            let uid = self.admission.uid_of(sender);
            let refused = Refused { sender: sender.into(), uid, serial, no_reply, why };
            self.refusals.push(refused, self.now);
        }
    }
}

/// Decides whether the descriptors of a message are to be received.
fn judge(head: &Head<'_>, admission: &Admission) -> Next {
    match (head.kind, head.sender) {
        (Kind::Call, Some(sender)) => {
            let uid = admission.uid_of(sender);
            let Err(why) = check_descriptors(uid, descriptors_of(head)) else {
                return Next::Wanted;
            };
            if uid.is_none() {
                // So that the next call is judged by its user.
                admission.identify(sender);
            }
            Next::Unwanted(why)
        }
        // Those are dropped in any case.
        (Kind::Signal, sender) if sender != Some(BUS) => {
            Next::Unwanted(refusal::Error::NoDescriptors)
        }
        _ => Next::Wanted,
    }
}

/// Takes the descriptors of a message from those that came, under the user that sent it: they are
/// closed under that user, whatever becomes of the message.
fn take(
    descriptors: &mut VecDeque<Received>,
    head: &Head<'_>,
    peer: Option<&str>,
    admission: &Admission,
) -> Vec<Received> {
    let count = descriptors_of(head).min(descriptors.len());
    let mut taken: Vec<Received> = descriptors.drain(..count).collect();
    if let Some(sender) = peer.or(head.sender).filter(|_| count > 0) {
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
fn parse(header: &[u8]) -> io::Result<Head<'_>> {
    Head::parse(header).map_err(|_| broken("a malformed header"))
}

fn descriptors_of(head: &Head<'_>) -> usize {
    usize::try_from(head.descriptors).unwrap_or(usize::MAX)
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the peer has sent {what}"))
}
