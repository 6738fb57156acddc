//! The format of the state file.
//!
//! ```text
//! file     = head entry*
//! head     = "vmlockd-state" SP version SP boot-id SP checksum SP length LF
//! entry    = stage mode SP checksum SP record LF
//! version  = 1*DIGIT
//! boot-id  = UUID             ; as in /proc/sys/kernel/random/boot_id, random(4)
//! length   = 16DIGIT          ; how many bytes of the file are written
//! stage    = "g" / "h" / "a" / "r" / "s" / "v" / "-"      ; see EntryStage
//! mode     = "x" / "s" / "n"  ; of a lock: exclusive, shared, none
//!          / "."              ; of anything else
//! checksum = 16HEXDIG         ; lower case: the first 8 bytes of the SHA-256 of the boot ID
//!                             ; or of the record
//! record   = object           ; JSON with a single member, see Record
//! ```
//!
//! A record is written once, and the checksum proves that it has not changed since. The stage and
//! the mode change during the life of a thing. They have one byte each, so a change is a write of
//! one byte in place: it needs no space on the file system, cannot be half done, and takes the same
//! time whatever else is in the file.
//!
//! If the file ends before byte `length`, or an entry before it does not match its checksum, the
//! file is damaged. An incomplete entry behind it is no damage: it was being written when the
//! service died, and no client had a reply that depends on it.
//!
//! A program reads the versions from [`OLDEST`] to [`VERSION`] and refuses all others: what it does
//! not understand it could not keep.
//!
//! | version | adds |
//! |---|---|
//! | 3 | the oldest version that is still read |
//! | 4 | what a disk lies on (`below`), and two configured lockspaces |
//! | 5 | the loss action of an owner (`on_lost`), and permitted processes (`permitted`) |
//! | 6 | the occupied part of lower files and devices (`occupies`), and reserved locks |
//! | 7 | the purpose of an owner's locks (`why`) |

use std::fs;
use std::io;

use sha2::{Digest, Sha256};

use super::record::{Record, RecordId};
use crate::lock::Mode;

/// The version that this program writes.
pub const VERSION: u64 = 7;
/// The oldest version that this program reads.
pub const OLDEST: u64 = 3;

/// The name of the file in the runtime directory.
pub(super) const FILE: &str = "state";
/// The first word of the head.
pub(super) const MAGIC: &str = "vmlockd-state";
/// The number of digits of the length in the head.
pub(super) const LENGTH_DIGITS: usize = 16;
/// The length of the part of an entry before the record, in bytes.
pub(super) const PREFIX: usize = 3 + 16 + 1;

/// Returns the head of a file of this version.
pub(super) fn head(boot: &str, length: u64) -> String {
    let sum = checksum(boot.as_bytes());
    let sum = sum.escape_ascii();
    format!("{MAGIC} {VERSION} {boot} {sum} {}\n", length_field(length))
}

/// Returns the length as it stands in the head.
pub(super) fn length_field(length: u64) -> String {
    format!("{length:0LENGTH_DIGITS$}")
}

/// Returns the offset of the length in the head.
pub(super) fn length_offset(boot: &str) -> u64 {
    (head(boot, 0).len() - 1 - LENGTH_DIGITS) as u64
}

/// Returns the ID of the current boot (`random(4)`).
pub(super) fn boot_id() -> Result<String, io::Error> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Returns the first 8 bytes of the SHA-256 in hexadecimal: a protection against damage, not
/// against an attacker, who would have to be root.
pub(super) fn checksum(bytes: &[u8]) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digest = Sha256::digest(bytes);
    let mut hex = [0; 16];
    for (pair, byte) in hex.chunks_mut(2).zip(digest) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    hex
}

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
    /// The thing no longer exists. The entry stands only for the number, which stays used.
    Removed,
}

impl EntryStage {
    const ALL: [Self; 7] = [
        Self::Granting,
        Self::Held,
        Self::Reacquired,
        Self::Releasing,
        Self::Suspended,
        Self::Reserved,
        Self::Removed,
    ];

    /// Returns the byte of the stage.
    pub(super) fn byte(self) -> u8 {
        match self {
            Self::Granting => b'g',
            Self::Held => b'h',
            Self::Reacquired => b'a',
            Self::Releasing => b'r',
            Self::Suspended => b's',
            Self::Reserved => b'v',
            Self::Removed => b'-',
        }
    }

    /// Returns the stage of a byte.
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.byte() == byte)
    }
}

/// Returns the byte of a mode.
pub(super) fn mode_byte(mode: Option<Mode>) -> u8 {
    match mode {
        Some(Mode::Exclusive) => b'x',
        Some(Mode::Shared) => b's',
        Some(Mode::None) => b'n',
        None => b'.',
    }
}

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

impl StateEntry {
    /// Encodes the entry, with the line feed at its end.
    ///
    /// # Errors
    ///
    /// None with the records of this program: all of them can be written as JSON.
    pub(super) fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let record = serde_json::to_vec(&self.record)?;
        let mut bytes = Vec::with_capacity(PREFIX + record.len() + 1);
        bytes.extend([self.stage.byte(), mode_byte(self.mode), b' ']);
        bytes.extend(checksum(&record));
        bytes.push(b' ');
        bytes.extend(record);
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Decodes an entry without its line feed; returns `None` if it is damaged.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (prefix, record) = bytes.split_at_checked(PREFIX)?;
        let [.., b' '] = prefix else { return None };
        let is_proven = checksum(record)[..] == prefix[3..PREFIX - 1];
        is_proven.then(|| Self::decode_unproven(bytes)).flatten()
    }

    /// Decodes an entry without its line feed, and ignores the checksum.
    pub(super) fn decode_unproven(bytes: &[u8]) -> Option<Self> {
        let (prefix, record) = bytes.split_at_checked(PREFIX)?;
        let [stage, mode, b' ', ..] = prefix else { return None };
        let stage = EntryStage::from_byte(*stage)?;
        let mode = [Some(Mode::Exclusive), Some(Mode::Shared), Some(Mode::None), None]
            .into_iter()
            .find(|known| mode_byte(*known) == *mode)?;
        let record = serde_json::from_slice(record).ok()?;
        let is_lock = matches!(record, Record::Lock(_));
        (is_lock == mode.is_some()).then_some(Self { stage, mode, record })
    }
}

/// The position of an entry in the file that it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryPosition {
    /// The ID of the record.
    pub id: RecordId,
    /// The offset of the entry in the file.
    pub offset: u64,
    /// The stage that the entry has there.
    pub stage: EntryStage,
    /// The mode that the entry has there.
    pub mode: Option<Mode>,
}
