//! The uid of this process, as a message bus sees it.
//!
//! zbus authenticates (mechanism `EXTERNAL`) with the effective uid as this process sees it. In a
//! user namespace the bus sees another uid and rejects the connection. A client that sends no uid,
//! such as sd-bus, is authenticated as the uid that the kernel reports for the connection (D-Bus
//! specification, "EXTERNAL"). zbus cannot do this, so a short connection queries the uid, with
//! which zbus then authenticates.

use std::io::{self, Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use zbus::Message;
use zbus::address::transport::{Transport, UnixSocket};

/// The timeout of each reply of the bus.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum length of a line of the authentication protocol, and of a message.
const LENGTH_MAX: usize = 16 * 1024;

/// Queries the uid of this process from the bus at a Unix socket. Blocks.
///
/// # Errors
///
/// Returns an error if the bus cannot be reached, or its replies violate the D-Bus specification.
pub(super) fn query(transport: &Transport) -> io::Result<u32> {
    let mut stream = connect(transport)?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
    stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
    stream.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\n")?;
    for expected in ["DATA", "OK"] {
        let line = read_line(&mut stream)?;
        if line.split(' ').next() != Some(expected) {
            return Err(invalid("the bus does not accept the connection"));
        }
    }
    stream.write_all(b"BEGIN\r\n")?;
    let name = call(&mut stream, &bus_call("Hello", &())?)?;
    let name = name.string().ok_or_else(|| invalid("the bus gives no name"))?;
    let uid = call(&mut stream, &bus_call("GetConnectionUnixUser", &name)?)?;
    uid.number(0).ok_or_else(|| invalid("the bus gives no uid"))
}

fn connect(transport: &Transport) -> io::Result<UnixStream> {
    match transport {
        Transport::Unix(unix) => match unix.path() {
            UnixSocket::File(path) => UnixStream::connect(path),
            UnixSocket::Abstract(name) => {
                let address = SocketAddr::from_abstract_name(name.as_bytes())?;
                UnixStream::connect_addr(&address)
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        },
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn bus_call<B>(member: &'static str, body: &B) -> io::Result<Message>
where
    B: serde::Serialize + zbus::DynamicType,
{
    const BUS: &str = "org.freedesktop.DBus";
    let call = Message::method_call("/org/freedesktop/DBus", member);
    call.destination(BUS).interface(BUS).build(body).map_err(io::Error::other)
}

/// Calls a method and returns the body of its reply. No other method is called meanwhile, so the
/// next method return is the reply.
fn call(stream: &mut UnixStream, message: &Message) -> io::Result<Body> {
    stream.write_all(message.data())?;
    loop {
        match read_message(stream)? {
            (METHOD_RETURN, body) => return Ok(body),
            (ERROR, _) => return Err(invalid("the bus refuses a call")),
            _ => {}
        }
    }
}

/// Reads a line byte by byte, since the bytes after it belong to the next protocol.
fn read_line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
        if line.len() > LENGTH_MAX {
            return Err(invalid("the bus answers with a line that does not end"));
        }
    }
    line.truncate(line.len() - 2);
    String::from_utf8(line).map_err(|_| invalid("the bus answers with bytes that are not text"))
}

/// Message types of the D-Bus specification.
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
/// The length of the fixed part of a message header.
const FIXED_LEN: usize = 16;

/// The body of a message, and its byte order.
#[derive(Debug)]
struct Body {
    big_endian: bool,
    bytes: Vec<u8>,
}

impl Body {
    /// Returns the number at an offset.
    fn number(&self, offset: usize) -> Option<u32> {
        number(&self.bytes, offset, self.big_endian)
    }

    /// Returns the string at the start of the body.
    fn string(&self) -> Option<String> {
        let length = usize::try_from(self.number(0)?).ok()?;
        let bytes = self.bytes.get(4..)?.get(..length)?;
        String::from_utf8(bytes.to_vec()).ok()
    }
}

fn number(bytes: &[u8], offset: usize, big_endian: bool) -> Option<u32> {
    let bytes: [u8; 4] = bytes.get(offset..)?.get(..4)?.try_into().ok()?;
    Some(if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
}

/// Reads one message. Returns its type and its body.
fn read_message(stream: &mut impl io::Read) -> io::Result<(u8, Body)> {
    let mut fixed = [0; FIXED_LEN];
    stream.read_exact(&mut fixed)?;
    let big_endian = fixed[0] == b'B';
    let length = |offset| {
        let length = number(&fixed, offset, big_endian)?;
        usize::try_from(length).ok().filter(|length| *length <= LENGTH_MAX)
    };
    let (Some(body), Some(fields)) = (length(4), length(12)) else {
        return Err(invalid("the bus sends a message that is too long"));
    };
    // The header fields end at a multiple of 8 bytes.
    let fields = fields.next_multiple_of(8);
    let mut bytes = vec![0; fields + body];
    stream.read_exact(&mut bytes)?;
    Ok((fixed[1], Body { big_endian, bytes: bytes.split_off(fields) }))
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_in_both_byte_orders() {
        let little =
            [b'l', 2, 0, 1, 4, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 9, 9, 9, 0, 0, 0, 0, 0, 7, 1, 0, 0];
        let (kind, body) = read_message(&mut &little[..]).unwrap();
        assert_eq!((kind, body.number(0)), (METHOD_RETURN, Some(263)));
        let big = [b'B', 3, 0, 1, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, b'a', b'b'];
        let (kind, body) = read_message(&mut &big[..]).unwrap();
        assert_eq!((kind, body.string().as_deref()), (ERROR, Some("ab")));
        assert_eq!(body.number(3), None);
    }

    #[test]
    fn a_message_that_is_too_long_or_cut_off_is_an_error() {
        let mut long = [0; 16];
        long[..8].copy_from_slice(&[b'l', 2, 0, 1, 0xff, 0xff, 0xff, 0x7f]);
        assert_eq!(read_message(&mut &long[..]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let cut = [b'l', 2, 0, 1, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7];
        assert_eq!(read_message(&mut &cut[..]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
