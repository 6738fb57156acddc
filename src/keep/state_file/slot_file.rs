//! The slots of a mapped state file: appending entries, and changing them in place.
//!
//! The order of the stores is that of the rules in [`mod@super::layout`]; each `store` is one
//! instruction.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;

use rustix::io::Errno;
use uuid::Uuid;

use super::entry::{EntryStage, StateEntry};
use super::fields::FieldWriter;
use super::layout::{
    BEGIN, FIRST, Header, NEXT, PAYLOAD, SLOT, STATUS, Status, WORDS, join, kind_byte, line,
    mode_byte, payload_of, slots_for, split, stage_byte,
};
use super::mapping::{Mapping, allocate};
use super::record::{HighestNumbers, RecordId};
use crate::lock::Mode;

/// The unit in which a file grows if there is no space for more, in bytes: a page.
const LEAST: u64 = 4096;
/// The minimum by which a file grows, in bytes.
const CHUNK: u64 = 64 * 1024;
/// The maximum by which a file grows, in bytes.
const CHUNK_MAX: u64 = 4 * 1024 * 1024;
/// How far the slots of removed entries may exceed twice those of all others before the file is
/// rewritten.
pub(super) const SLACK: u32 = 4096;

/// A mapped state file, with the locations of its entries.
#[derive(Debug)]
pub(super) struct SlotFile {
    file: File,
    mapping: Mapping,
    /// The first slot of each entry that exists.
    index: HashMap<RecordId, u32>,
    /// The extents of removed entries, by their capacity.
    free: BTreeMap<u32, Vec<u32>>,
    /// The number of slots in them.
    free_slots: u32,
    /// The minimum number of free slots for a rewrite, after one has failed.
    patience: u32,
    status: Status,
    /// The payload of the entries that are being appended.
    scratch: Vec<u8>,
}

/// An entry that is encoded, and the extent for it.
struct Placed {
    id: Option<RecordId>,
    payload: std::ops::Range<usize>,
    header: Header,
    first: u32,
    is_new: bool,
}

impl SlotFile {
    /// Writes the head of an empty file, in which no number below `highest` is free. There is space
    /// for `slots` slots.
    pub(super) fn new(file: File, boot: &str, status: Status, slots: u32) -> io::Result<Self> {
        let status = Status { end: BEGIN, ..status };
        let (mapping, index, free) = (grow(&file, 0, slots)?, HashMap::new(), BTreeMap::new());
        let scratch = Vec::new();
        let created =
            Self { file, mapping, index, free, free_slots: 0, patience: 0, status, scratch };
        let line = line(boot, status.salt);
        for (at, bytes) in line.as_bytes().chunks(8).enumerate() {
            created.store(at, word_of(bytes))?;
        }
        created.store_status(status)?;
        Ok(created)
    }

    /// Writes a complete file to an empty one.
    pub(super) fn with(
        file: File,
        boot: &str,
        entries: &[StateEntry],
        highest: HighestNumbers,
    ) -> io::Result<Self> {
        let (salt, _) = split(Uuid::new_v4().as_u64_pair().1);
        let status = Status { batch: 0, highest, end: BEGIN, salt };
        let mut created = Self::new(file, boot, status, BEGIN)?;
        created.append(entries)?;
        Ok(created)
    }

    /// Returns the number of slots in use.
    pub(super) fn end(&self) -> u32 {
        self.status.end
    }

    /// Returns whether the slots of removed entries should be cleared out.
    pub(super) fn is_wasteful(&self) -> bool {
        let used = self.status.end - self.free_slots.min(self.status.end);
        self.free_slots > (used.saturating_mul(2)).saturating_add(SLACK).max(self.patience)
    }

    /// Postpones the next rewrite until there are twice as many free slots.
    pub(super) fn postpone(&mut self) {
        self.patience = self.free_slots.saturating_mul(2);
    }

