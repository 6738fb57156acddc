//! An entry of the state file in memory: a record, with the stage and the mode that change.

use super::record::{Record, RecordId};
use crate::lock::Mode;

/// How far the operation on the thing of an entry has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryStage {
    /// The operation has begun, and no client has a reply.
    Granting,
    /// The thing exists, and a client may know of it.
    Held,
    /// A held lock that the service acquired again by itself after a restart, and that its owner
    /// has not requested since.
    Reacquired,
    /// The release has begun.
    Releasing,
    /// A lock that is released, or being released, and that its owner can resume.
    Suspended,
    /// A lock that is released, and reserved for its former owner.
    Reserved,
    /// The thing no longer exists.
    Removed,
}

impl EntryStage {
    /// All stages.
    pub(super) const ALL: [Self; 7] = [
        Self::Granting,
        Self::Held,
        Self::Reacquired,
        Self::Releasing,
        Self::Suspended,
        Self::Reserved,
        Self::Removed,
    ];

    /// Returns the name of the stage, for an administrator.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Granting => "granting",
            Self::Held => "held",
            Self::Reacquired => "reacquired",
            Self::Releasing => "releasing",
            Self::Suspended => "suspended",
            Self::Reserved => "reserved",
            Self::Removed => "removed",
        }
    }
}

/// The modes of locks, and `None` for an entry that is no lock.
pub(super) const MODES: [Option<Mode>; 4] =
    [Some(Mode::Exclusive), Some(Mode::Shared), Some(Mode::None), None];

/// An entry of the state file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateEntry {
    /// The stage.
    pub stage: EntryStage,
    /// The mode of a lock.
    pub mode: Option<Mode>,
    /// The thing that the entry describes.
    pub record: Record,
}

/// How a state file encodes its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Lines of JSON, in versions 3 to 7.
    Json,
    /// Slots, since version 8.
    Slots,
}

/// The position of an entry in the file that it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryPosition {
    /// The ID of the record.
    pub id: RecordId,
    /// The offset of the byte of the stage in the file. The byte of the mode follows it.
    pub offset: u64,
    /// The encoding of the file.
    pub encoding: Encoding,
    /// The stage that the entry has there.
    pub stage: EntryStage,
    /// The mode that the entry has there.
    pub mode: Option<Mode>,
}
