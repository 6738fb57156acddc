//! The layout of version 8 of the state file.
//!
//! ```text
//! file   = line status status slot*      ; line: 128 bytes, status: 64, slot: 64
//! line   = "vmlockd-state" SP version SP boot-id SP salt SP checksum LF zero*
//! status = batch lock anchor end salt magic checksum zero*
//! slot   = free / first / next
//! free   = 64 zeros                      ; not before the end of the slots in use
//! first  = %xCC stage mode kind capacity batch checksum salt payload    ; payload: 40 bytes
//! next   = %xF0 payload                                                 ; payload: 63 bytes
//! ```
//!
//! An *extent* is a first slot and the next slots that follow it; `capacity` is the number of all
//! of them. An entry occupies an extent. Its payload is a sequence of fields
//! ([`mod@super::fields`]), filled up with zeros. Numbers are little-endian.
//!
//! The line is text: a program that does not know this version finds the version there. It and the
//! salt never change. The checksum of the line is that of the versions before, of version, boot ID
//! and salt; the others are CRC-32, which finds damage. They need not resist an attacker, who would
//! have to be root.
//!
//! The checksum of an entry covers all of its extent except the tags, the stage and the mode. The
//! tags, stages and modes are words of a code in which two of them differ in at least four bits: up
//! to three changed bits are found.
//!
//! # Crashes
//!
//! The service may be killed between any two stores ([`super::mapping`]). The writer
//! ([`super::slot_file`]) keeps these rules:
//!
//! 1. *Structure.* A slot becomes part of an extent once and stays there, so tags change only from
//!    zero, in ascending order: first the word with the tag of the first slot and with the stage
//!    *removed*, then those of the next slots. At each instant the tags form whole extents. A next
//!    slot without a first one, or a slot without a tag that is not zero, is damage and no crash.
//! 2. *Content.* The content of a removed extent means nothing, and is not checked. The word with
//!    stage, mode, kind and capacity is stored last, in one instruction, so an extent whose stage is
//!    not *removed* has a complete entry and a right checksum. Anything else is damage.
//! 3. *Batch.* Entries that are appended together have the number of their batch. They count if the
//!    status says that this batch is committed. A batch is committed by one store, after all of its
//!    entries are complete. So all of them exist, or none: the owner of several locks changes at one
//!    instant.
//! 4. *Status.* Both copies have the same content. The first is rewritten, its checksum last; then
//!    the second. A torn copy has a wrong checksum, and the other one is right: before the store of
//!    the first checksum that is the old status, and after it the new one. That store commits the
//!    batch and, at the same instant, the numbers that its entries use. So numbers never go back,
//!    and a committed entry never has a number above the highest.
//! 5. *Reuse.* An extent is reused only after its entry is marked *removed*. The mark stays until
//!    the next entry is complete, and that entry has the number of a batch that is not committed
//!    yet. So the old entry cannot reappear, and the new one does not appear early. Because the
//!    highest numbers are in the status, they outlive the entries.
//!
//! An entry that is not committed when the service dies is therefore no damage and has no effect:
//! no client had a reply that depends on it.

use crc32fast::Hasher;

use super::entry::{EntryStage, MODES};
use super::json::format::{MAGIC, checksum};
use super::record::{HighestNumbers, Record};
use crate::lock::Mode;

/// The version that this program writes.
pub const VERSION: u64 = 8;

/// The length of a slot, in bytes.
pub(super) const SLOT: usize = 64;
/// The number of words in a slot.
pub(super) const WORDS: usize = SLOT / 8;
/// The offsets of the copies of the status.
pub(super) const STATUS: [usize; 2] = [2 * SLOT, 3 * SLOT];
/// The slot at which the extents begin.
pub(super) const BEGIN: u32 = 4;
/// The offset of the stage in a first slot; the mode follows.
pub(super) const STAGE: usize = 1;
/// The tag of a first slot.
pub(super) const FIRST: u8 = 0xcc;
/// The tag of a next slot.
pub(super) const NEXT: u8 = 0xf0;
/// The offset of the payload in a first slot.
pub(super) const PAYLOAD: usize = 24;
/// The magic number of a status.
const STATUS_MAGIC: u32 = u32::from_le_bytes(*b"VML8");

/// Returns the byte of a stage.
pub(super) fn stage_byte(stage: EntryStage) -> u8 {
    match stage {
        EntryStage::Granting => 0x0f,
        EntryStage::Held => 0x33,
        EntryStage::Reacquired => 0x3c,
        EntryStage::Releasing => 0x55,
        EntryStage::Suspended => 0x5a,
        EntryStage::Reserved => 0x66,
        EntryStage::Removed => 0x69,
    }
}

/// Returns the stage of a byte.
pub(super) fn stage_of(byte: u8) -> Option<EntryStage> {
    EntryStage::ALL.into_iter().find(|stage| stage_byte(*stage) == byte)
}

/// Returns the byte of a mode.
pub(super) fn mode_byte(mode: Option<Mode>) -> u8 {
    match mode {
        Some(Mode::Exclusive) => 0x96,
        Some(Mode::Shared) => 0x99,
        Some(Mode::None) => 0xa5,
        None => 0xaa,
    }
}

