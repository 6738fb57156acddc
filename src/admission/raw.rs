//! Bytes made a message of zbus's.

use zbus::Message;
use zbus::connection::socket::ReadHalf;

use super::call::Raw;

/// A socket from which nothing more comes: zbus parses what it is given with the call.
///
/// `Message::from_bytes` would do the same, but is unsafe, since it trusts the bytes; this parses
/// and checks them as zbus does with what it reads itself.
#[derive(Debug)]
pub(super) struct Stored;

impl ReadHalf for Stored {}

/// Parses a message.
///
/// # Errors
///
/// What zbus objects to.
pub(super) async fn parse(seq: u64, raw: Raw) -> zbus::Result<Message> {
    let Raw { mut bytes, mut descriptors } = raw;
    Stored.receive_message(seq, &mut bytes, &mut descriptors).await
}
