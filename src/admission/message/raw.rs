//! Passes received bytes to the message parser of zbus.

use zbus::Message;
use zbus::connection::socket::ReadHalf;

use super::stand_in::{self, StandIns};
use crate::lock::descriptor::received::Received;

/// A message as it was received.
#[derive(Debug)]
pub(in crate::admission) struct RawMessage {
    /// The bytes.
    pub(in crate::admission) bytes: Vec<u8>,
    /// The descriptors that accompany the message.
    pub(in crate::admission) descriptors: Vec<Received>,
}

/// A socket that has no more data: zbus parses the bytes that it gets with the call.
///
/// `Message::from_bytes` does the same, but is unsafe, since it trusts the bytes. This parses and
/// checks them as zbus does with bytes that it reads itself.
#[derive(Debug)]
pub(in crate::admission) struct MemorySocket;

impl ReadHalf for MemorySocket {}

/// Parses a message of the bus, or a reply to a call of the service, with its descriptors.
///
/// # Errors
///
/// The errors of zbus for a malformed message.
pub(in crate::admission) async fn parse_trusted(
    seq: u64,
    raw: RawMessage,
) -> zbus::Result<Message> {
    let RawMessage { mut bytes, descriptors } = raw;
    let mut descriptors = descriptors.into_iter().filter_map(Received::into_inner).collect();
    MemorySocket.receive_message(seq, &mut bytes, &mut descriptors).await
}

/// Parses a call, and replaces its descriptors by stand-ins. The stand-ins are valid until the
/// returned [`StandIns`] are dropped.
///
/// # Errors
///
/// The errors of zbus for a malformed message, and the errors of [`stand_in::create`].
pub(in crate::admission) async fn parse_with_stand_ins(
    seq: u64,
    raw: RawMessage,
) -> zbus::Result<(Message, StandIns)> {
    let RawMessage { mut bytes, descriptors } = raw;
    let (mut files, stand_ins) = stand_in::create(descriptors)?;
    let message = MemorySocket.receive_message(seq, &mut bytes, &mut files).await?;
    Ok((message, stand_ins))
}
