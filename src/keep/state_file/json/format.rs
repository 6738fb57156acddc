//! The format of versions 3 to 7.
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
//! A record was written once, and the checksum proves that it has not changed since. The stage and
//! the mode change during the life of a thing. They have one byte each, so a change is a write of
//! one byte in place.
//!
//! If the file ends before byte `length`, or an entry before it does not match its checksum, the
//! file is damaged. An incomplete entry behind it is no damage: it was being written when the
//! service died, and no client had a reply that depends on it.
//!
//! | version | adds |
//! |---|---|
//! | 3 | the oldest version that is still read |
//! | 4 | what a disk lies on (`below`), and two configured lockspaces |
//! | 5 | the loss action of an owner (`on_lost`), and permitted processes (`permitted`) |
//! | 6 | the occupied part of lower files and devices (`occupies`), and reserved locks |
//! | 7 | the purpose of an owner's locks (`why`) |

use sha2::{Digest, Sha256};

use super::super::entry::{EntryStage, MODES, StateEntry};
use super::super::record::Record;
use crate::lock::Mode;

/// The oldest version that this program reads.
pub const OLDEST: u64 = 3;
/// The last version in this format.
pub(in crate::keep::state_file) const NEWEST: u64 = 7;

/// The first word of the head, in every version.
pub(in crate::keep::state_file) const MAGIC: &str = "vmlockd-state";
/// The number of digits of the length in the head.
pub(super) const LENGTH_DIGITS: usize = 16;
/// The length of the part of an entry before the record, in bytes.
pub(super) const PREFIX: usize = 3 + 16 + 1;

/// Returns the first 8 bytes of the SHA-256 in hexadecimal: a protection against damage, not
/// against an attacker, who would have to be root.
pub(in crate::keep::state_file) fn checksum(bytes: &[u8]) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digest = Sha256::digest(bytes);
    let mut hex = [0; 16];
    for (pair, byte) in hex.chunks_mut(2).zip(digest) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    hex
}

/// Returns the byte of a stage.
pub(in crate::keep::state_file) fn stage_byte(stage: EntryStage) -> u8 {
    match stage {
        EntryStage::Granting => b'g',
        EntryStage::Held => b'h',
        EntryStage::Reacquired => b'a',
        EntryStage::Releasing => b'r',
        EntryStage::Suspended => b's',
        EntryStage::Reserved => b'v',
        EntryStage::Removed => b'-',
    }
}

/// Returns the stage of a byte.
pub(super) fn stage_of(byte: u8) -> Option<EntryStage> {
    EntryStage::ALL.into_iter().find(|stage| stage_byte(*stage) == byte)
}

/// Returns the byte of a mode.
pub(in crate::keep::state_file) fn mode_byte(mode: Option<Mode>) -> u8 {
    match mode {
        Some(Mode::Exclusive) => b'x',
        Some(Mode::Shared) => b's',
        Some(Mode::None) => b'n',
        None => b'.',
    }
}

/// Decodes an entry without its line feed; returns `None` if it is damaged.
pub(super) fn decode(bytes: &[u8]) -> Option<StateEntry> {
    let (prefix, record) = bytes.split_at_checked(PREFIX)?;
    let [.., b' '] = prefix else { return None };
    let is_proven = checksum(record)[..] == prefix[3..PREFIX - 1];
    is_proven.then(|| decode_unproven(bytes)).flatten()
}

/// Decodes an entry without its line feed, and ignores the checksum.
pub(super) fn decode_unproven(bytes: &[u8]) -> Option<StateEntry> {
    let (prefix, record) = bytes.split_at_checked(PREFIX)?;
    let [stage, mode, b' ', ..] = prefix else { return None };
    let stage = stage_of(*stage)?;
    let mode = MODES.into_iter().find(|known| mode_byte(*known) == *mode)?;
    let mut record = serde_json::from_slice(record).ok()?;
    if let Record::Lock(lock) = &mut record {
        lock.upgrade();
    }
    let is_lock = matches!(record, Record::Lock(_));
    (is_lock == mode.is_some()).then_some(StateEntry { stage, mode, record })
}
