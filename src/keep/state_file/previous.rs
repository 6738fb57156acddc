//! The state file of the previous service, while it cannot be replaced.
//!
//! A full or read-only file system must not keep the service from starting, since it can read all
//! that it needs. It then keeps the state in memory and records nothing new. Changes of stages and
//! modes are also written to the previous file: in place, which needs no space. After another
//! crash, the next service finds the previous file in the same state as a new one. The file may be
//! of an older version: in each, stage and mode are two adjacent bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::entry::{Encoding, EntryPosition, EntryStage, StateEntry};
use super::record::RecordId;
use super::{json, layout};
use crate::lock::Mode;

/// The state file of the previous service.
#[derive(Debug)]
pub(super) struct PreviousFile {
    file: File,
    offsets: HashMap<RecordId, (u64, Encoding)>,
}

impl PreviousFile {
    /// Opens the file, and sets the stages and modes of its entries at `positions` as `entries` has
    /// them. Entries that are not among `entries` become [`EntryStage::Removed`].
    ///
    /// # Errors
    ///
    /// An error if it cannot be written in place either, as on a read-only file system.
    pub(super) fn open(
        path: &Path,
        positions: &[EntryPosition],
        entries: &[StateEntry],
    ) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let place = |position: &EntryPosition| (position.offset, position.encoding);
        let offsets = positions.iter().map(|position| (position.id, place(position))).collect();
        let previous = Self { file, offsets };
        let with_id = |entry: &StateEntry| Some((entry.record.id()?, (entry.stage, entry.mode)));
        let remaining: HashMap<RecordId, (EntryStage, Option<Mode>)> =
            entries.iter().filter_map(with_id).collect();
        // Remaining entries first: an entry that replaces another one must be valid before the
        // replaced one is removed.
        for position in positions {
            let Some((stage, mode)) = remaining.get(&position.id).copied() else { continue };
            if (stage, mode) != (position.stage, position.mode) {
                let bytes = encode(position.encoding, stage, mode);
                previous.write(position.offset, &bytes)?;
            }
        }
        for position in positions {
            if !remaining.contains_key(&position.id) {
                let [removed, _] = encode(position.encoding, EntryStage::Removed, None);
                previous.write(position.offset, &[removed])?;
            }
        }
        Ok(previous)
    }

    /// Sets the stage of an entry, if the file has it.
    pub(super) fn set_stage(&self, id: RecordId, stage: EntryStage) -> io::Result<()> {
        let Some((offset, encoding)) = self.offsets.get(&id) else { return Ok(()) };
        let [stage, _] = encode(*encoding, stage, None);
        self.write(*offset, &[stage])
    }

    /// Sets the mode of an entry, if the file has it.
    pub(super) fn set_mode(&self, id: RecordId, mode: Option<Mode>) -> io::Result<()> {
        let Some((offset, encoding)) = self.offsets.get(&id) else { return Ok(()) };
        let [_, mode] = encode(*encoding, EntryStage::Removed, mode);
        self.write(offset + 1, &[mode])
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }
}

/// Returns the byte of a stage and the byte of a mode, which are adjacent in every version.
fn encode(encoding: Encoding, stage: EntryStage, mode: Option<Mode>) -> [u8; 2] {
    match encoding {
        Encoding::Json => [json::format::stage_byte(stage), json::format::mode_byte(mode)],
        Encoding::Slots => [layout::stage_byte(stage), layout::mode_byte(mode)],
    }
}

#[cfg(test)]
mod tests;
