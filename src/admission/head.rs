//! The header of a D-Bus message, as far as admission control needs it.
//!
//! Parses bytes and touches nothing else. Every length comes from the peer, so each one is checked
//! against the bytes that are there. Source: the section "Message Protocol" of the D-Bus
//! specification.

use super::order::Order;

/// The length of the fixed part of a header, with the length of the header fields.
pub(super) const FIXED: usize = 16;

/// The largest message that the specification allows, in bytes.
const LARGEST: usize = 128 << 20;

/// How deep containers may nest: 32 arrays, 32 structures and the variants around them.
const DEPTH: u8 = 100;

/// The flag of a method call whose caller wants no reply.
const NO_REPLY_EXPECTED: u8 = 0x1;

/// The offset of the flags in a message.
const FLAGS: usize = 2;

/// A header that violates the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// The type of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A method call.
    Call,
    /// A method return or an error.
    Reply,
    /// A signal.
    Signal,
    /// A type that the specification does not define, and which is to be ignored.
    Unknown,
}

/// The lengths that the fixed part of a header announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lengths {
    /// The header, with its fields and without the padding after them.
    pub(super) header: usize,
    /// The whole message.
    pub(super) message: usize,
}

impl Lengths {
    /// Reads the fixed part.
    ///
    /// # Errors
    ///
    /// [`Malformed`]: the stream is not D-Bus, and the end of the message is not known.
    pub(super) fn read(fixed: &[u8; FIXED]) -> Result<Self, Malformed> {
        let order = Order::of(fixed[0])?;
        let [body, fields] = [4, 12].map(|at| order.u32_at(fixed, at));
        let (body, fields) = (size(body?)?, size(fields?)?);
        let header = FIXED + fields;
        let message = header.next_multiple_of(8) + body;
        if message > LARGEST { Err(Malformed) } else { Ok(Self { header, message }) }
    }
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head<'m> {
    /// The type.
    pub(super) kind: Kind,
    /// Whether the caller wants no reply.
    pub(super) no_reply: bool,
    /// The serial number that the sender gave it.
    pub(super) serial: u32,
    /// The serial number of the call that a reply answers.
    pub(super) reply_serial: Option<u32>,
    /// The name that it is sent to.
    pub(super) destination: Option<&'m str>,
    /// The unique name of the sender, which the bus fills in.
    pub(super) sender: Option<&'m str>,
    /// The method or the signal.
    pub(super) member: Option<&'m str>,
    /// How many descriptors accompany it.
    pub(super) descriptors: u32,
}

impl<'m> Head<'m> {
    /// Parses a header, with its fields.
    ///
    /// # Errors
    ///
    /// [`Malformed`].
    pub(super) fn parse(header: &'m [u8]) -> Result<Self, Malformed> {
        let order = Order::of(*header.first().ok_or(Malformed)?)?;
        let kind = match header.get(1).ok_or(Malformed)? {
            1 => Kind::Call,
            2 | 3 => Kind::Reply,
            4 => Kind::Signal,
            _ => Kind::Unknown,
        };
        let flags = header.get(FLAGS).ok_or(Malformed)?;
        let mut head = Self {
            kind,
            no_reply: flags & NO_REPLY_EXPECTED != 0,
            serial: order.u32_at(header, 8)?,
            reply_serial: None,
            destination: None,
            sender: None,
            member: None,
            descriptors: 0,
        };
        let mut fields = Fields { bytes: header, at: FIXED, order };
        while fields.at < header.len() {
            fields.align(8);
            let code = fields.byte()?;
            let value = fields.variant()?;
            match (code, value) {
                (3, Value::Text(member)) => head.member = Some(member),
                (5, Value::Number(serial)) => head.reply_serial = Some(serial),
                (6, Value::Text(destination)) => head.destination = Some(destination),
                (7, Value::Text(sender)) => head.sender = Some(sender),
                (9, Value::Number(count)) => head.descriptors = count,
                (3 | 5 | 6 | 7 | 9, _) => return Err(Malformed),
                _ => {}
            }
        }
        Ok(head)
    }
}

/// Clears the flag by which a caller wants no reply.
pub(super) fn expect_reply(message: &mut [u8]) {
    if let Some(flags) = message.get_mut(FLAGS) {
        *flags &= !NO_REPLY_EXPECTED;
    }
}

fn size(length: u32) -> Result<usize, Malformed> {
    usize::try_from(length).map_err(|_| Malformed)
}

/// The value of a header field.
enum Value<'m> {
    Text(&'m str),
    Number(u32),
    Other,
}

/// What is left of the header fields.
struct Fields<'m> {
    bytes: &'m [u8],
    at: usize,
    order: Order,
}

