//! Invariants for any input: the fuzzer searches for input that violates them, and the tests check
//! them with the inputs of the corpus.

use vmlockd::virtlockd::call::{Call, CallError, MAX_STRING};
use vmlockd::virtlockd::frame::{self, Header, InvalidLength, MAX_LENGTH, MIN_LENGTH, PREFIX};
use vmlockd::virtlockd::remote_error::{MAX_TEXT, RemoteError};

/// A parsed stream: its messages, and the number of bytes left or the error that ended it.
type Stream = (Vec<(Header, Vec<u8>)>, Result<usize, InvalidLength>);

/// Parses a stream that arrives in `chunks`.
fn split<'c>(chunks: impl Iterator<Item = &'c [u8]>) -> Stream {
    let (mut messages, mut buffer, mut read) = (Vec::new(), Vec::new(), 0);
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        loop {
            let waiting = &buffer[read..];
            match frame::parse(waiting) {
                Ok(Some(frame)) => {
                    assert!((MIN_LENGTH..=MAX_LENGTH).contains(&frame.length));
                    assert_eq!(frame.length, MIN_LENGTH + frame.payload.len());
                    assert_eq!(frame.header.message(frame.payload), waiting[..frame.length]);
                    read += frame.length;
                    messages.push((frame.header, frame.payload.to_vec()));
                }
                Ok(None) => {
                    assert!(waiting.len() < MAX_LENGTH, "an incomplete message is too long");
                    break;
                }
                Err(error) => {
                    let announced = waiting[..PREFIX].try_into().expect("four bytes");
                    assert_eq!(error, InvalidLength(u32::from_be_bytes(announced)));
                    assert!(!(MIN_LENGTH..=MAX_LENGTH).contains(&(error.0 as usize)));
                    return (messages, Err(error));
                }
            }
        }
    }
    (messages, Ok(buffer.len() - read))
}

/// Checks that a stream is split into the same messages whatever its chunks are.
///
/// The input is: the number of chunk sizes (lower half of the first byte) and the number of zeros that
/// are appended to the stream (upper half), so that a small input can be a long message; the sizes; the
/// stream. The chunks have these sizes in turn.
pub(crate) fn frame(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else { return };
    let Some((sizes, stream)) = rest.split_at_checked(usize::from(first & 15)) else { return };
    let zeros = usize::from(first >> 4) * 18_000;
    let unit = if zeros == 0 { 1 } else { 1024 };
    let mut stream = stream.to_vec();
    stream.resize(stream.len() + zeros, 0);

    let mut sizes = sizes.iter().map(|size| (usize::from(*size) + 1) * unit).cycle();
    let mut rest = &stream[..];
    let chunks = std::iter::from_fn(|| {
        let size = sizes.next().unwrap_or(unit).min(rest.len());
        let (chunk, after) = rest.split_at(size);
        rest = after;
        (size > 0).then_some(chunk)
    });
    assert_eq!(split(chunks), split(std::iter::once(&stream[..])));
}

/// Returns the names in a call.
fn strings<'p>(call: &Call<'p>) -> [&'p [u8]; 2] {
    match *call {
        Call::Register { name, .. } => [name, b""],
        Call::Restrict { .. } => [b"", b""],
        Call::NewLockspace { path, .. } | Call::CreateLockspace { path } => [path, b""],
        Call::CreateResource { lockspace, name, .. }
        | Call::DeleteResource { lockspace, name, .. }
        | Call::AcquireResource { lockspace, name, .. }
        | Call::ReleaseResource { lockspace, name, .. } => [lockspace, name],
    }
}

/// Checks that an error reply is printable and bounded, whatever names it contains.
fn check_error(error: &RemoteError) {
    let message = error.message();
    assert!(message.len() < MAX_TEXT + 64);
    assert!(!message.contains(char::is_control), "{message:?}");
    assert!(error.payload().len() < 2 * MAX_TEXT + 256);
}

/// Checks that a payload is decoded, or is an error, as the arguments of each procedure.
pub(crate) fn payload(input: &[u8]) {
    for procedure in -1..=9 {
        let call = match Call::decode(procedure, input) {
            Ok(call) => call,
            Err(CallError::Procedure(unknown)) => {
                assert_eq!(unknown, procedure);
                assert!(!(1..=8).contains(&procedure));
                continue;
            }
            Err(CallError::Payload) => {
                assert!((1..=8).contains(&procedure));
                continue;
            }
        };
        assert_eq!(call.procedure(), procedure);
        for string in strings(&call) {
            assert!(string.len() <= MAX_STRING);
            let (whole, part) = (input.as_ptr_range(), string.as_ptr_range());
            let inside = whole.start <= part.start && part.end <= whole.end;
            assert!(string.is_empty() || inside, "a name from outside of the payload");
        }
        let written = call.payload();
        assert!(written.len() <= input.len());
        assert_eq!(Call::decode(procedure, &written), Ok(call));
        // Calls with the same names get the same error.
        if let Call::AcquireResource { name, .. } | Call::Register { name, .. } = call {
            check_error(&RemoteError::locked(name, None));
        }
    }
}
