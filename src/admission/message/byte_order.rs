//! The byte order of a message, which its first byte specifies.

/// A message that violates the D-Bus specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admission) struct MalformedMessage;

/// The byte order of a message.
#[derive(Debug, Clone, Copy)]
pub(in crate::admission) enum ByteOrder {
    /// The least significant byte comes first.
    Little,
    /// The most significant byte comes first.
    Big,
}

impl ByteOrder {
    /// Parses the first byte of a message.
    ///
    /// # Errors
    ///
    /// [`MalformedMessage`] if the byte specifies no byte order.
    pub(in crate::admission) fn from_marker(marker: u8) -> Result<Self, MalformedMessage> {
        match marker {
            b'l' => Ok(Self::Little),
            b'B' => Ok(Self::Big),
            _ => Err(MalformedMessage),
        }
    }

    /// Converts a number to bytes in this order.
    pub(in crate::admission) fn to_bytes(self, number: u32) -> [u8; 4] {
        match self {
            Self::Little => number.to_le_bytes(),
            Self::Big => number.to_be_bytes(),
        }
    }

    /// Reads the number at offset `at`.
    ///
    /// # Errors
    ///
    /// [`MalformedMessage`] if there are too few bytes.
    pub(in crate::admission) fn read_u32(
        self,
        bytes: &[u8],
        at: usize,
    ) -> Result<u32, MalformedMessage> {
        let number = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(MalformedMessage)?;
        Ok(match self {
            Self::Little => u32::from_le_bytes(*number),
            Self::Big => u32::from_be_bytes(*number),
        })
    }
}
