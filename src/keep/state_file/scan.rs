//! Reading a state file of version 8.
//!
//! The slots are read in order, up to the last one in use. An extent whose entry is complete is read
//! as a whole; everything else that is no removed entry is damage, up to the next slot that begins
//! an extent, or contains zeros. [`mod@super::layout`] says what a crash can leave, and
//! that none of it looks like damage.

use std::io;

use super::contents::{Contents, boot_id};
use super::damaged::{Piece, read_suspects, read_unheld_locks};
use super::entry::{Encoding, EntryPosition, EntryStage, StateEntry};
use super::fields::Fields;
use super::json::format::MAGIC;
use super::layout::{
    BEGIN, FIRST, Header, NEXT, PAYLOAD, SLOT, STAGE, STATUS, Status, kind_byte, mode_byte,
    mode_of, payload_of, read_line, stage_of,
};
use super::record::{Record, RecordId};

/// The slots of a file, and what the head says about them.
struct Scan<'a> {
    bytes: &'a [u8],
    /// The salt; `None` if it is lost.
    salt: Option<u32>,
    /// The status; `None` if it is lost.
    status: Option<Status>,
    /// The slot after the last one.
    end: usize,
}

/// An extent, or a slot that belongs to none.
enum Part {
    /// Slots that mean nothing, or an entry that is not committed.
    Nothing,
    /// A slot in use that contains zeros.
    Zero,
    Entry(Box<StateEntry>),
    /// Damage that begins here.
    Damage,
    /// Damage that continues the damage before it, if that is not zeros.
    Rest,
}

/// Reads a state file. The version in its line, if there is one, is known to be supported.
///
/// # Errors
///
/// The ID of this boot cannot be read.
pub(super) fn read(bytes: &[u8]) -> io::Result<Contents> {
    let mut contents = Contents::default();
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let words: Vec<&str> = str::from_utf8(line).unwrap_or_default().split_whitespace().collect();
    let line = match words[..] {
        [MAGIC, ref more @ ..] => read_line(more),
        _ => None,
    };
    if let Some((boot, _)) = line {
        contents.outlived = boot != boot_id()?;
    }
    // Both copies are right, except when the service died while it wrote one of them.
    let status = STATUS.into_iter().filter_map(|at| Status::read(bytes.get(at..)?));
    let status = status.max_by_key(|status| status.batch);
    let version = words.get(1).is_some_and(|version| *version == super::VERSION.to_string());
    if line.is_none() || !version || status.is_none() {
        contents.add_damage(0, BEGIN as usize * SLOT, Vec::new());
    }
    let salt = status.map(|status| status.salt).or(line.map(|(_, salt)| salt));
    let mut scan = Scan { bytes, salt, status, end: bytes.len().div_ceil(SLOT) };
    if let Some(status) = status {
        contents.highest = status.highest;
        let end = status.end as usize;
        if end * SLOT > bytes.len() {
            contents.add_damage(bytes.len(), end * SLOT - bytes.len(), Vec::new());
        }
        scan.end = scan.end.min(end);
    }
    // An entry that proves itself has the salt as well.
    scan.salt = scan.salt.or_else(|| scan.found_salt());
    scan.read_slots(&mut contents);
    if status.is_none() {
        // Each entry has a slot of its own.
        contents.skip_numbers(bytes.len() / SLOT);
    }
    sort(&mut contents);
    Ok(contents)
}

/// Returns whether bytes contain an entry that proves itself.
pub(super) fn has_entries(bytes: &[u8]) -> bool {
    let end = bytes.len().div_ceil(SLOT);
    Scan { bytes, salt: None, status: None, end }.found_salt().is_some()
}

