//! Values that occur in several records: paths, identities, extents and owner IDs.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::super::fields::{FieldWriter, Value};
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

/// A UUID; `None` if a file has something else in its place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub(super) struct EncodedUuid(pub(super) Option<Uuid>);

impl From<String> for EncodedUuid {
    fn from(text: String) -> Self {
        Self(Uuid::try_parse(&text).ok())
    }
}

impl From<EncodedUuid> for String {
    fn from(EncodedUuid(uuid): EncodedUuid) -> Self {
        uuid.map(|uuid| uuid.to_string()).unwrap_or_default()
    }
}

impl From<Uuid> for EncodedUuid {
    fn from(uuid: Uuid) -> Self {
        Self(Some(uuid))
    }
}

/// Returns the owner ID of a record; `None` if its UUID is invalid.
pub(super) fn decode_owner(uid: u32, uuid: EncodedUuid, process: u32) -> Option<OwnerId> {
    Some(OwnerId { uid, uuid: uuid.0?, process })
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

impl EncodedPath {
    /// Returns the bytes of the path.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    /// Returns the path with these bytes.
    pub(in crate::keep::state_file) fn of(bytes: &[u8]) -> Self {
        match str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(bytes.to_owned()),
        }
    }
}

impl EncodedIdentity {
    /// Returns the value of its field: the kind, and three numbers.
    fn encode(self) -> [u8; 25] {
        let (kind, numbers) = match self {
            Self::Inode { dev, ino } => (1, [dev, ino, 0]),
            Self::Block { dev, seq } => (2, [dev, seq, 0]),
            Self::Key { dev, ino, key } => (3, [dev, ino, key]),
        };
        let mut bytes = [kind; 25];
        for (into, number) in bytes[1..].chunks_exact_mut(8).zip(numbers) {
            into.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Appends its field.
    pub(super) fn put(self, tag: u8, fields: &mut FieldWriter<'_>) {
        fields.put(tag, &[&self.encode()]);
    }

    fn take(value: &mut Value<'_>) -> Option<Self> {
        let (kind, dev, second, third) = (value.byte()?, value.u64()?, value.u64()?, value.u64()?);
        match (kind, third) {
            (1, 0) => Some(Self::Inode { dev, ino: second }),
            (2, 0) => Some(Self::Block { dev, seq: second }),
            (3, key) => Some(Self::Key { dev, ino: second, key }),
            _ => None,
        }
    }

    /// Decodes the value of its field.
    pub(in crate::keep::state_file) fn decode(value: &[u8]) -> Option<Self> {
        let mut value = Value(value);
        let identity = Self::take(&mut value)?;
        value.end(identity)
    }
}

impl EncodedExtent {
    /// Appends its field: identity, start, end, and whether the range is exact.
    pub(super) fn put(&self, tag: u8, fields: &mut FieldWriter<'_>) {
        let end = self.end.unwrap_or(Span::WHOLE.end).to_le_bytes();
        let exact = [u8::from(self.exact)];
        fields.put(tag, &[&self.of.encode(), &self.start.to_le_bytes(), &end, &exact]);
    }

    /// Decodes the value of its field.
    pub(in crate::keep::state_file) fn decode(value: &[u8]) -> Option<Self> {
        let mut value = Value(value);
        let of = EncodedIdentity::take(&mut value)?;
        let (start, end) = (value.u64()?, value.u64()?);
        let exact = value.flag()?;
        value.end(Self { of, start, end: Some(end).filter(|end| *end != Span::WHOLE.end), exact })
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
