//! Invariants for any input: the fuzzer searches for input that violates them, and the tests check
//! them with the inputs of the corpus.

use vmlockd::virtlockd::call::{Call, STRING, Undecodable};
use vmlockd::virtlockd::fault::{self, Fault};
use vmlockd::virtlockd::frame::{self, Broken, Header, LONGEST, PREFIX, SHORTEST};

/// The contents of a stream: its messages, and either the framing error or the number of bytes
/// left.
type Stream = (Vec<(Header, Vec<u8>)>, Result<usize, Broken>);

/// Splits a stream that arrives in `chunks` into messages.
fn split<'c>(chunks: impl Iterator<Item = &'c [u8]>) -> Stream {
    let (mut messages, mut buffer, mut read) = (Vec::new(), Vec::new(), 0);
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        loop {
            let waiting = &buffer[read..];
            match frame::next(waiting) {
                Ok(Some(frame)) => {
                    assert!((SHORTEST..=LONGEST).contains(&frame.length));
                    assert_eq!(frame.length, SHORTEST + frame.payload.len());
                    assert_eq!(frame.header.message(frame.payload), waiting[..frame.length]);
                    read += frame.length;
                    messages.push((frame.header, frame.payload.to_vec()));
                }
                Ok(None) => {
                    assert!(waiting.len() < LONGEST, "more is waited for than there may be");
                    break;
                }
                Err(broken) => {
                    let announced = waiting[..PREFIX].try_into().expect("four bytes");
                    assert_eq!(broken, Broken(u32::from_be_bytes(announced)));
                    assert!(!(SHORTEST..=LONGEST).contains(&(broken.0 as usize)));
                    return (messages, Err(broken));
                }
            }
        }
    }
    (messages, Ok(buffer.len() - read))
}

/// The input: how many chunk sizes follow (lower half of the first byte), and by how many zeros the
/// stream is made longer (upper half), so that a small input can be a long message; those sizes;
/// the stream. The chunks have these sizes in turns.
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

/// The names in a call.
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

/// A refusal is readable and small, whatever is in it.
fn refused(refusal: &Fault) {
    let message = refusal.message();
    assert!(message.len() < fault::LONGEST + 64);
    assert!(!message.contains(char::is_control), "{message:?}");
    assert!(refusal.payload().len() < 2 * fault::LONGEST + 256);
}

/// The input: a payload, which is taken for that of each procedure.
pub(crate) fn payload(input: &[u8]) {
    for procedure in -1..=9 {
        let call = match Call::decode(procedure, input) {
            Ok(call) => call,
            Err(Undecodable::Procedure(unknown)) => {
                assert_eq!(unknown, procedure);
                assert!(!(1..=8).contains(&procedure));
                continue;
            }
            Err(Undecodable::Payload) => {
                assert!((1..=8).contains(&procedure));
                continue;
            }
        };
        assert_eq!(call.procedure(), procedure);
        for string in strings(&call) {
            assert!(string.len() <= STRING);
            let (whole, part) = (input.as_ptr_range(), string.as_ptr_range());
            let inside = whole.start <= part.start && part.end <= whole.end;
            assert!(string.is_empty() || inside, "a name from elsewhere");
        }
        let written = call.payload();
        assert!(written.len() <= input.len());
        assert_eq!(Call::decode(procedure, &written), Ok(call));
        // Calls with the same names get the same refusal.
        if let Call::AcquireResource { name, .. } | Call::Register { name, .. } = call {
            refused(&Fault::locked(name, None));
        }
    }
}
