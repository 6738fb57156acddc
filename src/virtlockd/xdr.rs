//! XDR (RFC 4506), as far as the lock protocol uses it: 32-bit integers, fixed-length opaque data,
//! strings, and optional data. Big-endian; each item is padded to a multiple of four bytes.
//!
//! Strings are bytes: XDR does not define an encoding of strings, and file names have none.

/// Input that is truncated, or has a string that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the payload is cut off, or holds a string that is too long")]
pub struct DecodeError;

/// Returns the length of an item of `length` bytes with its padding.
fn padded(length: usize) -> Result<usize, DecodeError> {
    length.checked_next_multiple_of(4).ok_or(DecodeError)
}

/// A decoder. After an error its position is unspecified.
#[derive(Debug, Clone)]
pub struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    /// Returns a decoder of `bytes`.
    #[must_use]
    pub fn new(bytes: &'b [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Returns the bytes that have not been decoded.
    #[must_use]
    pub fn rest(&self) -> &'b [u8] {
        self.rest
    }

    fn opaque(&mut self, length: usize) -> Result<&'b [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DecodeError)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Decodes an unsigned integer.
    ///
    /// # Errors
    ///
    /// Truncated input.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        let (number, rest) = self.rest.split_first_chunk().ok_or(DecodeError)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*number))
    }

    /// Decodes a signed integer.
    ///
    /// # Errors
    ///
    /// Truncated input.
    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        self.u32().map(u32::cast_signed)
    }

    /// Decodes fixed-length opaque data.
    ///
    /// # Errors
    ///
    /// Truncated input.
    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let padded = self.opaque(padded(N)?)?;
        padded.first_chunk().copied().ok_or(DecodeError)
    }

    /// Decodes a string of at most `max` bytes. The padding may have any value, as in virtlockd, although
    /// the RFC demands zeros.
    ///
    /// # Errors
    ///
    /// Truncated input, or a longer string.
    pub fn string(&mut self, max: usize) -> Result<&'b [u8], DecodeError> {
        let length = usize::try_from(self.u32()?).map_err(|_| DecodeError)?;
        if length > max {
            return Err(DecodeError);
        }
        Ok(&self.opaque(padded(length)?)?[..length])
    }

    /// Decodes an optional string of at most `max` bytes.
    ///
    /// # Errors
    ///
    /// Truncated input, a longer string, or a discriminant other than 0 and 1.
    pub fn optional_string(&mut self, max: usize) -> Result<Option<&'b [u8]>, DecodeError> {
        match self.u32()? {
            0 => Ok(None),
            1 => self.string(max).map(Some),
            _ => Err(DecodeError),
        }
    }
}

/// An encoder.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Returns an encoder without any items.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the encoded items.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Encodes an unsigned integer.
    pub fn u32(&mut self, number: u32) -> &mut Self {
        self.bytes.extend(number.to_be_bytes());
        self
    }

    /// Encodes a signed integer.
    pub fn i32(&mut self, number: i32) -> &mut Self {
        self.u32(number.cast_unsigned())
    }

    /// Encodes fixed-length opaque data, padded with zeros.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Encodes a string. One of 4 GiB or more gets the length `u32::MAX`, which every reader rejects.
    pub fn string(&mut self, string: &[u8]) -> &mut Self {
        self.u32(u32::try_from(string.len()).unwrap_or(u32::MAX)).bytes(string)
    }

    /// Encodes an optional string.
    pub fn optional_string(&mut self, string: Option<&[u8]>) -> &mut Self {
        match string {
            Some(string) => self.u32(1).string(string),
            None => self.u32(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_round_trip() {
        let mut writer = Writer::new();
        writer.u32(7).i32(-2).bytes(b"abcde").string(b"/srv/a\xff").string(b"");
        writer.optional_string(None).optional_string(Some(b"four"));
        let bytes = writer.into_bytes();
        assert_eq!(bytes.len() % 4, 0);
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u32(), Ok(7));
        assert_eq!(reader.i32(), Ok(-2));
        assert_eq!(reader.bytes(), Ok(*b"abcde"));
        assert_eq!(reader.string(7), Ok(&b"/srv/a\xff"[..]));
        assert_eq!(reader.string(0), Ok(&b""[..]));
        assert_eq!(reader.optional_string(9), Ok(None));
        assert_eq!(reader.optional_string(9), Ok(Some(&b"four"[..])));
        assert_eq!(reader.rest(), b"");
        assert_eq!(reader.u32(), Err(DecodeError));
    }

    #[test]
    fn numbers_are_big_endian_and_padding_is_zero() {
        let mut writer = Writer::new();
        writer.u32(0x0102_0304).string(b"xyzzy");
        assert_eq!(writer.into_bytes(), b"\x01\x02\x03\x04\0\0\0\x05xyzzy\0\0\0");
    }

    #[test]
    fn truncated_input_is_an_error() {
        let mut writer = Writer::new();
        writer.string(b"abcde");
        let whole = writer.into_bytes();
        for length in 0..whole.len() {
            assert_eq!(Reader::new(&whole[..length]).string(100), Err(DecodeError), "{length}");
        }
        for length in 0..8 {
            assert_eq!(Reader::new(&whole[..length]).bytes::<5>(), Err(DecodeError), "{length}");
        }
    }

    #[test]
    fn a_length_is_checked_against_the_input() {
        for length in [5, 0x7fff_ffff, 0xffff_fffc, 0xffff_ffff_u32] {
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.extend(b"abcd");
            assert_eq!(Reader::new(&bytes).string(usize::MAX), Err(DecodeError), "{length}");
            assert_eq!(Reader::new(&bytes).string(4), Err(DecodeError), "{length}");
        }
    }

    #[test]
    fn padding_may_have_any_value() {
        let mut reader = Reader::new(b"\0\0\0\x02ab\xff\x01\0\0\0\x09");
        assert_eq!(reader.string(2), Ok(&b"ab"[..]));
        assert_eq!(reader.u32(), Ok(9));
    }

    #[test]
    fn an_invalid_discriminant_is_an_error() {
        assert_eq!(Reader::new(b"\0\0\0\x02\0\0\0\0").optional_string(9), Err(DecodeError));
    }
}
