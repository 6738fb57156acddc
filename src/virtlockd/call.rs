//! Calls: the eight procedures of the lock protocol, with their arguments.
//!
//! Arguments are decoded but not checked: unknown flags, an empty path or a name that contains NUL are
//! no errors here. Bytes after the arguments are ignored, as virtlockd ignores them.

use super::xdr::{DecodeError, Reader, Writer};

/// The maximum length of a string of the protocol, in bytes.
pub const MAX_STRING: usize = 65_536;

/// Flags of [`Call::AcquireResource`].
pub mod acquire {
    /// A shared lock.
    pub const SHARED: u32 = 1;
    /// The resource is created if it does not exist.
    pub const CREATE: u32 = 2;
}

/// A call, with arguments that borrow from the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call<'p> {
    /// Registers the connection for a VM.
    Register {
        /// The UUID of the VM.
        uuid: [u8; 16],
        /// The name of the VM.
        name: &'p [u8],
        /// libvirt's id of the VM; never 0.
        id: u32,
        /// The process id of the VM.
        pid: u32,
        /// No flags are defined.
        flags: u32,
    },
    /// Forbids further calls on this connection.
    Restrict {
        /// No flags are defined.
        flags: u32,
    },
    /// Creates a lockspace, which must not exist.
    NewLockspace {
        /// The directory of the lockspace.
        path: &'p [u8],
        /// No flags are defined.
        flags: u32,
    },
    /// Creates a resource.
    CreateResource {
        /// The directory of the lockspace; empty if `name` is the path of a disk.
        lockspace: &'p [u8],
        /// The name of the lock file, or the path of the disk.
        name: &'p [u8],
        /// No flags are defined.
        flags: u32,
    },
    /// Deletes a resource.
    DeleteResource {
        /// See [`Self::CreateResource`].
        lockspace: &'p [u8],
        /// See [`Self::CreateResource`].
        name: &'p [u8],
        /// No flags are defined.
        flags: u32,
    },
    /// Locks a resource.
    AcquireResource {
        /// See [`Self::CreateResource`].
        lockspace: &'p [u8],
        /// See [`Self::CreateResource`].
        name: &'p [u8],
        /// The flags in [`acquire`].
        flags: u32,
    },
    /// Unlocks a resource.
    ReleaseResource {
        /// See [`Self::CreateResource`].
        lockspace: &'p [u8],
        /// See [`Self::CreateResource`].
        name: &'p [u8],
        /// No flags are defined.
        flags: u32,
    },
    /// Creates a lockspace, unless it exists.
    CreateLockspace {
        /// The directory of the lockspace.
        path: &'p [u8],
    },
}

/// A call that cannot be decoded. The texts are virtlockd's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// An unknown procedure.
    #[error("unknown procedure: {0}")]
    Procedure(i32),
    /// Arguments that are truncated or too long.
    #[error("Unable to decode message payload")]
    Payload,
}

impl From<DecodeError> for CallError {
    fn from(DecodeError: DecodeError) -> Self {
        Self::Payload
    }
}

/// Decodes the arguments of a call for a resource: the lockspace, the name, and the flags.
fn resource<'p>(reader: &mut Reader<'p>) -> Result<(&'p [u8], &'p [u8], u32), DecodeError> {
    Ok((reader.string(MAX_STRING)?, reader.string(MAX_STRING)?, reader.u32()?))
}

impl<'p> Call<'p> {
    /// Decodes a call of a procedure.
    ///
    /// # Errors
    ///
    /// An unknown procedure, or a payload without its arguments.
    pub fn decode(procedure: i32, payload: &'p [u8]) -> Result<Self, CallError> {
        let mut reader = Reader::new(payload);
        let reader = &mut reader;
        Ok(match procedure {
            1 => Self::Register {
                uuid: reader.bytes()?,
                name: reader.string(MAX_STRING)?,
                id: reader.u32()?,
                pid: reader.u32()?,
                flags: reader.u32()?,
            },
            2 => Self::Restrict { flags: reader.u32()? },
            3 => Self::NewLockspace { path: reader.string(MAX_STRING)?, flags: reader.u32()? },
            4 => {
                let (lockspace, name, flags) = resource(reader)?;
                Self::CreateResource { lockspace, name, flags }
            }
            5 => {
                let (lockspace, name, flags) = resource(reader)?;
                Self::DeleteResource { lockspace, name, flags }
            }
            6 => {
                let (lockspace, name, flags) = resource(reader)?;
                Self::AcquireResource { lockspace, name, flags }
            }
            7 => {
                let (lockspace, name, flags) = resource(reader)?;
                Self::ReleaseResource { lockspace, name, flags }
            }
            8 => Self::CreateLockspace { path: reader.string(MAX_STRING)? },
            other => return Err(CallError::Procedure(other)),
        })
    }

    /// Returns the number of the procedure.
    #[must_use]
    pub fn procedure(&self) -> i32 {
        match self {
            Self::Register { .. } => 1,
            Self::Restrict { .. } => 2,
            Self::NewLockspace { .. } => 3,
            Self::CreateResource { .. } => 4,
            Self::DeleteResource { .. } => 5,
            Self::AcquireResource { .. } => 6,
            Self::ReleaseResource { .. } => 7,
            Self::CreateLockspace { .. } => 8,
        }
    }

