//! XDR (RFC 4506), as far as the lock protocol needs it: numbers of four bytes, fixed opaque bytes,
//! strings, and what may be absent. Big-endian, each item padded to a multiple of four bytes.
//!
//! Strings are bytes here: XDR says nothing about their encoding, and file names have none.

/// The input ends too early, or a string in it is longer than is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the payload is cut off, or holds a string that is too long")]
pub struct Malformed;

/// How many bytes an item of so many takes on the wire.
fn padded(length: usize) -> Result<usize, Malformed> {
    length.checked_next_multiple_of(4).ok_or(Malformed)
}

/// Takes items off the front of some bytes. After an error it is of no more use.
#[derive(Debug, Clone)]
pub struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    /// Reads these.
    #[must_use]
    pub fn new(bytes: &'b [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    #[must_use]
    pub fn rest(&self) -> &'b [u8] {
        self.rest
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    /// An unsigned number.
    ///
    /// # Errors
    ///
    /// Where the input ends too early, as with all that follow.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        let (number, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*number))
    }

    /// A signed number.
    ///
    /// # Errors
    ///
    /// As [`Self::u32`].
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.u32().map(u32::cast_signed)
    }

    /// So many bytes, without a length in front.
    ///
    /// # Errors
    ///
    /// As [`Self::u32`].
    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let padded = self.take(padded(N)?)?;
        padded.first_chunk().copied().ok_or(Malformed)
    }

    /// A string of at most `max` bytes. What it is padded with does not matter: virtlockd does not
    /// look at it either, although the standard asks for zeros.
    ///
    /// # Errors
    ///
    /// As [`Self::u32`], and where the string is longer than that.
    pub fn string(&mut self, max: usize) -> Result<&'b [u8], Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        if length > max {
            return Err(Malformed);
        }
        Ok(&self.take(padded(length)?)?[..length])
    }

    /// A string that may be absent.
    ///
    /// # Errors
    ///
    /// As [`Self::string`], and where it is neither said to be there nor to be absent.
    pub fn optional_string(&mut self, max: usize) -> Result<Option<&'b [u8]>, Malformed> {
        match self.u32()? {
            0 => Ok(None),
            1 => self.string(max).map(Some),
            _ => Err(Malformed),
        }
    }
}

/// Writes items behind each other.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Nothing written yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All that was written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// An unsigned number.
    pub fn u32(&mut self, number: u32) -> &mut Self {
        self.bytes.extend(number.to_be_bytes());
        self
    }

    /// A signed number.
    pub fn i32(&mut self, number: i32) -> &mut Self {
        self.u32(number.cast_unsigned())
    }

    /// Bytes whose number the other end knows, padded with zeros.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// A string. One of 4 GiB is written so that nobody can read it.
    pub fn string(&mut self, string: &[u8]) -> &mut Self {
        self.u32(u32::try_from(string.len()).unwrap_or(u32::MAX)).bytes(string)
    }

    /// A string that may be absent.
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
    fn there_and_back() {
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
        assert_eq!(reader.u32(), Err(Malformed));
    }

    #[test]
    fn numbers_are_big_endian_and_padding_is_zero() {
        let mut writer = Writer::new();
        writer.u32(0x0102_0304).string(b"xyzzy");
        assert_eq!(writer.into_bytes(), b"\x01\x02\x03\x04\0\0\0\x05xyzzy\0\0\0");
    }

    #[test]
    fn what_is_cut_off_anywhere_is_refused() {
        let mut writer = Writer::new();
        writer.string(b"abcde");
        let whole = writer.into_bytes();
        for length in 0..whole.len() {
            assert_eq!(Reader::new(&whole[..length]).string(100), Err(Malformed), "{length}");
        }
        for length in 0..8 {
            assert_eq!(Reader::new(&whole[..length]).bytes::<5>(), Err(Malformed), "{length}");
        }
    }

    #[test]
    fn a_length_is_checked_before_it_is_believed() {
        for length in [5, 0x7fff_ffff, 0xffff_fffc, 0xffff_ffff_u32] {
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.extend(b"abcd");
            assert_eq!(Reader::new(&bytes).string(usize::MAX), Err(Malformed), "{length}");
            assert_eq!(Reader::new(&bytes).string(4), Err(Malformed), "{length}");
        }
    }

    #[test]
    fn padding_may_be_anything() {
        let mut reader = Reader::new(b"\0\0\0\x02ab\xff\x01\0\0\0\x09");
        assert_eq!(reader.string(2), Ok(&b"ab"[..]));
        assert_eq!(reader.u32(), Ok(9));
    }

    #[test]
    fn neither_there_nor_absent() {
        assert_eq!(Reader::new(b"\0\0\0\x02\0\0\0\0").optional_string(9), Err(Malformed));
    }
}