/// Returns the mode of a byte; `None` also for an entry that is no lock.
pub(super) fn mode_of(byte: u8) -> Option<Mode> {
    MODES.into_iter().find(|mode| mode_byte(*mode) == byte).flatten()
}

/// Returns the byte of the kind of a record.
pub(super) fn kind_byte(record: &Record) -> u8 {
    match record {
        Record::HighestNumbers(_) => 0,
        Record::Owner(_) => 1,
        Record::Anchor(_) => 2,
        Record::Lock(_) => 3,
        Record::Lockspace(_) => 4,
        Record::Offer(_) => 5,
    }
}

/// Returns the first line of a file.
pub(super) fn line(boot: &str, salt: u32) -> String {
    let text = format!("{VERSION} {boot} {salt:08x}");
    let sum = checksum(text.as_bytes());
    format!("{MAGIC} {text} {}\n", sum.escape_ascii())
}

/// Returns the boot ID and the salt that the words of a line after the magic contain, if its
/// checksum is right.
pub(super) fn read_line<'a>(words: &[&'a str]) -> Option<(&'a str, u32)> {
    let [version, boot, salt, sum] = *words else { return None };
    let is_proven = checksum(format!("{version} {boot} {salt}").as_bytes()) == *sum.as_bytes();
    Some((boot, u32::from_str_radix(salt, 16).ok()?)).filter(|_| is_proven)
}

/// The part of the head that changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    /// The last batch that is committed.
    pub(super) batch: u64,
    /// The highest numbers that were assigned.
    pub(super) highest: HighestNumbers,
    /// The slot after the last one in use.
    pub(super) end: u32,
    /// The random number of the file.
    pub(super) salt: u32,
}

impl Status {
    /// The number of words.
    const WORDS: usize = 5;

    /// Returns the words of the status; the last contains the checksum.
    pub(super) fn words(self) -> [u64; Self::WORDS] {
        let Self { batch, highest: HighestNumbers { lock, anchor }, end, salt } = self;
        let mut words = [batch, lock, anchor, join(end, salt), 0];
        words[4] = join(STATUS_MAGIC, checksum_of(&words));
        words
    }

    /// Reads a status; `None` if it is torn or damaged.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut words = [0; Self::WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.get(..SLOT)?.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        let [batch, lock, anchor, last, _] = words;
        let (end, salt) = split(last);
        let status = Self { batch, highest: HighestNumbers { lock, anchor }, end, salt };
        (status.words() == words).then_some(status)
    }
}

/// Returns the checksum of the first four words of a status.
fn checksum_of(words: &[u64]) -> u32 {
    let mut hasher = Hasher::new_with_initial(STATUS_MAGIC);
    words.iter().take(4).for_each(|word| hasher.update(&word.to_le_bytes()));
    hasher.finalize()
}

/// Returns a word of two halves; the first has the lower address.
pub(super) fn join(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << 32
}

/// Returns the halves of a word.
#[allow(clippy::cast_possible_truncation, reason = "halves")]
pub(super) fn split(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// The first slot of an extent, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) stage: u8,
    pub(super) mode: u8,
    pub(super) kind: u8,
    pub(super) capacity: u32,
    pub(super) batch: u64,
    pub(super) checksum: u32,
    pub(super) salt: u32,
}

impl Header {
    /// Returns the word with tag, stage, mode, kind and capacity.
    pub(super) fn word(self) -> u64 {
        let first = u32::from_le_bytes([FIRST, self.stage, self.mode, self.kind]);
        join(first, self.capacity)
    }

    /// Reads the header of a first slot, whatever its tag.
    pub(super) fn read(slot: &[u8]) -> Option<Self> {
        let mut value = super::fields::Value(slot.get(..PAYLOAD)?);
        let [_, stage, mode, kind] = value.array()?;
        let (capacity, batch) = (value.u32()?, value.u64()?);
        let (checksum, salt) = (value.u32()?, value.u32()?);
        Some(Self { stage, mode, kind, capacity, batch, checksum, salt })
    }

    /// Returns the checksum that an entry with this header and payload must have. The payload fills
    /// the extent.
    pub(super) fn sum(self, payload: &[u8]) -> u32 {
        let mut hasher = Hasher::new_with_initial(self.salt);
        let mut head = [0; 13];
        head[0] = self.kind;
        head[1..5].copy_from_slice(&self.capacity.to_le_bytes());
        head[5..].copy_from_slice(&self.batch.to_le_bytes());
        hasher.update(&head);
        hasher.update(payload);
        hasher.finalize()
    }
}

/// Returns the number of slots that a payload needs; `None` if it is too long for a file.
pub(super) fn slots_for(payload: usize) -> Option<u32> {
    let rest = payload.saturating_sub(SLOT - PAYLOAD);
    u32::try_from(rest.div_ceil(SLOT - 1)).ok()?.checked_add(1)
}

/// Returns the length of the payload of an extent.
pub(super) fn payload_of(capacity: u32) -> usize {
    (SLOT - PAYLOAD) + (capacity.saturating_sub(1) as usize) * (SLOT - 1)
}