impl Scan<'_> {
    /// Returns the bytes of a slot; those behind the end of the file are zeros.
    fn slot(&self, slot: usize) -> [u8; SLOT] {
        let mut bytes = [0; SLOT];
        let found = self.bytes.get(slot * SLOT..).unwrap_or_default();
        let length = found.len().min(SLOT);
        bytes[..length].copy_from_slice(&found[..length]);
        bytes
    }

    fn tag(&self, slot: usize) -> u8 {
        self.bytes.get(slot * SLOT).copied().unwrap_or_default()
    }

    /// Returns the slot after the extent that begins at `first`.
    fn end_of(&self, first: usize) -> usize {
        let next = (first + 1..self.end).take_while(|slot| self.tag(*slot) == NEXT).count();
        first + 1 + next
    }

    /// Returns the payload of some slots. Only the first of them may be a first slot.
    fn payload(&self, slots: std::ops::Range<usize>, has_first: bool) -> Vec<u8> {
        let mut payload = Vec::with_capacity(slots.len() * SLOT);
        for slot in slots.clone() {
            let from = if has_first && slot == slots.start { PAYLOAD } else { 1 };
            payload.extend(&self.slot(slot)[from..]);
        }
        payload
    }

    /// Returns the header and the payload of an extent if they prove themselves.
    fn proven(&self, first: usize) -> Option<(Header, Vec<u8>)> {
        let header = Header::read(&self.slot(first))?;
        let end = self.end_of(first);
        let capacity = usize::try_from(header.capacity).ok()?;
        let has_salt = self.salt.is_none_or(|salt| salt == header.salt);
        if self.tag(first) != FIRST || capacity != end - first || !has_salt {
            return None;
        }
        let payload = self.payload(first..end, true);
        let is_proven = payload.len() == payload_of(header.capacity);
        (is_proven && header.sum(&payload) == header.checksum).then_some((header, payload))
    }

    /// Returns the salt of the first entry that proves itself.
    fn found_salt(&self) -> Option<u32> {
        let all = (BEGIN as usize..self.end).filter(|slot| self.tag(*slot) == FIRST);
        all.filter_map(|slot| self.proven(slot)).map(|(header, _)| header.salt).next()
    }

    /// Reads what begins at a slot. Returns the slot after it.
    fn part(&self, first: usize) -> (Part, usize) {
        let slot = self.slot(first);
        if slot.iter().all(|byte| *byte == 0) {
            // No slot in use is free. If it is not known which are in use, it may be none.
            let part = if self.status.is_some() { Part::Zero } else { Part::Nothing };
            return (part, first + 1);
        }
        if slot[0] != FIRST {
            // A damaged tag of a first slot: the salt tells.
            let salt = Header::read(&slot).map(|header| header.salt);
            let begins = slot[0] != NEXT && salt.is_some() && salt == self.salt;
            return (if begins { Part::Damage } else { Part::Rest }, first + 1);
        }
        let end = self.end_of(first);
        let stage = stage_of(slot[STAGE]);
        if stage == Some(EntryStage::Removed) {
            return (Part::Nothing, end);
        }
        let Some((header, payload)) = self.proven(first) else { return (Part::Damage, end) };
        if self.status.is_some_and(|status| header.batch > status.batch) {
            return (Part::Nothing, end);
        }
        let entry = stage.and_then(|stage| decode(stage, header, &payload));
        (entry.map_or(Part::Damage, |entry| Part::Entry(Box::new(entry))), end)
    }

    fn read_slots(&self, contents: &mut Contents) {
        let mut slot = BEGIN as usize;
        // The damage that ends before `slot`, and whether it consists of zeros.
        let mut damage: Option<(std::ops::Range<usize>, bool)> = None;
        while slot < self.end {
            let (part, end) = self.part(slot);
            let is_zero = matches!(part, Part::Zero);
            let start = damage.as_ref().map_or(slot, |(damage, _)| damage.start);
            let continues = damage.as_ref().is_some_and(|(_, zeros)| *zeros == is_zero);
            match part {
                Part::Zero | Part::Rest if continues => damage = Some((start..end, is_zero)),
                Part::Zero | Part::Rest | Part::Damage => {
                    self.add_damage(contents, damage.replace((slot..end, is_zero)));
                }
                Part::Nothing => self.add_damage(contents, damage.take()),
                Part::Entry(entry) => {
                    self.add_damage(contents, damage.take());
                    let StateEntry { stage, mode, .. } = *entry;
                    let offset = (slot * SLOT + STAGE) as u64;
                    let encoding = Encoding::Slots;
                    let at = |id| EntryPosition { id, offset, encoding, stage, mode };
                    let position = entry.record.id().map(at);
                    contents.add(*entry, position);
                }
            }
            slot = end;
        }
        self.add_damage(contents, damage.take());
    }

    /// Recovers what can be read of damaged slots.
    fn add_damage(&self, contents: &mut Contents, damage: Option<(std::ops::Range<usize>, bool)>) {
        let Some((slots, _)) = damage else { return };
        let first = self.slot(slots.start);
        // Next slots without a first one have no header.
        let header = Header::read(&first).filter(|header| {
            first[0] == FIRST || (first[0] != NEXT && Some(header.salt) == self.salt)
        });
        let payload = self.payload(slots.clone(), header.is_some());
        let piece = Piece { header, payload: &payload, salt: self.salt };
        let length = slots.len() * SLOT;
        contents.add_damage(slots.start * SLOT, length, read_suspects(&piece));
        contents.add_unproven(read_unheld_locks(&piece).into_iter().collect());
    }
}

/// Decodes an entry whose checksum is right; `None` if its stage, mode and record do not match.
pub(super) fn decode(stage: EntryStage, header: Header, payload: &[u8]) -> Option<StateEntry> {
    let mode = mode_of(header.mode);
    let record = Record::decode(&Fields::read(payload)?)?;
    let is_lock = matches!(record, Record::Lock(_));
    let has_mode = is_lock == mode.is_some() && header.mode == mode_byte(mode);
    let matches = has_mode && kind_byte(&record) == header.kind;
    matches.then_some(StateEntry { stage, mode, record })
}

/// Sorts entries roughly in the order in which they were appended: reused slots are in any order.
fn sort(contents: &mut Contents) {
    let order = |id: Option<RecordId>| match id {
        None => (0, 0),
        Some(RecordId::Lockspace(number)) => (1, u64::from(number)),
        Some(RecordId::Owner(number)) => (2, number),
        Some(RecordId::Anchor(number) | RecordId::Offer(number)) => (3, number),
        Some(RecordId::Lock(number)) => (4, number),
    };
    contents.entries.sort_by_key(|entry| order(entry.record.id()));
    contents.positions.sort_by_key(|position| order(Some(position.id)));
}
