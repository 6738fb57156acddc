//! Parses the header of a D-Bus message, as far as admission control needs it.
//!
//! Every length comes from the peer, so each one is checked against the bytes that were received.
//! Source: the section "Message Protocol" of the D-Bus specification.

use super::SERVICE_NAME;
use super::byte_order::{ByteOrder, MalformedMessage};

/// The length of the fixed part of a header, which includes the length of the header fields.
pub(in crate::admission) const FIXED_LEN: usize = 16;

/// The maximum length of a message in the specification, in bytes.
const MAX_LEN: usize = 128 << 20;

/// The maximum nesting of containers: 32 arrays, 32 structures and the variants around them.
const MAX_DEPTH: u8 = 100;

/// The flag of a method call whose caller wants no reply.
const NO_REPLY_EXPECTED: u8 = 0x1;

/// The offset of the flags in a message.
const FLAGS: usize = 2;

/// The type of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admission) enum MessageKind {
    /// A method call.
    Call,
    /// A method return or an error.
    Reply,
    /// A signal.
    Signal,
    /// A type that the specification does not define. Such messages are ignored.
    Unknown,
}

/// The lengths that the fixed part of a header specifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admission) struct Lengths {
    /// The length of the header with its fields, without the padding after them.
    pub(in crate::admission) header: usize,
    /// The length of the complete message.
    pub(in crate::admission) message: usize,
}

impl Lengths {
    /// Parses the fixed part.
    ///
    /// # Errors
    ///
    /// [`MalformedMessage`]: the stream is not D-Bus, and the end of the message is unknown.
    pub(in crate::admission) fn read(fixed: &[u8; FIXED_LEN]) -> Result<Self, MalformedMessage> {
        let order = ByteOrder::from_marker(fixed[0])?;
        let [body, fields] = [4, 12].map(|at| order.read_u32(fixed, at));
        let (body, fields) = (to_usize(body?)?, to_usize(fields?)?);
        let header = FIXED_LEN + fields;
        let message = header.next_multiple_of(8) + body;
        if message > MAX_LEN { Err(MalformedMessage) } else { Ok(Self { header, message }) }
    }
}

/// The header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admission) struct Header<'m> {
    /// The type.
    pub(in crate::admission) kind: MessageKind,
    /// Whether the caller wants no reply.
    pub(in crate::admission) no_reply: bool,
    /// The serial number that the sender has assigned.
    pub(in crate::admission) serial: u32,
    /// The serial number of the call that a reply answers.
    pub(in crate::admission) reply_serial: Option<u32>,
    /// The name to which the message is addressed.
    pub(in crate::admission) destination: Option<&'m str>,
    /// The unique name of the sender, which the bus fills in.
    pub(in crate::admission) sender: Option<&'m str>,
    /// The name of the method or signal.
    pub(in crate::admission) member: Option<&'m str>,
    /// The number of descriptors that accompany the message.
    pub(in crate::admission) descriptors: u32,
}

impl<'m> Header<'m> {
    /// Parses a header with its fields.
    ///
    /// # Errors
    ///
    /// [`MalformedMessage`] if the header violates the specification.
    pub(in crate::admission) fn parse(header: &'m [u8]) -> Result<Self, MalformedMessage> {
        let order = ByteOrder::from_marker(*header.first().ok_or(MalformedMessage)?)?;
        let kind = match header.get(1).ok_or(MalformedMessage)? {
            1 => MessageKind::Call,
            2 | 3 => MessageKind::Reply,
            4 => MessageKind::Signal,
            _ => MessageKind::Unknown,
        };
        let flags = header.get(FLAGS).ok_or(MalformedMessage)?;
        let mut parsed = Self {
            kind,
            no_reply: flags & NO_REPLY_EXPECTED != 0,
            serial: order.read_u32(header, 8)?,
            reply_serial: None,
            destination: None,
            sender: None,
            member: None,
            descriptors: 0,
        };
        let mut fields = FieldReader { bytes: header, at: FIXED_LEN, order };
        while fields.at < header.len() {
            fields.align(8);
            let code = fields.read_byte()?;
            let value = fields.read_variant()?;
            match (code, value) {
                (3, Value::Text(member)) => parsed.member = Some(member),
                (5, Value::Number(serial)) => parsed.reply_serial = Some(serial),
                (6, Value::Text(destination)) => parsed.destination = Some(destination),
                (7, Value::Text(sender)) => parsed.sender = Some(sender),
                (9, Value::Number(count)) => parsed.descriptors = count,
                (3 | 5 | 6 | 7 | 9, _) => return Err(MalformedMessage),
                _ => {}
            }
        }
        Ok(parsed)
    }

    /// Returns whether the message is addressed to the service, or to no name.
    pub(in crate::admission) fn is_for_service(&self) -> bool {
        self.destination.is_none_or(|name| name == SERVICE_NAME)
    }

