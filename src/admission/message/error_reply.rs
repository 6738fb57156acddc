//! Writes the error message by which a call is refused.
//!
//! It is written by hand, since a refused call must cost as little as possible: no parsed message,
//! no task and no reply object.

/// The serial number of a refusal. Nothing refers to it, since an error is not answered.
const SERIAL: u32 = u32::MAX;

/// Appends an error message to `out`, addressed to the connection `to`, with the error `name`.
pub(in crate::admission) fn write_error(
    out: &mut Vec<u8>,
    to: &str,
    reply_serial: u32,
    name: &str,
    text: &str,
) {
    let start = out.len();
    // Little endian, type error, no reply expected, version 1. The lengths follow below.
    out.extend_from_slice(&[b'l', 3, 1, 1]);
    let body_length = out.len();
    put_u32(out, 0);
    put_u32(out, SERIAL);
    let fields_length = out.len();
    put_u32(out, 0);
    let fields = out.len();
    put_text(out, start, 4, b's', name);
    put_field(out, start, 5, b'u');
    put_u32(out, reply_serial);
    put_text(out, start, 6, b's', to);
    put_field(out, start, 8, b'g');
    out.extend_from_slice(&[1, b's', 0]);
    set_u32(out, fields_length, fields);
    pad(out, start, 8);
    let body = out.len();
    put_string(out, text);
    set_u32(out, body_length, body);
}

fn put_field(out: &mut Vec<u8>, start: usize, code: u8, signature: u8) {
    pad(out, start, 8);
    out.extend_from_slice(&[code, 1, signature, 0]);
}

fn put_text(out: &mut Vec<u8>, start: usize, code: u8, signature: u8, text: &str) {
    put_field(out, start, code, signature);
    put_string(out, text);
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    put_u32(out, u32::try_from(text.len()).unwrap_or_default());
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// Writes the number of bytes from `from` to the end of `out` at offset `place`.
fn set_u32(out: &mut [u8], place: usize, from: usize) {
    let length = u32::try_from(out.len() - from).unwrap_or_default();
    if let Some(bytes) = out.get_mut(place..place + 4) {
        bytes.copy_from_slice(&length.to_le_bytes());
    }
}

fn pad(out: &mut Vec<u8>, start: usize, to: usize) {
    let length = (out.len() - start).next_multiple_of(to);
    out.resize(start + length, 0);
}

#[cfg(test)]
mod tests {
    use zbus::connection::socket::ReadHalf as _;

    use super::*;
    use crate::admission::message::raw::MemorySocket;

    const NAME: &str = "org.freedesktop.DBus.Error.AccessDenied";

    #[tokio::test]
    async fn zbus_parses_the_error() {
        for (to, text) in
            [(":1.7", "too many calls: the limit is 3"), (":1.12345", ""), (":1.1", "äöü")]
        {
            let mut bytes = b"123".to_vec();
            write_error(&mut bytes, to, 77, NAME, text);
            let mut message = bytes.split_off(3);
            let message =
                MemorySocket.receive_message(1, &mut message, &mut Vec::new()).await.unwrap();
            let header = message.header();
            assert_eq!(header.error_name().unwrap().as_str(), NAME);
            assert_eq!(header.destination().unwrap().as_str(), to);
            assert_eq!(header.reply_serial().unwrap().get(), 77);
            assert_eq!(message.body().deserialize::<&str>().unwrap(), text);
        }
    }
}
