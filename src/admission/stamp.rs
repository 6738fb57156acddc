//! The sender of a message, entered into its header.
//!
//! On a bus, the bus enters it. On the private socket there is none, so the service does it: all that
//! follows identifies a caller by the sender of its call.

use super::head::{FIXED, Lengths, Malformed};
use super::order::Order;

/// The code of the header field (D-Bus specification, "Header Fields").
const SENDER: u8 = 7;

/// Enters the sender of a message that has none.
///
/// # Errors
///
/// [`Malformed`] where the lengths in the header are wrong.
pub(super) fn stamp(message: &[u8], sender: &str) -> Result<Vec<u8>, Malformed> {
    let order = Order::of(*message.first().ok_or(Malformed)?)?;
    let lengths = Lengths::read(message.first_chunk::<FIXED>().ok_or(Malformed)?)?;
    let body = message.get(lengths.header.next_multiple_of(8)..).ok_or(Malformed)?;
    let mut stamped = message.get(..lengths.header).ok_or(Malformed)?.to_vec();
    // Fields are structures, which begin at multiples of 8.
    stamped.resize(stamped.len().next_multiple_of(8), 0);
    stamped.extend_from_slice(&[SENDER, 1, b's', 0]);
    stamped.extend_from_slice(&order.bytes(u32::try_from(sender.len()).map_err(|_| Malformed)?));
    stamped.extend_from_slice(sender.as_bytes());
    stamped.push(0);
    let fields = u32::try_from(stamped.len() - FIXED).map_err(|_| Malformed)?;
    stamped[12..FIXED].copy_from_slice(&order.bytes(fields));
    stamped.resize(stamped.len().next_multiple_of(8), 0);
    stamped.extend_from_slice(body);
    Ok(stamped)
}

#[cfg(test)]
mod tests {
    use zbus::message::Message;
    use zbus::wire::Endian;

    use super::*;
    use crate::admission::head::Head;

    #[test]
    fn the_sender_is_the_only_difference() {
        for endian in [Endian::Little, Endian::Big] {
            for path in ["/", "/a", "/ab", "/abc", "/abcd", "/abcde", "/abcdef", "/abcdefg"] {
                let call = Message::method_call(path, "Acquire").endian(endian);
                let call = call.destination("org.vmlockd1").build(&("disk", 7u64)).unwrap();
                let stamped = stamp(call.data().bytes(), ":vmlockd.1").unwrap();
                let lengths = Lengths::read(stamped.first_chunk().unwrap()).unwrap();
                assert_eq!(lengths.message, stamped.len());
                let head = Head::parse(&stamped[..lengths.header]).unwrap();
                assert_eq!(head.sender, Some(":vmlockd.1"));
                assert_eq!(head.member, Some("Acquire"));
                let body = |bytes: &[u8]| bytes[bytes.len() - 24..].to_vec();
                assert_eq!(body(&stamped), body(call.data().bytes()));
            }
        }
        assert_eq!(stamp(b"l\x01\0\x01", ":1.1"), Err(Malformed));
    }
}