    /// Returns the number of descriptors that accompany the message.
    pub(in crate::admission) fn descriptor_count(&self) -> usize {
        usize::try_from(self.descriptors).unwrap_or(usize::MAX)
    }
}

/// Clears the flag of a call whose caller wants no reply.
pub(in crate::admission) fn clear_no_reply_flag(message: &mut [u8]) {
    if let Some(flags) = message.get_mut(FLAGS) {
        *flags &= !NO_REPLY_EXPECTED;
    }
}

fn to_usize(length: u32) -> Result<usize, MalformedMessage> {
    usize::try_from(length).map_err(|_| MalformedMessage)
}

/// The value of a header field.
enum Value<'m> {
    Text(&'m str),
    Number(u32),
    Other,
}

/// A cursor over the header fields.
struct FieldReader<'m> {
    bytes: &'m [u8],
    at: usize,
    order: ByteOrder,
}

impl<'m> FieldReader<'m> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn read_bytes(&mut self, count: usize) -> Result<&'m [u8], MalformedMessage> {
        let end = self.at.checked_add(count).ok_or(MalformedMessage)?;
        let bytes = self.bytes.get(self.at..end).ok_or(MalformedMessage)?;
        self.at = end;
        Ok(bytes)
    }

    fn read_byte(&mut self) -> Result<u8, MalformedMessage> {
        Ok(*self.read_bytes(1)?.first().ok_or(MalformedMessage)?)
    }

    fn read_u32(&mut self) -> Result<u32, MalformedMessage> {
        self.align(4);
        let number = self.order.read_u32(self.bytes, self.at)?;
        self.at += 4;
        Ok(number)
    }

    fn read_string(&mut self) -> Result<&'m str, MalformedMessage> {
        let length = to_usize(self.read_u32()?)?;
        let text = std::str::from_utf8(self.read_bytes(length)?).map_err(|_| MalformedMessage)?;
        self.read_bytes(1)?;
        Ok(text)
    }

    fn read_signature(&mut self) -> Result<&'m [u8], MalformedMessage> {
        let length = usize::from(self.read_byte()?);
        let signature = self.read_bytes(length)?;
        self.read_bytes(1)?;
        Ok(signature)
    }

    /// Reads a value. A value of a type that no relevant field has is skipped: some buses forward
    /// fields that the specification does not define yet.
    fn read_variant(&mut self) -> Result<Value<'m>, MalformedMessage> {
        match self.read_signature()? {
            b"s" | b"o" => Ok(Value::Text(self.read_string()?)),
            b"u" => Ok(Value::Number(self.read_u32()?)),
            mut other => {
                self.skip_value(&mut other, MAX_DEPTH)?;
                if other.is_empty() { Ok(Value::Other) } else { Err(MalformedMessage) }
            }
        }
    }

    /// Skips a value of the first type in `types`, and consumes that type.
    fn skip_value(&mut self, types: &mut &[u8], depth: u8) -> Result<(), MalformedMessage> {
        let depth = depth.checked_sub(1).ok_or(MalformedMessage)?;
        let (first, rest) = types.split_first().ok_or(MalformedMessage)?;
        *types = rest;
        match first {
            b'y' => self.read_byte().map(drop),
            b'n' | b'q' => self.skip_fixed(2),
            b'b' | b'i' | b'u' | b'h' => self.skip_fixed(4),
            b'x' | b't' | b'd' => self.skip_fixed(8),
            b's' | b'o' => {
                let length = to_usize(self.read_u32()?)?;
                self.read_bytes(length)?;
                self.read_byte().map(drop)
            }
            b'g' => self.read_signature().map(drop),
            b'v' => self.read_signature().and_then(|mut types| self.skip_value(&mut types, depth)),
            b'a' => {
                let length = to_usize(self.read_u32()?)?;
                if let Some(b'x' | b't' | b'd' | b'(' | b'{') = types.first() {
                    self.align(8);
                }
                skip_type(types, depth)?;
                self.read_bytes(length).map(drop)
            }
            b'(' | b'{' => {
                self.align(8);
                while !matches!(types.first(), Some(b')' | b'}')) {
                    self.skip_value(types, depth)?;
                }
                *types = types.get(1..).ok_or(MalformedMessage)?;
                Ok(())
            }
            _ => Err(MalformedMessage),
        }
    }

    fn skip_fixed(&mut self, length: usize) -> Result<(), MalformedMessage> {
        self.align(length);
        self.read_bytes(length).map(drop)
    }
}

