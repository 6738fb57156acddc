//! Adds the sender to the header of a message.
//!
//! On a bus, the bus adds it. The private socket has no bus, so the service adds it: all code that
//! follows identifies a caller by the sender of its call.

use super::byte_order::{ByteOrder, MalformedMessage};
use super::header::{FIXED_LEN, Lengths};

/// The code of the header field (D-Bus specification, "Header Fields").
const SENDER: u8 = 7;

/// Adds a sender to a message that has none.
///
/// # Errors
///
/// [`MalformedMessage`] if the lengths in the header are wrong.
pub(in crate::admission) fn insert_sender(
    message: &[u8],
    sender: &str,
) -> Result<Vec<u8>, MalformedMessage> {
    let order = ByteOrder::from_marker(*message.first().ok_or(MalformedMessage)?)?;
    let lengths = Lengths::read(message.first_chunk::<FIXED_LEN>().ok_or(MalformedMessage)?)?;
    let body = message.get(lengths.header.next_multiple_of(8)..).ok_or(MalformedMessage)?;
    let mut extended = message.get(..lengths.header).ok_or(MalformedMessage)?.to_vec();
    // Fields are structures, which begin at multiples of 8.
    extended.resize(extended.len().next_multiple_of(8), 0);
    extended.extend_from_slice(&[SENDER, 1, b's', 0]);
    extended.extend_from_slice(
        &order.to_bytes(u32::try_from(sender.len()).map_err(|_| MalformedMessage)?),
    );
    extended.extend_from_slice(sender.as_bytes());
    extended.push(0);
    let fields = u32::try_from(extended.len() - FIXED_LEN).map_err(|_| MalformedMessage)?;
    extended[12..FIXED_LEN].copy_from_slice(&order.to_bytes(fields));
    extended.resize(extended.len().next_multiple_of(8), 0);
    extended.extend_from_slice(body);
    Ok(extended)
}

#[cfg(test)]
mod tests {
    use zbus::message::Message;
    use zbus::wire::Endian;

    use super::*;
    use crate::admission::message::header::Header;

    #[test]
    fn the_sender_is_the_only_difference() {
        for endian in [Endian::Little, Endian::Big] {
            for path in ["/", "/a", "/ab", "/abc", "/abcd", "/abcde", "/abcdef", "/abcdefg"] {
                let call = Message::method_call(path, "Acquire").endian(endian);
                let call = call.destination("org.vmlockd1").build(&("disk", 7u64)).unwrap();
                let extended = insert_sender(call.data().bytes(), ":vmlockd.1").unwrap();
                let lengths = Lengths::read(extended.first_chunk().unwrap()).unwrap();
                assert_eq!(lengths.message, extended.len());
                let head = Header::parse(&extended[..lengths.header]).unwrap();
                assert_eq!(head.sender, Some(":vmlockd.1"));
                assert_eq!(head.member, Some("Acquire"));
                let body = |bytes: &[u8]| bytes[bytes.len() - 24..].to_vec();
                assert_eq!(body(&extended), body(call.data().bytes()));
            }
        }
        assert_eq!(insert_sender(b"l\x01\0\x01", ":1.1"), Err(MalformedMessage));
    }
}
