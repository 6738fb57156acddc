//! Paths and identities as they are written down.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::lock::model::extent::{Extent, Placement, Span};
use crate::lock::model::identity::Identity;

/// A path: as text where it is text, else as its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Spelling {
    Text(String),
    Bytes(Vec<u8>),
}

/// What something really is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Identified {
    Inode { dev: u64, ino: u64 },
    Block { dev: u64, seq: u64 },
    Key { dev: u64, ino: u64, key: u64 },
}

/// The part of a file or device that a disk occupies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Occupied {
    of: Identified,
    start: u64,
    /// Missing where the range has no end of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<u64>,
    /// Whether all of the range is occupied.
    exact: bool,
}

impl From<Extent> for Occupied {
    fn from(Extent { identity, span, placement }: Extent) -> Self {
        Self {
            of: identity.into(),
            start: span.start,
            end: (span.end != Span::WHOLE.end).then_some(span.end),
            exact: placement == Placement::Exact,
        }
    }
}

impl From<Occupied> for Extent {
    fn from(Occupied { of, start, end, exact }: Occupied) -> Self {
        let placement = if exact { Placement::Exact } else { Placement::Partial };
        let span = Span { start, end: end.unwrap_or(Span::WHOLE.end) };
        Self { identity: of.into(), span, placement }
    }
}

impl From<&Path> for Spelling {
    fn from(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
    }
}

impl From<Spelling> for PathBuf {
    fn from(spelling: Spelling) -> Self {
        match spelling {
            Spelling::Text(text) => text.into(),
            Spelling::Bytes(bytes) => OsString::from_vec(bytes).into(),
        }
    }
}

impl From<Identity> for Identified {
    fn from(identity: Identity) -> Self {
        match identity {
            Identity::Inode { dev, ino } => Self::Inode { dev, ino },
            Identity::Block { dev, seq } => Self::Block { dev, seq },
            Identity::Key { dev, ino, key } => Self::Key { dev, ino, key },
        }
    }
}

impl From<Identified> for Identity {
    fn from(identified: Identified) -> Self {
        match identified {
            Identified::Inode { dev, ino } => Self::Inode { dev, ino },
            Identified::Block { dev, seq } => Self::Block { dev, seq },
            Identified::Key { dev, ino, key } => Self::Key { dev, ino, key },
        }
    }
}
