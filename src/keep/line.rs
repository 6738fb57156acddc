//! One line of the state file: `<stage><mode> <checksum> <record>`.
//!
//! The record is written once, and its checksum tells whether it still is what was written. What
//! changes in the life of a thing are its stage and mode: a byte each, so that a change is a
//! write of one byte in place. That needs no room on the file system, can't be half done, and
//! costs the same whatever else is in the file.

use sha2::{Digest, Sha256};

use super::record::Record;
use crate::lock::Mode;

/// How far the thing is that a line tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Begun, and nobody was told.
    Granting,
    /// There, and somebody was told.
    Held,
    /// Held; the service acquired it again by itself after a restart, and its owner has not asked
    /// for it since.
    Reacquired,
    /// Being given up.
    Releasing,
    /// Given up, or being given up, and remembered.
    Suspended,
    /// Released, and reserved for its former owner.
    Reserved,
    /// Gone: the line tells of nothing any more, but for the number that is used.
    Gone,
}

impl Step {
    /// The byte for it.
    pub(super) fn byte(self) -> u8 {
        match self {
            Self::Granting => b'g',
            Self::Held => b'h',
            Self::Reacquired => b'a',
            Self::Releasing => b'r',
            Self::Suspended => b's',
            Self::Reserved => b'v',
            Self::Gone => b'-',
        }
    }

    /// Returns the step that a byte stands for.
    pub(super) fn of(byte: u8) -> Option<Self> {
        let all = [
            Self::Granting,
            Self::Held,
            Self::Reacquired,
            Self::Releasing,
            Self::Suspended,
            Self::Reserved,
            Self::Gone,
        ];
        all.into_iter().find(|step| step.byte() == byte)
    }
}

/// The byte for a mode; what has none gets a dot.
pub(super) fn mode_byte(mode: Option<Mode>) -> u8 {
    match mode {
        Some(Mode::Exclusive) => b'x',
        Some(Mode::Shared) => b's',
        Some(Mode::None) => b'n',
        None => b'.',
    }
}

/// How long the part before the record is.
pub(super) const HEAD: usize = 3 + 16 + 1;

/// A line, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// How far it is.
    pub step: Step,
    /// The mode of a lock.
    pub mode: Option<Mode>,
    /// What it tells of.
    pub record: Record,
}

impl Line {
    /// The line as bytes, with its end.
    ///
    /// # Errors
    ///
    /// None that a record of ours can cause.
    pub(super) fn write(&self) -> Result<Vec<u8>, serde_json::Error> {
        let record = serde_json::to_vec(&self.record)?;
        let mut bytes = Vec::with_capacity(HEAD + record.len() + 1);
        bytes.extend([self.step.byte(), mode_byte(self.mode), b' ']);
        bytes.extend(checksum(&record));
        bytes.push(b' ');
        bytes.extend(record);
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads a line without its end; `None` where it is damaged.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (head, record) = bytes.split_at_checked(HEAD)?;
        let [.., b' '] = head else { return None };
        (checksum(record)[..] == head[3..HEAD - 1]).then(|| Self::read_unproven(bytes)).flatten()
    }

    /// Reads a line without its end, whatever its checksum.
    pub(super) fn read_unproven(bytes: &[u8]) -> Option<Self> {
        let (head, record) = bytes.split_at_checked(HEAD)?;
        let [step, mode, b' ', ..] = head else { return None };
        let step = Step::of(*step)?;
        let mode = [Some(Mode::Exclusive), Some(Mode::Shared), Some(Mode::None), None]
            .into_iter()
            .find(|known| mode_byte(*known) == *mode)?;
        let record = serde_json::from_slice(record).ok()?;
        let is_lock = matches!(record, Record::Lock(_));
        (is_lock == mode.is_some()).then_some(Self { step, mode, record })
    }
}

/// The beginning of the SHA-256, in hex: against damage, not against an enemy, who would be root.
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
