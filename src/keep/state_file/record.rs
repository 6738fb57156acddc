//! The records of the state file, as they are serialized.
//!
//! They are separate from the types of the lock table: other versions of the program must read
//! them, so they change only together with [`VERSION`](super::VERSION). An attribute `rename` keeps
//! the name that a field has in the file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::fields::{self, FieldWriter, Fields, Value};
use crate::keep::stash::KeyPart;
use crate::lock::model::owner::AnchorId;
use value::EncodedPath;

mod lock;
mod offer;
mod older;
mod owner;
pub(super) mod value;

pub use lock::LockRecord;
pub use offer::{FormerLock, OfferRecord};
pub use owner::{AnchorIdentity, AnchorRecord, OwnerRecord};

/// The thing that an entry of the state file describes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Record {
    /// The highest numbers that were ever assigned.
    #[serde(rename = "counted")]
    HighestNumbers(HighestNumbers),
    /// An owner.
    Owner(OwnerRecord),
    /// An anchor.
    Anchor(AnchorRecord),
    /// A lock.
    Lock(Box<LockRecord>),
    /// A lockspace directory.
    Lockspace(LockspaceRecord),
    /// An offer.
    Offer(OfferRecord),
}

/// The ID of a record: its kind, and its number among the records of that kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordId {
    /// An owner, by the number of its record.
    Owner(AnchorId),
    /// An anchor.
    Anchor(AnchorId),
    /// A lock.
    Lock(u64),
    /// A lockspace directory.
    Lockspace(u32),
    /// An offer.
    Offer(AnchorId),
}

impl Record {
    /// Returns the name of the kind, for an administrator.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::HighestNumbers(_) => "highest-numbers",
            Self::Owner(_) => "owner",
            Self::Anchor(_) => "anchor",
            Self::Lock(_) => "lock",
            Self::Lockspace(_) => "lockspace",
            Self::Offer(_) => "offer",
        }
    }

    /// Encodes the fields. The highest numbers have no entry of their own in version 8.
    pub(super) fn encode(&self, out: &mut FieldWriter<'_>) {
        match self {
            Self::HighestNumbers(_) => {}
            Self::Owner(owner) => owner.encode(out),
            Self::Anchor(anchor) => anchor.encode(out),
            Self::Lock(lock) => lock.encode(out),
            Self::Lockspace(LockspaceRecord { number, path }) => {
                out.put(fields::DIRECTORY, &[&number.to_le_bytes(), path.bytes()]);
            }
            Self::Offer(offer) => offer.encode(out),
        }
    }

    /// Decodes the fields of a record; `None` if one is missing or invalid.
    pub(super) fn decode(fields: &Fields<'_>) -> Option<Self> {
        Some(if fields.has(fields::LOCK..=fields::STASHED_AS) {
            Self::Lock(Box::new(LockRecord::decode(fields)?))
        } else if fields.has(fields::OWNER..=fields::WHY) {
            Self::Owner(OwnerRecord::decode(fields)?)
        } else if fields.has(fields::ANCHOR..=fields::ANCHOR_KIND) {
            Self::Anchor(AnchorRecord::decode(fields)?)
        } else if fields.has(fields::OFFER..=fields::OFFER) {
            Self::Offer(OfferRecord::decode(fields)?)
        } else {
            let mut value = Value(fields.one(fields::DIRECTORY)?);
            let number = value.u32()?;
            Self::Lockspace(LockspaceRecord { number, path: EncodedPath::of(value.0) })
        })
    }

    /// Returns the ID of the record; `None` for the highest numbers.
    #[must_use]
    pub fn id(&self) -> Option<RecordId> {
        Some(match self {
            Self::HighestNumbers(_) => return None,
            Self::Owner(owner) => RecordId::Owner(owner.number()),
            Self::Anchor(anchor) => RecordId::Anchor(anchor.number()),
            Self::Lock(lock) => RecordId::Lock(lock.number()),
            Self::Lockspace(lockspace) => RecordId::Lockspace(lockspace.number()),
            Self::Offer(offer) => RecordId::Offer(offer.number()),
        })
    }
}

/// A lockspace directory that a client named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockspaceRecord {
    number: u32,
    path: EncodedPath,
}

impl LockspaceRecord {
    /// Creates the record.
    #[must_use]
    pub fn new(number: u32, path: &Path) -> Self {
        Self { number, path: path.into() }
    }

    /// Returns the number of the lockspace.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Returns the path of the directory.
    #[must_use]
    pub fn path(self) -> PathBuf {
        self.path.into()
    }
}

/// The highest numbers that were ever assigned. No number is assigned twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HighestNumbers {
    /// The highest number of a lock.
    pub lock: u64,
    /// The highest number of an anchor, an owner record or an offer.
    pub anchor: AnchorId,
}

impl HighestNumbers {
    /// Includes the number in the key of a stashed descriptor.
    pub fn include_stashed(&mut self, part: KeyPart) {
        match part {
            KeyPart::Byte(number, _) => self.lock = self.lock.max(number),
            KeyPart::Anchor(number) => self.anchor = self.anchor.max(number),
        }
    }

    /// Includes the number of a record.
    pub(super) fn include(&mut self, id: RecordId) {
        match id {
            RecordId::Lock(number) => self.lock = self.lock.max(number),
            RecordId::Anchor(number) | RecordId::Owner(number) | RecordId::Offer(number) => {
                self.anchor = self.anchor.max(number);
            }
            // The number of a lockspace stays used as long as a record refers to it.
            RecordId::Lockspace(_) => {}
        }
    }
}