    /// Appends entries, all of them or none.
    pub(super) fn append(&mut self, entries: &[StateEntry]) -> io::Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let appended = self.place(entries, &mut scratch).and_then(|(placed, end)| {
            self.write_all(&placed, end, &scratch)?;
            self.finish(placed)
        });
        self.scratch = scratch;
        appended
    }

    /// Encodes entries and finds an extent for each. Stores nothing. Returns the end of the slots
    /// in use with them.
    fn place(
        &mut self,
        entries: &[StateEntry],
        payloads: &mut Vec<u8>,
    ) -> io::Result<(Vec<Placed>, u32)> {
        let (mut placed, mut end) = (Vec::with_capacity(entries.len()), self.status.end);
        let too_large = || io::Error::from(Errno::FBIG);
        let mut needed = Vec::with_capacity(entries.len());
        // The highest numbers have no entry, but are in the status.
        let entries = || entries.iter().filter(|entry| entry.record.id().is_some());
        for entry in entries() {
            let begin = payloads.len();
            let mut writer = FieldWriter { bytes: &mut *payloads, salt: self.status.salt };
            entry.record.encode(&mut writer);
            needed.push((begin, slots_for(payloads.len() - begin).ok_or_else(too_large)?));
            // The payload fills the extent.
            let (_, slots) = needed[needed.len() - 1];
            let extra = payload_of(slots) - (payloads.len() - begin);
            payloads.resize(payloads.len() + extra, 0);
        }
        // Only what no removed entry has room for needs space.
        let mut free = Vec::new();
        for (entry, (begin, slots)) in entries().zip(needed) {
            let (first, is_new) = match self.reuse(slots) {
                Some(first) => {
                    free.push((slots, first));
                    (first, false)
                }
                None => (end, true),
            };
            if is_new {
                end = end.checked_add(slots).ok_or_else(too_large)?;
            }
            let payload = begin..begin + payload_of(slots);
            let header = Header {
                stage: stage_byte(entry.stage),
                mode: mode_byte(entry.mode),
                kind: kind_byte(&entry.record),
                capacity: slots,
                batch: self.status.batch + 1,
                checksum: 0,
                salt: self.status.salt,
            };
            let header = Header { checksum: header.sum(&payloads[payload.clone()]), ..header };
            placed.push(Placed { id: entry.record.id(), payload, header, first, is_new });
        }
        if let Err(error) = self.reserve(end) {
            for (slots, first) in free {
                self.release(slots, first);
            }
            return Err(error);
        }
        Ok((placed, end))
    }

    /// Takes a removed extent of this capacity. Entries of one kind have similar lengths, so
    /// extents of other capacities are not split.
    fn reuse(&mut self, slots: u32) -> Option<u32> {
        let first = self.free.get_mut(&slots)?.pop()?;
        self.free_slots -= slots;
        Some(first)
    }

    /// Adds a removed extent to those that can be reused.
    fn release(&mut self, slots: u32, first: u32) {
        self.free.entry(slots).or_default().push(first);
        self.free_slots = self.free_slots.saturating_add(slots);
    }

    /// Makes the file long enough for the slots before `end`.
    fn reserve(&mut self, end: u32) -> io::Result<()> {
        if end as usize * WORDS > self.mapping.len() {
            let length = self.mapping.len() as u64 * 8;
            self.mapping = grow(&self.file, length, end)?;
        }
        Ok(())
    }

    /// Writes entries to their extents. They count only once the batch is committed.
    fn write_all(&mut self, placed: &[Placed], end: u32, payloads: &[u8]) -> io::Result<()> {
        for Placed { payload, header, first, is_new, .. } in placed {
            let payload = &payloads[payload.clone()];
            if *is_new {
                self.lay_out(*first, *header)?;
            }
            self.fill(*first, *header, payload)?;
        }
        let mut status = Status { batch: self.status.batch + 1, end, ..self.status };
        placed.iter().filter_map(|placed| placed.id).for_each(|id| status.highest.include(id));
        self.store_status(status)?;
        self.status = status;
        Ok(())
    }

    /// Makes slots that were never used an extent, whose entry is removed.
    fn lay_out(&self, first: u32, header: Header) -> io::Result<()> {
        let stage = stage_byte(EntryStage::Removed);
        self.store(word_at(first), Header { stage, ..header }.word())?;
        for slot in first + 1..first + header.capacity {
            self.store(word_at(slot), u64::from(NEXT))?;
        }
        Ok(())
    }

    /// Writes an entry to an extent whose entry is removed.
    fn fill(&self, first: u32, header: Header, payload: &[u8]) -> io::Result<()> {
        let (beginning, rest) = payload.split_at(SLOT - PAYLOAD);
        for (slot, payload) in (first + 1..).zip(rest.chunks(SLOT - 1)) {
            let mut bytes = [0; SLOT];
            bytes[0] = NEXT;
            bytes[1..=payload.len()].copy_from_slice(payload);
            for (at, word) in bytes.chunks_exact(8).enumerate() {
                self.store(word_at(slot) + at, word_of(word))?;
            }
        }
        let start = word_at(first);
        for (at, word) in beginning.chunks_exact(8).enumerate() {
            self.store(start + PAYLOAD / 8 + at, word_of(word))?;
        }
        self.store(start + 1, header.batch)?;
        self.store(start + 2, join(header.checksum, header.salt))?;
        self.store(start, header.word())
    }

    /// Writes the status; the last word of the first copy commits it.
    fn store_status(&self, status: Status) -> io::Result<()> {
        for copy in STATUS {
            for (at, word) in status.words().into_iter().enumerate() {
                self.store(copy / 8 + at, word)?;
            }
        }
        Ok(())
    }

    /// Enters appended entries into the index. An earlier entry with the same ID is removed.
    fn finish(&mut self, placed: Vec<Placed>) -> io::Result<()> {
        for Placed { id, first, .. } in placed {
            let Some(earlier) = id.and_then(|id| self.index.insert(id, first)) else { continue };
            // Two records of one batch are kept, although one of them cannot be changed any more.
            if self.mapping.load(word_at(earlier) + 1) != self.status.batch {
                self.remove(earlier)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, first: u32) -> io::Result<()> {
        let word = self.with_bytes(first, 1, stage_byte(EntryStage::Removed))?;
        let (_, capacity) = split(word);
        // The word may be damaged meanwhile; such an extent is not used again.
        let end = first.checked_add(capacity).filter(|end| *end <= self.status.end);
        if let Some(end) = end
            && self.tag(first) == FIRST
            && (first + 1..end).all(|slot| self.tag(slot) == NEXT)
            && (end == self.status.end || self.tag(end) != NEXT)
        {
            self.release(capacity, first);
        }
        Ok(())
    }

    /// Sets the stage of an entry; returns `false` if there is no such entry.
    pub(super) fn set_stage(&mut self, id: RecordId, stage: EntryStage) -> io::Result<bool> {
        if stage == EntryStage::Removed {
            return match self.index.remove(&id) {
                Some(first) => self.remove(first).map(|()| true),
                None => Ok(false),
            };
        }
        let Some(first) = self.index.get(&id) else { return Ok(false) };
        self.with_bytes(*first, 1, stage_byte(stage)).map(|_| true)
    }

    /// Sets the mode of a lock; returns `false` if there is no such entry.
    pub(super) fn set_mode(&mut self, id: RecordId, mode: Mode) -> io::Result<bool> {
        let Some(first) = self.index.get(&id) else { return Ok(false) };
        self.with_bytes(*first, 2, mode_byte(Some(mode))).map(|_| true)
    }

    /// Replaces a byte in the first word of an entry; returns that word.
    fn with_bytes(&self, first: u32, at: usize, byte: u8) -> io::Result<u64> {
        let mut bytes = self.mapping.load(word_at(first)).to_le_bytes();
        bytes[at] = byte;
        let word = u64::from_le_bytes(bytes);
        self.store(word_at(first), word)?;
        Ok(word)
    }

    /// Copies all entries that exist to an empty file, as they are: what is damaged stays so.
    pub(super) fn copy_to(&self, file: File, boot: &str) -> io::Result<Self> {
        let mut all: Vec<(u32, RecordId)> =
            self.index.iter().map(|(id, first)| (*first, *id)).collect();
        all.sort_unstable_by_key(|(first, _)| *first);
        let mut copy = Self::new(file, boot, self.status, self.end() - self.free_slots)?;
        for (first, id) in all {
            let next = (first + 1..self.end()).take_while(|slot| self.tag(*slot) == NEXT).count();
            let capacity = u32::try_from(next).unwrap_or(u32::MAX).saturating_add(1);
            let to = copy.status.end;
            let end = to.checked_add(capacity).ok_or(Errno::FBIG)?;
            copy.reserve(end)?;
            for at in 0..capacity as usize * WORDS {
                copy.store(word_at(to) + at, self.mapping.load(word_at(first) + at))?;
            }
            copy.status.end = end;
            copy.index.insert(id, to);
        }
        copy.store_status(copy.status)?;
        Ok(copy)
    }

    fn tag(&self, slot: u32) -> u8 {
        self.mapping.load(word_at(slot)).to_le_bytes()[0]
    }

    fn store(&self, at: usize, word: u64) -> io::Result<()> {
        #[cfg(test)]
        super::crash::before_store(&self.mapping);
        // `reserve` has made the mapping long enough.
        if self.mapping.store(at, word) { Ok(()) } else { Err(Errno::FAULT.into()) }
    }
}

/// Makes a file of `length` bytes long enough for the slots before `end`, by a chunk if there is
/// space for one, and maps it.
fn grow(file: &File, length: u64, end: u32) -> io::Result<Mapping> {
    let least = (u64::from(end) * SLOT as u64).next_multiple_of(LEAST);
    let wanted = (length + length.clamp(CHUNK, CHUNK_MAX)).max(least);
    if allocate(file, wanted).is_ok() {
        return Mapping::new(file, wanted);
    }
    allocate(file, least)?;
    Mapping::new(file, least)
}

/// Returns the index of the first word of a slot.
fn word_at(slot: u32) -> usize {
    slot as usize * WORDS
}

/// Returns the word of up to 8 bytes.
fn word_of(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}
