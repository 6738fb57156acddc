//! The contents of a state file that was read.
//!
//! Every entry that is not damaged counts, whatever happened to the others; damaged entries are
//! counted. A caller must conclude nothing from an entry that is missing from a damaged file.

use std::fs;
use std::io;

use super::entry::{EntryPosition, EntryStage, StateEntry};
use super::record::{HighestNumbers, Record};
use super::suspect::{SUSPECTS_MAX, Suspect};

/// The maximum number of numbers that are skipped because of damage.
const SKIPPED_MAX: u64 = 1 << 30;

/// The contents of a state file.
#[derive(Debug, Default)]
pub struct Contents {
    /// The version of the file; `None` if it is damaged.
    pub version: Option<u64>,
    /// The undamaged entries of things that exist.
    pub entries: Vec<StateEntry>,
    /// The positions of these entries in the file.
    pub positions: Vec<EntryPosition>,
    /// The highest numbers that were assigned.
    pub highest: HighestNumbers,
    /// The damaged parts of the file; the part that is missing from a file that ends too early
    /// counts as one.
    pub damage: Vec<Damage>,
    /// The disks and leases that damaged entries of held locks name.
    pub suspects: Vec<Suspect>,
    /// The damaged entries of suspended and reserved locks that can be decoded.
    pub unproven: Vec<StateEntry>,
    /// There is no file.
    pub missing: bool,
    /// The file was written before this host was booted: all VMs of that boot have ended, and all
    /// their locks with them.
    pub outlived: bool,
}

/// A damaged part of a state file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The offset of the part in the file.
    pub offset: usize,
    /// The length of the part, in bytes.
    pub length: usize,
    /// The names of the disks and leases whose held locks it still names, for messages.
    pub names: Vec<String>,
}

impl Contents {
    /// Returns the number of damaged parts.
    #[must_use]
    pub fn damaged(&self) -> usize {
        self.damage.len()
    }

    /// Adds a damaged part, and the disks and leases that it names.
    pub(super) fn add_damage(&mut self, offset: usize, length: usize, suspects: Vec<Suspect>) {
        let names = suspects.iter().map(|suspect| suspect.name.shown()).collect();
        self.damage.push(Damage { offset, length, names });
        if self.suspects.len() < SUSPECTS_MAX {
            self.suspects.extend(suspects);
        }
    }

    /// Adds damaged entries of suspended and reserved locks.
    pub(super) fn add_unproven(&mut self, entries: Vec<StateEntry>) {
        if self.unproven.len() < SUSPECTS_MAX {
            self.unproven.extend(entries);
        }
    }

    /// Skips numbers that lost entries may have had. If a number was assigned again, a client that
    /// knows it would take the new lock for the old one.
    pub(super) fn skip_numbers(&mut self, numbers: usize) {
        let numbers = (numbers as u64).min(SKIPPED_MAX);
        self.highest.lock = self.highest.lock.saturating_add(numbers);
        self.highest.anchor = self.highest.anchor.saturating_add(numbers);
    }

    /// Adds an undamaged entry, at `position` if its record has an ID.
    pub(super) fn add(&mut self, entry: StateEntry, position: Option<EntryPosition>) {
        if let Record::HighestNumbers(highest) = &entry.record {
            self.highest.lock = self.highest.lock.max(highest.lock);
            self.highest.anchor = self.highest.anchor.max(highest.anchor);
        }
        let Some(position) = position else { return };
        self.highest.include(position.id);
        if entry.stage != EntryStage::Removed {
            self.positions.push(position);
            self.entries.push(entry);
        }
    }
}

/// Returns the ID of the current boot (`random(4)`).
pub(super) fn boot_id() -> Result<String, io::Error> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
