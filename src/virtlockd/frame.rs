//! A message on the wire: its length, its header, its payload.
//!
//! Every message begins with its length, those four bytes included; the header follows, then the
//! payload, which goes to the end of the message. libvirt's `src/rpc/virnetprotocol.x` describes it.

use super::xdr::{Malformed, Reader, Writer};

/// The lock protocol.
pub const PROGRAM: u32 = 0x0EA7_BEEF;
/// The lock protocol's version.
pub const VERSION: u32 = 1;
/// The protocol by which either end may ask whether the other still lives.
pub const KEEPALIVE: u32 = 0x6b65_6570;
/// The keepalive protocol's version.
pub const KEEPALIVE_VERSION: u32 = 1;
/// The keepalive protocol's question.
pub const PING: i32 = 1;
/// The keepalive protocol's answer.
pub const PONG: i32 = 2;

/// How long the length in front is.
pub const PREFIX: usize = 4;
/// How long a header is.
pub const HEADER: usize = 24;
/// How long a message is at least.
pub const SHORTEST: usize = PREFIX + HEADER;
/// How long a message may be. What the protocol has to say fits into it (two strings of 65,536
/// bytes at most). libvirt itself allows 33,554,436 bytes; but whoever announces more than this is
/// refused at once, so that no connection holds more memory than this.
pub const LONGEST: usize = 256 * 1024;

/// What kind of message it is.
pub mod kind {
    /// Asks for something.
    pub const CALL: i32 = 0;
    /// Answers a call.
    pub const REPLY: i32 = 1;
    /// Wants no answer.
    pub const MESSAGE: i32 = 2;
    /// Part of a stream; the lock protocol has none.
    pub const STREAM: i32 = 3;
    /// A call whose payload begins with the number of descriptors that come with it.
    pub const CALL_WITH_FDS: i32 = 4;
    /// The same for a reply.
    pub const REPLY_WITH_FDS: i32 = 5;
}

/// How it went.
pub mod status {
    /// Well. Calls have this too.
    pub const OK: i32 = 0;
    /// Not well: the payload is a [`Fault`](super::super::fault::Fault).
    pub const ERROR: i32 = 1;
}

/// What stands in front of every payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which protocol: [`PROGRAM`] or [`KEEPALIVE`].
    pub program: u32,
    /// Which version of it.
    pub version: u32,
    /// Which of its procedures.
    pub procedure: i32,
    /// A constant of [`kind`], from a well-behaved client.
    pub kind: i32,
    /// A call's number, which its reply repeats.
    pub serial: u32,
    /// A constant of [`status`], from a well-behaved client.
    pub status: i32,
}

impl Header {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            program: reader.u32()?,
            version: reader.u32()?,
            procedure: reader.i32()?,
            kind: reader.i32()?,
            serial: reader.u32()?,
            status: reader.i32()?,
        })
    }

    /// A whole message with this header.
    ///
    /// One that is longer than a `u32` can say is written so that every reader refuses it.
    #[must_use]
    pub fn message(&self, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(SHORTEST + payload.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(SHORTEST + payload.len());
        bytes.extend(length.to_be_bytes());
        let mut header = Writer::new();
        header.u32(self.program).u32(self.version).i32(self.procedure);
        header.i32(self.kind).u32(self.serial).i32(self.status);
        bytes.extend(header.into_bytes());
        bytes.extend(payload);
        bytes
    }
}

/// A message that was received whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'b> {
    /// Its header.
    pub header: Header,
    /// What follows the header.
    pub payload: &'b [u8],
    /// How many bytes of the input it is.
    pub length: usize,
}

/// The input can't be split into messages any more: its connection is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {0} bytes is announced, {SHORTEST} to {LONGEST} are allowed")]
pub struct Broken(pub u32);

/// The first message of what was received; `None` while it is not whole.
///
/// # Errors
///
/// As soon as its length is known not to be allowed.
pub fn next(buffer: &[u8]) -> Result<Option<Frame<'_>>, Broken> {
    let Some(prefix) = buffer.first_chunk::<PREFIX>() else { return Ok(None) };
    let announced = u32::from_be_bytes(*prefix);
    let length = usize::try_from(announced).map_err(|_| Broken(announced))?;
    if !(SHORTEST..=LONGEST).contains(&length) {
        return Err(Broken(announced));
    }
    let Some(message) = buffer.get(PREFIX..length) else { return Ok(None) };
    let mut reader = Reader::new(message);
    let header = Header::read(&mut reader).map_err(|Malformed| Broken(announced))?;
    Ok(Some(Frame { header, payload: reader.rest(), length }))
}

/// The answer to a call.
#[must_use]
pub fn reply(to: &Header, status: i32, payload: &[u8]) -> Vec<u8> {
    Header { kind: kind::REPLY, status, ..*to }.message(payload)
}

/// The answer to a ping, which is no reply: a message like the ping itself.
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
    fn there_and_back() {
        let payload = b"payload".repeat(3);
        let mut bytes = header().message(&payload);
        let length = bytes.len();
        bytes.extend(pong());
        let first = next(&bytes).unwrap().unwrap();
        assert_eq!(first, Frame { header: header(), payload: &payload, length });
        let second = next(&bytes[length..]).unwrap().unwrap();
        assert_eq!((second.payload, second.length), (&b""[..], SHORTEST));
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
    fn a_part_is_waited_for() {
        let whole = header().message(b"abcd");
        for length in 0..whole.len() {
            assert_eq!(next(&whole[..length]), Ok(None), "{length}");
        }
    }

    #[test]
    fn an_impossible_length_breaks_at_once() {
        let most = u32::try_from(LONGEST).unwrap();
        for length in [0, 3, 4, 27, most + 1, 33_554_436, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let prefix = length.to_be_bytes();
            assert_eq!(next(&prefix), Err(Broken(length)), "{length}");
            assert_eq!(next(&prefix[..3]), Ok(None));
        }
        assert_eq!(next(&28_u32.to_be_bytes()), Ok(None));
        assert_eq!(next(&most.to_be_bytes()), Ok(None));
        let longest = header().message(&vec![1; LONGEST - SHORTEST]);
        assert_eq!(next(&longest).unwrap().unwrap().length, LONGEST);
    }
}
