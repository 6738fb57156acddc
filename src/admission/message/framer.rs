//! Splits a stream of bytes into messages.
//!
//! The framer has one small buffer. The buffer grows to the length of a longer message while that
//! message is read. A message over the maximum length is skipped, and never held.

use super::byte_order::MalformedMessage;
use super::header::{FIXED_LEN, Lengths};

/// The length of the buffer. Most messages are far shorter, so that one read receives many of those
/// that arrive in quick succession. One read brings no more than this to classify.
const BUFFER_LEN: usize = 16 << 10;
/// The maximum length of a message that is read, in bytes. 64 resources with names of 4,095 bytes
/// fit in.
pub(in crate::admission) const MAX_MESSAGE_LEN: usize = 1 << 20;

/// The next item of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::admission) enum Frame<'b> {
    /// A complete message, and the length of its header.
    Message(&'b [u8], usize),
    /// The header of a message over [`MAX_MESSAGE_LEN`]. The rest of the message is skipped.
    TooLong(&'b [u8]),
    /// No complete message: more bytes must be read.
    Incomplete,
}

/// A buffer of bytes that were read and are not consumed yet.
#[derive(Debug)]
pub(in crate::admission) struct Framer {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The number of bytes still to be read of a message that is skipped.
    bytes_to_skip: usize,
}

impl Framer {
    /// Creates an empty buffer.
    pub(in crate::admission) fn new() -> Self {
        Self { buffer: vec![0; BUFFER_LEN], start: 0, end: 0, bytes_to_skip: 0 }
    }

    /// Returns the buffer for the next read, which is never empty.
    pub(in crate::admission) fn read_buffer(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == 0 && self.buffer.len() > BUFFER_LEN {
            self.buffer.truncate(BUFFER_LEN);
            self.buffer.shrink_to_fit();
        }
        if self.end == self.buffer.len() {
            self.buffer.resize(self.end + BUFFER_LEN, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// Marks `count` bytes of the [`read_buffer`](Self::read_buffer) as read.
    pub(in crate::admission) fn advance(&mut self, count: usize) {
        self.end = self.buffer.len().min(self.end + count);
    }

    /// Appends bytes that were read elsewhere.
    pub(in crate::admission) fn append(&mut self, bytes: &[u8]) {
        self.buffer.truncate(self.end);
        self.buffer.extend_from_slice(bytes);
        self.end = self.buffer.len();
        // The read buffer is never smaller than at the start: otherwise each read would bring one
        // message at most.
        self.buffer.resize(self.end.max(BUFFER_LEN), 0);
    }

    /// Returns whether the buffer has no unconsumed byte.
    pub(in crate::admission) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Finds a message that begins within the first `count` bytes of the read buffer, which are not
    /// marked as read yet: the first one whose header is `wanted`, or is not complete. Returns the
    /// offset in the read buffer at which the message begins, and its header if that is complete.
    pub(in crate::admission) fn peek_header(
        &self,
        count: usize,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Option<(usize, Option<&[u8]>)> {
        let buffered = self.buffer.get(..self.end + count)?;
        let mut at = self.start + self.bytes_to_skip;
        while at < buffered.len() {
            let fixed = buffered[at..].first_chunk::<FIXED_LEN>();
            let lengths = fixed.map(Lengths::read).transpose().ok()?;
            let header = lengths.and_then(|lengths| buffered.get(at..at + lengths.header));
            let found = header.is_none_or(&wanted);
            if at >= self.end && found {
                return Some((at - self.end, header));
            }
            at += lengths?.message;
        }
        None
    }

    /// Consumes the next message.
    ///
    /// # Errors
    ///
    /// [`MalformedMessage`]: the end of the message is unknown, and so is everything after it.
    pub(in crate::admission) fn next_frame(&mut self) -> Result<Frame<'_>, MalformedMessage> {
        let skipped = self.bytes_to_skip.min(self.end - self.start);
        self.start += skipped;
        self.bytes_to_skip -= skipped;
        let buffered = &self.buffer[self.start..self.end];
        let Some(fixed) = buffered.first_chunk::<FIXED_LEN>() else { return Ok(Frame::Incomplete) };
        let Lengths { header, message } = Lengths::read(fixed)?;
        if message <= MAX_MESSAGE_LEN {
            return Ok(self.complete(header, message));
        }
        // A message whose header alone is too long cannot be answered.
        let header = if header <= MAX_MESSAGE_LEN { header } else { FIXED_LEN };
        if buffered.len() < header {
            self.reserve(header);
            return Ok(Frame::Incomplete);
        }
        let at = self.start;
        self.start += header;
        self.bytes_to_skip = message - header;
        Ok(Frame::TooLong(&self.buffer[at..at + header]))
    }

    fn complete(&mut self, header: usize, message: usize) -> Frame<'_> {
        if self.end - self.start < message {
            self.reserve(message);
            return Frame::Incomplete;
        }
        let at = self.start;
        self.start += message;
        Frame::Message(&self.buffer[at..at + message], header)
    }

    /// Grows the buffer so that a message of `length` bytes fits in.
    fn reserve(&mut self, length: usize) {
        let needed = self.start + length;
        if needed > self.buffer.len() && length > BUFFER_LEN {
            self.buffer.resize(needed, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: usize) -> Vec<u8> {
        let mut bytes = vec![b'l', 1, 0, 1];
        bytes.extend_from_slice(&u32::try_from(body).unwrap().to_le_bytes());
        bytes.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        bytes.resize(16 + body, 7);
        bytes
    }

    /// Passes a stream in pieces. Returns the length of each message, or `None` for a message that
    /// is too long.
    fn pass(stream: &[u8], piece: usize) -> (Framer, Vec<Option<usize>>) {
        let (mut framer, mut found) = (Framer::new(), Vec::new());
        for bytes in stream.chunks(piece) {
            let mut bytes = bytes;
            while !bytes.is_empty() {
                let room = framer.read_buffer();
                let count = room.len().min(bytes.len());
                room[..count].copy_from_slice(&bytes[..count]);
                framer.advance(count);
                bytes = &bytes[count..];
                loop {
                    match framer.next_frame().unwrap() {
                        Frame::Message(bytes, header) => {
                            assert_eq!(header, 16);
                            found.push(Some(bytes.len()));
                        }
                        Frame::TooLong(header) => {
                            assert_eq!(header.len(), 16);
                            found.push(None);
                        }
                        Frame::Incomplete => break,
                    }
                }
            }
        }
        (framer, found)
    }

    #[test]
    fn messages_of_all_lengths_are_found_in_pieces_of_all_lengths() {
        let stream: Vec<u8> = [
            0,
            8,
            BUFFER_LEN,
            0,
            MAX_MESSAGE_LEN - 16,
            3 * MAX_MESSAGE_LEN,
            24,
            BUFFER_LEN - 16,
            0,
        ]
        .into_iter()
        .flat_map(message)
        .collect();
        let lengths = [16, 24, BUFFER_LEN + 16, 16, MAX_MESSAGE_LEN, 0, 40, BUFFER_LEN, 16];
        let expected = lengths.map(|length| (length > 0).then_some(length));
        for piece in [1000, 4096, BUFFER_LEN, 1 << 20, stream.len()] {
            let (mut framer, found) = pass(&stream, piece);
            assert_eq!(found, expected, "in pieces of {piece}");
            assert_eq!(framer.read_buffer().len(), BUFFER_LEN, "the buffer is small again");
        }
    }

    #[test]
    fn a_message_is_found_before_it_is_marked_as_read() {
        let (first, second) = (message(100), message(20));
        let mut framer = Framer::new();
        framer.append(&first[..50]);
        assert_eq!(framer.next_frame().unwrap(), Frame::Incomplete);
        assert_eq!(
            framer.read_buffer().len(),
            BUFFER_LEN - 50,
            "the room is as large as without it"
        );
        let rest = [&first[50..], &second, &second].concat();
        framer.read_buffer()[..rest.len()].copy_from_slice(&rest);
        let find = |count: usize| {
            let found = framer.peek_header(count, |header| header.len() == 16);
            found.map(|(at, header)| (at, header.map(<[u8]>::len)))
        };
        // The rest of a message, and as much of the next one as was read.
        assert_eq!(find(first.len() - 50), None);
        assert_eq!(find(first.len() - 49), Some((first.len() - 50, None)));
        assert_eq!(find(rest.len()), Some((first.len() - 50, Some(16))));
        assert_eq!(framer.peek_header(rest.len(), |_| false), None);
        framer.advance(first.len() - 50);
        assert!(matches!(framer.next_frame(), Ok(Frame::Message(bytes, 16)) if bytes == first));
        assert!(framer.is_empty());
        let found = framer.peek_header(second.len(), |_| true).unwrap();
        assert_eq!(found, (0, second.get(..16)));
    }

    #[test]
    fn a_message_that_is_too_long_is_never_buffered() {
        let (framer, found) = pass(&message(64 * MAX_MESSAGE_LEN), 1 << 16);
        assert_eq!(found, [None]);
        assert!(framer.buffer.capacity() < MAX_MESSAGE_LEN);
    }
}