impl<'m> Fields<'m> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Result<&'m [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(*self.take(1)?.first().ok_or(Malformed)?)
    }

    fn number(&mut self) -> Result<u32, Malformed> {
        self.align(4);
        let number = self.order.u32_at(self.bytes, self.at)?;
        self.at += 4;
        Ok(number)
    }

    fn text(&mut self) -> Result<&'m str, Malformed> {
        let length = size(self.number()?)?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| Malformed)?;
        self.take(1)?;
        Ok(text)
    }

    fn signature(&mut self) -> Result<&'m [u8], Malformed> {
        let length = usize::from(self.byte()?);
        let signature = self.take(length)?;
        self.take(1)?;
        Ok(signature)
    }

    /// Reads a value. What no field that matters has is skipped: some buses pass on fields that
    /// nobody has defined yet.
    fn variant(&mut self) -> Result<Value<'m>, Malformed> {
        match self.signature()? {
            b"s" | b"o" => Ok(Value::Text(self.text()?)),
            b"u" => Ok(Value::Number(self.number()?)),
            mut other => {
                self.skip(&mut other, DEPTH)?;
                if other.is_empty() { Ok(Value::Other) } else { Err(Malformed) }
            }
        }
    }

    /// Skips a value of the first type in `types`, and that type.
    fn skip(&mut self, types: &mut &[u8], depth: u8) -> Result<(), Malformed> {
        let depth = depth.checked_sub(1).ok_or(Malformed)?;
        let (first, rest) = types.split_first().ok_or(Malformed)?;
        *types = rest;
        match first {
            b'y' => self.byte().map(drop),
            b'n' | b'q' => self.fixed(2),
            b'b' | b'i' | b'u' | b'h' => self.fixed(4),
            b'x' | b't' | b'd' => self.fixed(8),
            b's' | b'o' => {
                let length = size(self.number()?)?;
                self.take(length)?;
                self.byte().map(drop)
            }
            b'g' => self.signature().map(drop),
            b'v' => self.signature().and_then(|mut types| self.skip(&mut types, depth)),
            b'a' => {
                let length = size(self.number()?)?;
                if let Some(b'x' | b't' | b'd' | b'(' | b'{') = types.first() {
                    self.align(8);
                }
                skip_type(types, depth)?;
                self.take(length).map(drop)
            }
            b'(' | b'{' => {
                self.align(8);
                while !matches!(types.first(), Some(b')' | b'}')) {
                    self.skip(types, depth)?;
                }
                *types = types.get(1..).ok_or(Malformed)?;
                Ok(())
            }
            _ => Err(Malformed),
        }
    }

    fn fixed(&mut self, length: usize) -> Result<(), Malformed> {
        self.align(length);
        self.take(length).map(drop)
    }
}

/// Skips the first type in `types`.
fn skip_type(types: &mut &[u8], depth: u8) -> Result<(), Malformed> {
    let depth = depth.checked_sub(1).ok_or(Malformed)?;
    let (first, rest) = types.split_first().ok_or(Malformed)?;
    *types = rest;
    match first {
        b'a' => skip_type(types, depth),
        b'(' | b'{' => {
            while !matches!(types.first(), Some(b')' | b'}')) {
                skip_type(types, depth)?;
            }
            *types = types.get(1..).ok_or(Malformed)?;
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

    fn parsed(bytes: &[u8]) -> Head<'_> {
        Head::parse(&bytes[..lengths(bytes).header]).unwrap()
    }

    #[test]
    fn reads_what_zbus_writes() {
        let call = Message::method_call("/org/vmlockd1", "Ping")
            .sender(":1.7")
            .interface("org.freedesktop.DBus.Peer")
            .with_flags(Flags::NO_REPLY_EXPECTED)
            .build(&("some", 1u8))
            .unwrap();
        let bytes = call.data().bytes();
        assert_eq!(lengths(bytes).message, bytes.len());
        let head = parsed(bytes);
        assert_eq!((head.kind, head.no_reply, head.descriptors), (Kind::Call, true, 0));
        assert_eq!((head.sender, head.member), (Some(":1.7"), Some("Ping")));
        assert_eq!(head.serial, call.primary_header().serial_num().get());

        let mut bytes = bytes.to_vec();
        expect_reply(&mut bytes);
        assert!(!parsed(&bytes).no_reply);

        let reply = Message::method_return(&call.header()).build(&()).unwrap();
        let head = parsed(reply.data().bytes());
        assert_eq!((head.kind, head.reply_serial), (Kind::Reply, Some(head_serial(&call))));
    }

    fn head_serial(message: &Message) -> u32 {
        message.primary_header().serial_num().get()
    }

    /// A header with one more field of each type that a value can have.
    #[test]
    fn skips_fields_that_nobody_has_defined() {
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
            let head = Head::parse(&bytes).unwrap_or_else(|_| panic!("{signature}"));
            assert_eq!(head.sender, Some(":1.7"));
        }
        let nested = ["(".repeat(255), "v".to_owned()];
        for signature in nested {
            let mut types = signature.as_bytes();
            let mut fields =
                Fields { bytes: &[1, b'v', 0].repeat(90), at: 0, order: Order::Little };
            assert!(fields.skip(&mut types, DEPTH).is_err());
        }
    }

    #[test]
    fn refuses_lengths_beyond_the_specification() {
        let mut fixed = [b'l', 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Lengths::read(&fixed), Ok(Lengths { header: 16, message: 16 }));
        fixed[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Lengths::read(&fixed), Err(Malformed));
        fixed[0] = b'x';
        assert_eq!(Lengths::read(&fixed), Err(Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Head::parse(&bytes);
            if let Some(fixed) = bytes.first_chunk() {
                let _ = Lengths::read(fixed);
            }
        }

        #[test]
        fn no_change_of_a_header_makes_it_panic(at in 0usize..120, byte in any::<u8>()) {
            let call = Message::method_call("/org/vmlockd1", "Ping").sender(":1.7").build(&());
            let mut bytes = call.unwrap().data().bytes().to_vec();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let _ = Head::parse(&bytes);
        }
    }
}
