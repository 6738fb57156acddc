//! What a client asks for: the eight procedures of the lock protocol, with their arguments.
//!
//! Arguments are not judged here, only told apart: unknown flags, an empty path or a name with a
//! NUL in it decode well. What follows the arguments is ignored, as virtlockd ignores it.

use super::xdr::{Malformed, Reader, Writer};

/// The longest string of the protocol, in bytes.
pub const STRING: usize = 65_536;

/// Flags of [`Call::AcquireResource`].
pub mod acquire {
    /// Others may hold it too, in the same mode.
    pub const SHARED: u32 = 1;
    /// The resource is created where it is not there.
    pub const CREATE: u32 = 2;
}

/// A procedure with its arguments, which lie in the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call<'p> {
    /// Says for which machine this connection speaks.
    Register {
        /// The machine's UUID.
        uuid: [u8; 16],
        /// Its name.
        name: &'p [u8],
        /// libvirt's number of it; never 0 from libvirt.
        id: u32,
        /// Its process.
        pid: u32,
        /// None is known.
        flags: u32,
    },
    /// Gives up the right to ask for anything more by this connection.
    Restrict {
        /// None is known.
        flags: u32,
    },
    /// Makes a lockspace; one that is there already is an error.
    NewLockspace {
        /// Its directory.
        path: &'p [u8],
        /// None is known.
        flags: u32,
    },
    /// Creates what can be locked.
    CreateResource {
        /// The directory of the lockspace; empty for the disks themselves.
        lockspace: &'p [u8],
        /// The file in it, or the path of the disk.
        name: &'p [u8],
        /// None is known.
        flags: u32,
    },
    /// Removes it.
    DeleteResource {
        /// As in [`Self::CreateResource`].
        lockspace: &'p [u8],
        /// As in [`Self::CreateResource`].
        name: &'p [u8],
        /// None is known.
        flags: u32,
    },
    /// Locks it.
    AcquireResource {
        /// As in [`Self::CreateResource`].
        lockspace: &'p [u8],
        /// As in [`Self::CreateResource`].
        name: &'p [u8],
        /// Those of [`acquire`].
        flags: u32,
    },
    /// Unlocks it.
    ReleaseResource {
        /// As in [`Self::CreateResource`].
        lockspace: &'p [u8],
        /// As in [`Self::CreateResource`].
        name: &'p [u8],
        /// None is known.
        flags: u32,
    },
    /// Makes a lockspace where there is none yet.
    CreateLockspace {
        /// Its directory.
        path: &'p [u8],
    },
}

/// A call that can't be understood. The texts are those that libvirt's users know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// There is no such procedure.
    #[error("unknown procedure: {0}")]
    Procedure(i32),
    /// The arguments are not whole, or too long.
    #[error("Unable to decode message payload")]
    Payload,
}

impl From<Malformed> for Undecodable {
    fn from(Malformed: Malformed) -> Self {
        Self::Payload
    }
}

/// A resource: the lockspace, the name in it, and the flags.
fn resource<'p>(reader: &mut Reader<'p>) -> Result<(&'p [u8], &'p [u8], u32), Malformed> {
    Ok((reader.string(STRING)?, reader.string(STRING)?, reader.u32()?))
}

impl<'p> Call<'p> {
    /// Reads a call of this procedure.
    ///
    /// # Errors
    ///
    /// Where there is no such procedure, or the payload does not hold its arguments.
    pub fn decode(procedure: i32, payload: &'p [u8]) -> Result<Self, Undecodable> {
        let mut reader = Reader::new(payload);
        let reader = &mut reader;
        Ok(match procedure {
            1 => Self::Register {
                uuid: reader.bytes()?,
                name: reader.string(STRING)?,
                id: reader.u32()?,
                pid: reader.u32()?,
                flags: reader.u32()?,
            },
            2 => Self::Restrict { flags: reader.u32()? },
            3 => Self::NewLockspace { path: reader.string(STRING)?, flags: reader.u32()? },
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
            8 => Self::CreateLockspace { path: reader.string(STRING)? },
            other => return Err(Undecodable::Procedure(other)),
        })
    }

    /// The number of its procedure.
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

    /// Where virtlockd would look at it: libvirt's users see this name when flags are refused.
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

    /// The flags that are set and mean nothing.
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

    /// The arguments as a client writes them.
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

    fn every_call() -> [Call<'static>; 8] {
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
    fn there_and_back_and_what_follows_is_ignored() {
        for (number, call) in (1..).zip(every_call()) {
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
    fn arguments_that_are_cut_off_are_refused() {
        for call in every_call() {
            let payload = call.payload();
            for length in 0..payload.len() {
                let decoded = Call::decode(call.procedure(), &payload[..length]);
                assert_eq!(decoded, Err(Undecodable::Payload), "{call:?} {length}");
            }
        }
    }

    #[test]
    fn a_string_may_be_so_long_and_no_longer() {
        let name = vec![b'x'; STRING + 1];
        for (length, fine) in [(STRING, true), (STRING + 1, false)] {
            let call = Call::CreateLockspace { path: &name[..length] };
            assert_eq!(Call::decode(8, &call.payload()).is_ok(), fine);
        }
        let both = Call::AcquireResource { lockspace: &name[1..], name: &name[1..], flags: 0 };
        assert!(
            both.payload().len() + super::super::frame::SHORTEST <= super::super::frame::LONGEST
        );
    }

    #[test]
    fn there_are_eight() {
        for number in [0, 9, -1, i32::MIN, i32::MAX] {
            let decoded = Call::decode(number, &[0; 100]);
            assert_eq!(decoded, Err(Undecodable::Procedure(number)));
        }
    }
}
