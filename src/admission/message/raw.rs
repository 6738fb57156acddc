//! Bytes made a message of zbus's.

use zbus::Message;
use zbus::connection::socket::ReadHalf;

use super::stand_in::{self, StandIns};
use crate::lock::received::Received;

/// A message as it was received.
#[derive(Debug)]
pub(in crate::admission) struct RawMessage {
    /// The bytes.
    pub(in crate::admission) bytes: Vec<u8>,
    /// The descriptors that accompany the message.
    pub(in crate::admission) descriptors: Vec<Received>,
}

/// A socket from which nothing more comes: zbus parses what it is given with the call.
///
/// `Message::from_bytes` would do the same, but is unsafe, since it trusts the bytes; this parses
/// and checks them as zbus does with what it reads itself.
#[derive(Debug)]
pub(in crate::admission) struct MemorySocket;

impl ReadHalf for MemorySocket {}

/// Parses a message of the bus, or a reply to a call of our own, with its descriptors.
///
/// # Errors
///
/// What zbus objects to.
pub(in crate::admission) async fn parse_trusted(
    seq: u64,
    raw: RawMessage,
) -> zbus::Result<Message> {
    let RawMessage { mut bytes, descriptors } = raw;
    let mut descriptors = descriptors.into_iter().filter_map(Received::into_inner).collect();
    MemorySocket.receive_message(seq, &mut bytes, &mut descriptors).await
}

/// Parses a call. Its descriptors are exchanged for stand-ins, which are good for as long as the
/// second part of what is returned.
///
/// # Errors
///
/// What zbus objects to; where no stand-in can be made.
pub(in crate::admission) async fn parse_with_stand_ins(
    seq: u64,
    raw: RawMessage,
) -> zbus::Result<(Message, StandIns)> {
    let RawMessage { mut bytes, descriptors } = raw;
    let (mut files, stand_ins) = stand_in::create(descriptors)?;
    let message = MemorySocket.receive_message(seq, &mut bytes, &mut files).await?;
    Ok((message, stand_ins))
}