/// Consumes the first type in `types`.
fn skip_type(types: &mut &[u8], depth: u8) -> Result<(), MalformedMessage> {
    let depth = depth.checked_sub(1).ok_or(MalformedMessage)?;
    let (first, rest) = types.split_first().ok_or(MalformedMessage)?;
    *types = rest;
    match first {
        b'a' => skip_type(types, depth),
        b'(' | b'{' => {
            while !matches!(types.first(), Some(b')' | b'}')) {
                skip_type(types, depth)?;
            }
            *types = types.get(1..).ok_or(MalformedMessage)?;
            Ok(())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zbus::message::{Flags, Message};

    use super::*;

    fn lengths(bytes: &[u8]) -> Lengths {
        Lengths::read(bytes.first_chunk().unwrap()).unwrap()
    }

    fn parsed(bytes: &[u8]) -> Header<'_> {
        Header::parse(&bytes[..lengths(bytes).header]).unwrap()
    }

    #[test]
    fn headers_of_zbus_are_parsed() {
        let call = Message::method_call("/org/vmlockd1", "Ping")
            .sender(":1.7")
            .interface("org.freedesktop.DBus.Peer")
            .with_flags(Flags::NO_REPLY_EXPECTED)
            .build(&("some", 1u8))
            .unwrap();
        let bytes = call.data().bytes();
        assert_eq!(lengths(bytes).message, bytes.len());
        let header = parsed(bytes);
        assert_eq!(
            (header.kind, header.no_reply, header.descriptors),
            (MessageKind::Call, true, 0)
        );
        assert_eq!((header.sender, header.member), (Some(":1.7"), Some("Ping")));
        assert_eq!(header.serial, call.primary_header().serial_num().get());

        let mut bytes = bytes.to_vec();
        clear_no_reply_flag(&mut bytes);
        assert!(!parsed(&bytes).no_reply);

        let reply = Message::method_return(&call.header()).build(&()).unwrap();
        let header = parsed(reply.data().bytes());
        assert_eq!(
            (header.kind, header.reply_serial),
            (MessageKind::Reply, Some(serial_of(&call)))
        );
    }

    fn serial_of(message: &Message) -> u32 {
        message.primary_header().serial_num().get()
    }

    /// Adds a field of each type that a value can have to a header.
    #[test]
    fn skips_undefined_fields() {
        let values: &[(&str, &[u8])] = &[
            ("y", &[7]),
            ("q", &[7, 0]),
            ("v", &[1, b'y', 0, 7]),
            ("as", &[6, 0, 0, 0, 1, 0, 0, 0, b'x', 0]),
            ("ax", &[0, 0, 0, 0, 0, 0, 0, 0]),
            ("(yay)", &[7, 0, 0, 0, 1, 0, 0, 0, 9]),
            ("a{sv}", &[0, 0, 0, 0, 0, 0, 0, 0]),
            ("aa(ii)", &[0, 0, 0, 0]),
        ];
        let call = Message::method_call("/", "Ping").sender(":1.7").build(&()).unwrap();
        for (signature, value) in values {
            let mut bytes = call.data().bytes().to_vec();
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            let length = u8::try_from(signature.len()).unwrap();
            bytes.extend_from_slice(&[200, length]);
            bytes.extend_from_slice(signature.as_bytes());
            bytes.push(0);
            let to = if signature.starts_with('(') { 8 } else { 4 };
            let to = if ["y", "q", "v"].contains(signature) { 2 } else { to };
            let to = if ["y", "v"].contains(signature) { 1 } else { to };
            bytes.resize(bytes.len().next_multiple_of(to), 0);
            bytes.extend_from_slice(value);
            let header = Header::parse(&bytes).unwrap_or_else(|_| panic!("{signature}"));
            assert_eq!(header.sender, Some(":1.7"));
        }
        let nested = ["(".repeat(255), "v".to_owned()];
        for signature in nested {
            let mut types = signature.as_bytes();
            let mut fields =
                FieldReader { bytes: &[1, b'v', 0].repeat(90), at: 0, order: ByteOrder::Little };
            assert!(fields.skip_value(&mut types, MAX_DEPTH).is_err());
        }
    }

    #[test]
    fn lengths_beyond_the_specification_are_malformed() {
        let mut fixed = [b'l', 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Lengths::read(&fixed), Ok(Lengths { header: 16, message: 16 }));
        fixed[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Lengths::read(&fixed), Err(MalformedMessage));
        fixed[0] = b'x';
        assert_eq!(Lengths::read(&fixed), Err(MalformedMessage));
    }

    proptest! {
        #[test]
        fn parsing_arbitrary_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Header::parse(&bytes);
            if let Some(fixed) = bytes.first_chunk() {
                let _ = Lengths::read(fixed);
            }
        }

        #[test]
        fn parsing_a_changed_header_never_panics(at in 0usize..120, byte in any::<u8>()) {
            let call = Message::method_call("/org/vmlockd1", "Ping").sender(":1.7").build(&());
            let mut bytes = call.unwrap().data().bytes().to_vec();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let _ = Header::parse(&bytes);
        }
    }
}
