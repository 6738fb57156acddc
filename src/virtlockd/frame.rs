//! The framing of messages: length, header, payload (libvirt's `src/rpc/virnetprotocol.x`).
//!
//! A message begins with its length, which includes the four bytes of the length itself. The header
//! follows, and then the payload, up to the end of the message.

use super::xdr::{DecodeError, Reader, Writer};

/// The program number of the lock protocol.
pub const PROGRAM: u32 = 0x0EA7_BEEF;
/// The version of the lock protocol.
pub const VERSION: u32 = 1;
/// The program number of the keepalive protocol, by which either end checks that the other is alive.
pub const KEEPALIVE: u32 = 0x6b65_6570;
/// The version of the keepalive protocol.
pub const KEEPALIVE_VERSION: u32 = 1;
/// The keepalive procedure that expects [`PONG`].
pub const PING: i32 = 1;
/// The keepalive procedure that answers [`PING`].
pub const PONG: i32 = 2;

/// The length of the length field, in bytes.
pub const PREFIX: usize = 4;
/// The length of a header, in bytes.
pub const HEADER: usize = 24;
/// The minimum length of a message, in bytes.
pub const MIN_LENGTH: usize = PREFIX + HEADER;
/// The maximum length of a message, in bytes. Every call fits (its largest arguments are two strings of
/// 65,536 bytes). libvirt allows 33,554,436 bytes; a client that announces more than this is
/// disconnected at once, which bounds the memory of a connection.
pub const MAX_LENGTH: usize = 256 * 1024;

/// Types of messages.
pub mod kind {
    /// A call, which is answered by a reply.
    pub const CALL: i32 = 0;
    /// The reply to a call.
    pub const REPLY: i32 = 1;
    /// A message that has no reply.
    pub const MESSAGE: i32 = 2;
    /// A part of a stream, which the lock protocol does not use.
    pub const STREAM: i32 = 3;
    /// A call whose payload begins with the number of passed descriptors.
    pub const CALL_WITH_FDS: i32 = 4;
    /// A reply whose payload begins with the number of passed descriptors.
    pub const REPLY_WITH_FDS: i32 = 5;
}

/// Statuses of messages.
pub mod status {
    /// Success. Calls have this status, too.
    pub const OK: i32 = 0;
    /// Failure: the payload is a [`RemoteError`](super::super::remote_error::RemoteError).
    pub const ERROR: i32 = 1;
}

/// The header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The protocol: [`PROGRAM`] or [`KEEPALIVE`].
    pub program: u32,
    /// The version of the protocol.
    pub version: u32,
    /// The procedure.
    pub procedure: i32,
    /// The type: a constant in [`kind`], unless the client violates the protocol.
    pub kind: i32,
    /// The number of a call, which its reply repeats.
    pub serial: u32,
    /// The status: a constant in [`status`], unless the client violates the protocol.
    pub status: i32,
}

impl Header {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            program: reader.u32()?,
            version: reader.u32()?,
            procedure: reader.i32()?,
            kind: reader.i32()?,
            serial: reader.u32()?,
            status: reader.i32()?,
        })
    }

    /// Encodes a message with this header.
    ///
    /// The length of a message that exceeds `u32::MAX` bytes is `u32::MAX`, which every reader rejects.
    #[must_use]
    pub fn message(&self, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(MIN_LENGTH + payload.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(MIN_LENGTH + payload.len());
        bytes.extend(length.to_be_bytes());
        let mut header = Writer::new();
        header.u32(self.program).u32(self.version).i32(self.procedure);
        header.i32(self.kind).u32(self.serial).i32(self.status);
        bytes.extend(header.into_bytes());
        bytes.extend(payload);
        bytes
    }
}

/// A message that was received completely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'b> {
    /// The header.
    pub header: Header,
    /// The payload.
    pub payload: &'b [u8],
    /// The length of the message, in bytes.
    pub length: usize,
}

