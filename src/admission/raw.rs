//! Bytes made a message of zbus's.

use zbus::Message;
use zbus::connection::socket::ReadHalf;

use super::call::Raw;
use super::handed::{self, Handed};
use crate::lock::received::Received;

/// A socket from which nothing more comes: zbus parses what it is given with the call.
///
/// `Message::from_bytes` would do the same, but is unsafe, since it trusts the bytes; this parses
/// and checks them as zbus does with what it reads itself.
#[derive(Debug)]
pub(super) struct Stored;

impl ReadHalf for Stored {}

/// Parses a message of the bus, or a reply to a call of our own, with its descriptors.
///
/// # Errors
///
/// What zbus objects to.
pub(super) async fn parse_trusted(seq: u64, raw: Raw) -> zbus::Result<Message> {
    let Raw { mut bytes, descriptors } = raw;
    let mut descriptors = descriptors.into_iter().filter_map(Received::into_inner).collect();
    Stored.receive_message(seq, &mut bytes, &mut descriptors).await
}

/// Parses a call. Its descriptors are exchanged for stand-ins, which are good for as long as the
/// second part of what is returned.
///
/// # Errors
///
/// What zbus objects to; where no stand-in can be made.
pub(super) async fn parse(seq: u64, raw: Raw) -> zbus::Result<(Message, Handed)> {
    let Raw { mut bytes, descriptors } = raw;
    let (mut stand_ins, handed) = handed::keep(descriptors)?;
    let message = Stored.receive_message(seq, &mut bytes, &mut stand_ins).await?;
    Ok((message, handed))
}
