//! The byte order of a message, which its first byte tells.

use super::head::Malformed;

/// The byte order of a message.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    /// The least significant byte first.
    Little,
    /// The most significant byte first.
    Big,
}

impl Order {
    /// Reads the first byte of a message.
    ///
    /// # Errors
    ///
    /// [`Malformed`].
    pub(super) fn of(byte: u8) -> Result<Self, Malformed> {
        match byte {
            b'l' => Ok(Self::Little),
            b'B' => Ok(Self::Big),
            _ => Err(Malformed),
        }
    }

    /// A number in this order.
    pub(super) fn bytes(self, number: u32) -> [u8; 4] {
        match self {
            Self::Little => number.to_le_bytes(),
            Self::Big => number.to_be_bytes(),
        }
    }

    /// Reads the number at this offset.
    ///
    /// # Errors
    ///
    /// [`Malformed`] where there are too few bytes.
    pub(super) fn u32_at(self, bytes: &[u8], at: usize) -> Result<u32, Malformed> {
        let number = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(Malformed)?;
        Ok(match self {
            Self::Little => u32::from_le_bytes(*number),
            Self::Big => u32::from_be_bytes(*number),
        })
    }
}