/// A length outside of [`MIN_LENGTH`] to [`MAX_LENGTH`]. The connection must be closed, since the next
/// message cannot be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {0} bytes is announced, {MIN_LENGTH} to {MAX_LENGTH} are allowed")]
pub struct InvalidLength(pub u32);

/// Parses the first message in `buffer`. Returns `None` if it is incomplete.
///
/// # Errors
///
/// A length that is not allowed, as soon as the length field is complete.
pub fn parse(buffer: &[u8]) -> Result<Option<Frame<'_>>, InvalidLength> {
    let Some(prefix) = buffer.first_chunk::<PREFIX>() else { return Ok(None) };
    let announced = u32::from_be_bytes(*prefix);
    let length = usize::try_from(announced).map_err(|_| InvalidLength(announced))?;
    if !(MIN_LENGTH..=MAX_LENGTH).contains(&length) {
        return Err(InvalidLength(announced));
    }
    let Some(message) = buffer.get(PREFIX..length) else { return Ok(None) };
    let mut reader = Reader::new(message);
    let header = Header::read(&mut reader).map_err(|DecodeError| InvalidLength(announced))?;
    Ok(Some(Frame { header, payload: reader.rest(), length }))
}

/// Encodes the reply to a call.
#[must_use]
pub fn reply(to: &Header, status: i32, payload: &[u8]) -> Vec<u8> {
    Header { kind: kind::REPLY, status, ..*to }.message(payload)
}

/// Encodes the answer to a ping, which is a message like the ping, not a reply.
#[must_use]
pub fn pong() -> Vec<u8> {
    let header = Header {
        program: KEEPALIVE,
        version: KEEPALIVE_VERSION,
        procedure: PONG,
        kind: kind::MESSAGE,
        serial: 0,
        status: status::OK,
    };
    header.message(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            program: PROGRAM,
            version: VERSION,
            procedure: -6,
            kind: kind::CALL,
            serial: 0xffff_fffe,
            status: status::OK,
        }
    }

    #[test]
    fn messages_round_trip() {
        let payload = b"payload".repeat(3);
        let mut bytes = header().message(&payload);
        let length = bytes.len();
        bytes.extend(pong());
        let first = parse(&bytes).unwrap().unwrap();
        assert_eq!(first, Frame { header: header(), payload: &payload, length });
        let second = parse(&bytes[length..]).unwrap().unwrap();
        assert_eq!((second.payload, second.length), (&b""[..], MIN_LENGTH));
        assert_eq!(second.header.program, KEEPALIVE);
        assert_eq!((second.header.kind, second.header.procedure), (kind::MESSAGE, PONG));
    }

    #[test]
    fn the_bytes_of_a_message() {
        let bytes = reply(&Header { procedure: 6, serial: 9, ..header() }, status::ERROR, b"");
        let expected =
            b"\0\0\0\x1c\x0e\xa7\xbe\xef\0\0\0\x01\0\0\0\x06\0\0\0\x01\0\0\0\x09\0\0\0\x01";
        assert_eq!(bytes, expected);
    }

    #[test]
    fn an_incomplete_message_is_no_error() {
        let whole = header().message(b"abcd");
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), Ok(None), "{length}");
        }
    }

    #[test]
    fn an_invalid_length_is_an_error_at_once() {
        let most = u32::try_from(MAX_LENGTH).unwrap();
        for length in [0, 3, 4, 27, most + 1, 33_554_436, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let prefix = length.to_be_bytes();
            assert_eq!(parse(&prefix), Err(InvalidLength(length)), "{length}");
            assert_eq!(parse(&prefix[..3]), Ok(None));
        }
        assert_eq!(parse(&28_u32.to_be_bytes()), Ok(None));
        assert_eq!(parse(&most.to_be_bytes()), Ok(None));
        let longest = header().message(&vec![1; MAX_LENGTH - MIN_LENGTH]);
        assert_eq!(parse(&longest).unwrap().unwrap().length, MAX_LENGTH);
    }
}
