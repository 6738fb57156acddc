//! The byte order of a message, which its first byte tells.

/// A message that violates the D-Bus specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admission) struct MalformedMessage;

/// The byte order of a message.
#[derive(Debug, Clone, Copy)]
pub(in crate::admission) enum ByteOrder {
    /// The least significant byte first.
    Little,
    /// The most significant byte first.
    Big,
}

impl ByteOrder {
    /// Reads the first byte of a message.
    ///
    /// # Errors
    ///
    /// [`MalformedMessage`].
    pub(in crate::admission) fn from_marker(marker: u8) -> Result<Self, MalformedMessage> {
        match marker {
            b'l' => Ok(Self::Little),
            b'B' => Ok(Self::Big),
            _ => Err(MalformedMessage),
        }
    }

    /// A number in this order.
    pub(in crate::admission) fn to_bytes(self, number: u32) -> [u8; 4] {
        match self {
            Self::Little => number.to_le_bytes(),
            Self::Big => number.to_be_bytes(),
        }
    }

    /// Reads the number at this offset.
    ///
    /// # Errors
    ///
    /// [`MalformedMessage`] where there are too few bytes.
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
