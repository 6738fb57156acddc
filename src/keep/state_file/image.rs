//! A complete state file: composed in memory, and written in place of the old one.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::format::{EntryStage, StateEntry, head, mode_byte};
use super::record::{HighestNumbers, Record, RecordId};
use crate::lock::Mode;

/// How far the entries of removed things may exceed all others before the file is rewritten, in
/// bytes.
pub(super) const SLACK: u64 = 256 * 1024;

/// An encoded entry.
pub(super) struct EncodedEntry {
    id: Option<RecordId>,
    bytes: Vec<u8>,
    stage: EntryStage,
    mode: Option<Mode>,
}

/// The location and state of an entry in the file that is being written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Location {
    pub(super) offset: u64,
    pub(super) length: usize,
    pub(super) stage: EntryStage,
    pub(super) mode: Option<Mode>,
}

/// A state file that has been written, with the locations of its entries.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    /// The length that is written, as in the head.
    pub(super) length: u64,
    pub(super) locations: HashMap<RecordId, Location>,
    pub(super) highest: HighestNumbers,
    /// The length from which on the file is rewritten.
    pub(super) limit: u64,
}

impl EncodedEntry {
    /// Encodes an entry.
    fn encode(entry: &StateEntry) -> io::Result<Self> {
        let (id, bytes) = (entry.record.id(), entry.encode()?);
        Ok(Self { id, bytes, stage: entry.stage, mode: entry.mode })
    }

    /// Encodes several entries.
    pub(super) fn encode_all(entries: &[StateEntry]) -> io::Result<Vec<Self>> {
        entries.iter().map(Self::encode).collect()
    }

    /// Returns an entry that is already in a file, in its current stage and mode.
    pub(super) fn read(file: &File, id: RecordId, location: Location) -> io::Result<Self> {
        let Location { offset, length, stage, mode } = location;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset)?;
        bytes[0] = stage.byte();
        bytes[1] = mode_byte(mode);
        Ok(Self { id: Some(id), bytes, stage, mode })
    }

    /// Appends the entry to `bytes`, which begin at `start` in the file. Returns its location.
    pub(super) fn append_to(self, bytes: &mut Vec<u8>, start: u64) -> (Option<RecordId>, Location) {
        let Self { id, bytes: encoded, stage, mode } = self;
        let offset = start + bytes.len() as u64;
        let length = encoded.len();
        bytes.extend(encoded);
        (id, Location { offset, length, stage, mode })
    }

    /// Returns the key by which entries are sorted: the highest numbers first, the others roughly
    /// in the order in which they were appended.
    fn order(&self) -> (u8, u64) {
        match self.id {
            None => (0, 0),
            Some(RecordId::Lockspace(number)) => (1, u64::from(number)),
            Some(RecordId::Owner(number)) => (2, number),
            Some(RecordId::Anchor(number) | RecordId::Offer(number)) => (3, number),
            Some(RecordId::Lock(number)) => (4, number),
        }
    }
}

/// The bytes of a complete state file.
pub(super) struct Image {
    bytes: Vec<u8>,
    locations: HashMap<RecordId, Location>,
    highest: HighestNumbers,
}

impl Image {
    /// Composes a state file of this boot.
    pub(super) fn compose(
        boot: &str,
        mut entries: Vec<EncodedEntry>,
        highest: HighestNumbers,
    ) -> io::Result<Self> {
        let record = Record::HighestNumbers(highest);
        let first = StateEntry { stage: EntryStage::Held, mode: None, record };
        entries.push(EncodedEntry::encode(&first)?);
        entries.sort_by_key(EncodedEntry::order);
        let sizes = entries.iter().map(|entry| entry.bytes.len());
        let length = head(boot, 0).len() + sizes.sum::<usize>();
        let mut bytes = head(boot, length as u64).into_bytes();
        let mut locations = HashMap::with_capacity(entries.len());
        let mut highest = highest;
        for entry in entries {
            if let (Some(id), location) = entry.append_to(&mut bytes, 0) {
                locations.insert(id, location);
                highest.include(id);
            }
        }
        Ok(Self { bytes, locations, highest })
    }

    /// Writes the image to an empty file.
    pub(super) fn write_to(self, file: File) -> io::Result<OpenFile> {
        let Self { bytes, locations, highest } = self;
        file.write_all_at(&bytes, 0)?;
        let length = bytes.len() as u64;
        let limit = length * 2 + SLACK;
        Ok(OpenFile { file, length, locations, highest, limit })
    }

    /// Replaces the file at `path` atomically. If that fails, the old file stays as it is.
    pub(super) fn replace(self, path: &Path) -> io::Result<OpenFile> {
        let beside = path.with_extension("new");
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&beside)?;
        let written = self.write_to(file).and_then(|written| {
            fs::rename(&beside, path)?;
            Ok(written)
        });
        if written.is_err() {
            // A partial file would take space that the old one needs.
            let _ = fs::remove_file(&beside);
        }
        written
    }
}
