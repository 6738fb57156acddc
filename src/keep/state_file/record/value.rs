//! Values that occur in several records: paths, identities, extents and owner IDs.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::lock::OwnerId;
use crate::lock::model::extent::{Extent, Placement, Span};
use crate::lock::model::identity::Identity;

/// A path: a string if it is UTF-8, otherwise an array of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(in crate::keep::state_file) enum EncodedPath {
    Text(String),
    Bytes(Vec<u8>),
}

/// The identity of a file, a block device or a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(in crate::keep::state_file) enum EncodedIdentity {
    Inode { dev: u64, ino: u64 },
    Block { dev: u64, seq: u64 },
    Key { dev: u64, ino: u64, key: u64 },
}

/// The part of a file or device that a disk occupies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::keep::state_file) struct EncodedExtent {
    of: EncodedIdentity,
    start: u64,
    /// The end of the range; absent if the range extends to the end of the file or device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<u64>,
    /// Whether the disk occupies the whole range.
    exact: bool,
}

// serde passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
pub(super) fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Returns the owner ID of a record; `None` if `uuid` is not a UUID.
pub(super) fn decode_owner(uid: u32, uuid: &str, process: u32) -> Option<OwnerId> {
    Some(OwnerId { uid, uuid: Uuid::try_parse(uuid).ok()?, process })
}

impl From<Extent> for EncodedExtent {
    fn from(Extent { identity, span, placement }: Extent) -> Self {
        Self {
            of: identity.into(),
            start: span.start,
            end: (span.end != Span::WHOLE.end).then_some(span.end),
            exact: placement == Placement::Exact,
        }
    }
}

impl From<EncodedExtent> for Extent {
    fn from(EncodedExtent { of, start, end, exact }: EncodedExtent) -> Self {
        let placement = if exact { Placement::Exact } else { Placement::Partial };
        let span = Span { start, end: end.unwrap_or(Span::WHOLE.end) };
        Self { identity: of.into(), span, placement }
    }
}

impl From<&Path> for EncodedPath {
    fn from(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
    }
}

impl From<EncodedPath> for PathBuf {
    fn from(path: EncodedPath) -> Self {
        match path {
            EncodedPath::Text(text) => text.into(),
            EncodedPath::Bytes(bytes) => OsString::from_vec(bytes).into(),
        }
    }
}

impl From<Identity> for EncodedIdentity {
    fn from(identity: Identity) -> Self {
        match identity {
            Identity::Inode { dev, ino } => Self::Inode { dev, ino },
            Identity::Block { dev, seq } => Self::Block { dev, seq },
            Identity::Key { dev, ino, key } => Self::Key { dev, ino, key },
        }
    }
}

impl From<EncodedIdentity> for Identity {
    fn from(identity: EncodedIdentity) -> Self {
        match identity {
            EncodedIdentity::Inode { dev, ino } => Self::Inode { dev, ino },
            EncodedIdentity::Block { dev, seq } => Self::Block { dev, seq },
            EncodedIdentity::Key { dev, ino, key } => Self::Key { dev, ino, key },
        }
    }
}