    /// Returns the name of virtlockd's dispatch function, which the error for unknown flags contains.
    #[must_use]
    pub fn dispatcher(&self) -> &'static str {
        match self {
            Self::Register { .. } => "virLockSpaceProtocolDispatchRegister",
            Self::Restrict { .. } => "virLockSpaceProtocolDispatchRestrict",
            Self::NewLockspace { .. } => "virLockSpaceProtocolDispatchNew",
            Self::CreateResource { .. } => "virLockSpaceProtocolDispatchCreateResource",
            Self::DeleteResource { .. } => "virLockSpaceProtocolDispatchDeleteResource",
            Self::AcquireResource { .. } => "virLockSpaceProtocolDispatchAcquireResource",
            Self::ReleaseResource { .. } => "virLockSpaceProtocolDispatchReleaseResource",
            Self::CreateLockspace { .. } => "virLockSpaceProtocolDispatchCreateLockSpace",
        }
    }

    /// Returns the flags of the call that are not defined.
    #[must_use]
    pub fn unknown_flags(&self) -> u32 {
        match *self {
            Self::AcquireResource { flags, .. } => flags & !(acquire::SHARED | acquire::CREATE),
            Self::Register { flags, .. }
            | Self::Restrict { flags }
            | Self::NewLockspace { flags, .. }
            | Self::CreateResource { flags, .. }
            | Self::DeleteResource { flags, .. }
            | Self::ReleaseResource { flags, .. } => flags,
            Self::CreateLockspace { .. } => 0,
        }
    }

    /// Returns the encoded arguments.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        match *self {
            Self::Register { uuid, name, id, pid, flags } => {
                writer.bytes(&uuid).string(name).u32(id).u32(pid).u32(flags)
            }
            Self::Restrict { flags } => writer.u32(flags),
            Self::NewLockspace { path, flags } => writer.string(path).u32(flags),
            Self::CreateResource { lockspace, name, flags }
            | Self::DeleteResource { lockspace, name, flags }
            | Self::AcquireResource { lockspace, name, flags }
            | Self::ReleaseResource { lockspace, name, flags } => {
                writer.string(lockspace).string(name).u32(flags)
            }
            Self::CreateLockspace { path } => writer.string(path),
        };
        writer.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_calls() -> [Call<'static>; 8] {
        let (lockspace, name, path) = (&b"/srv/locks"[..], &b"a\xff\0b"[..], &b"/srv"[..]);
        [
            Call::Register { uuid: *b"0123456789abcdef", name, id: 1, pid: u32::MAX, flags: 0 },
            Call::Restrict { flags: 0 },
            Call::NewLockspace { path, flags: 0 },
            Call::CreateResource { lockspace, name, flags: 1 },
            Call::DeleteResource { lockspace: b"", name, flags: 0 },
            Call::AcquireResource {
                lockspace,
                name: b"",
                flags: acquire::SHARED | acquire::CREATE,
            },
            Call::ReleaseResource { lockspace, name, flags: u32::MAX },
            Call::CreateLockspace { path },
        ]
    }

    #[test]
    fn calls_round_trip_and_trailing_bytes_are_ignored() {
        for (number, call) in (1..).zip(all_calls()) {
            assert_eq!(call.procedure(), number);
            let mut payload = call.payload();
            assert_eq!(Call::decode(number, &payload), Ok(call));
            payload.extend(b"garbage");
            assert_eq!(Call::decode(number, &payload), Ok(call));
        }
    }

    #[test]
    fn the_bytes_of_a_call() {
        let call = Call::AcquireResource { lockspace: b"", name: b"/a.img", flags: 3 };
        assert_eq!(call.payload(), b"\0\0\0\0\0\0\0\x06/a.img\0\0\0\0\0\x03");
    }

    #[test]
    fn truncated_arguments_are_an_error() {
        for call in all_calls() {
            let payload = call.payload();
            for length in 0..payload.len() {
                let decoded = Call::decode(call.procedure(), &payload[..length]);
                assert_eq!(decoded, Err(CallError::Payload), "{call:?} {length}");
            }
        }
    }

    #[test]
    fn strings_have_a_maximum_length() {
        let name = vec![b'x'; MAX_STRING + 1];
        for (length, is_valid) in [(MAX_STRING, true), (MAX_STRING + 1, false)] {
            let call = Call::CreateLockspace { path: &name[..length] };
            assert_eq!(Call::decode(8, &call.payload()).is_ok(), is_valid);
        }
        let both = Call::AcquireResource { lockspace: &name[1..], name: &name[1..], flags: 0 };
        assert!(
            both.payload().len() + super::super::frame::MIN_LENGTH
                <= super::super::frame::MAX_LENGTH
        );
    }

    #[test]
    fn there_are_eight_procedures() {
        for number in [0, 9, -1, i32::MIN, i32::MAX] {
            let decoded = Call::decode(number, &[0; 100]);
            assert_eq!(decoded, Err(CallError::Procedure(number)));
        }
    }
}
