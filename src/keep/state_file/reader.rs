//! Reading the state file.
//!
//! Every entry that is not damaged counts, whatever happened to the others; damaged entries are
//! counted. A caller must conclude nothing from an entry that is missing from a damaged file.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::damaged::{SUSPECTS_MAX, Suspect, read_unheld_locks};
use super::format::{
    EntryPosition, EntryStage, FILE, LENGTH_DIGITS, MAGIC, OLDEST, StateEntry, VERSION, boot_id,
    checksum,
};
use super::record::{HighestNumbers, Record};
use crate::keep::Error;
use crate::lock::text::escape::shown_path;

/// The contents of a state file.
#[derive(Debug, Default)]
pub struct Contents {
    /// The undamaged entries of things that exist, in the order of the file.
    pub entries: Vec<StateEntry>,
    /// The positions of these entries in the file.
    pub positions: Vec<EntryPosition>,
    /// The highest numbers that were assigned.
    pub highest: HighestNumbers,
    /// The number of damaged entries; a file that ends too early counts as one.
    pub damaged: usize,
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

/// The minimum length of the entry of a lock, in bytes: limits how many entries damage can have
/// destroyed.
const SHORTEST_LOCK: usize = 64;
/// The maximum number of numbers that are skipped because of damage.
const SKIPPED_MAX: u64 = 1 << 30;

/// Reads the state file in a runtime directory. Changes nothing.
///
/// # Errors
///
/// [`Error::Version`] if its version is not supported; [`Error::File`] if it cannot be read.
pub fn read(directory: &Path) -> Result<Contents, Error> {
    let path = directory.join(FILE);
    let failed = Error::file(&path, "read");
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(mut file) => file.read_to_end(&mut bytes).map_err(&failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Contents { missing: true, ..Contents::default() });
        }
        Err(error) => return Err(failed(error)),
    };
    let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1);
    let (first, rest) = bytes.split_at(end);
    let words: Vec<&str> = str::from_utf8(first).unwrap_or_default().split_whitespace().collect();
    let mut contents = Contents::default();
    let mut written = bytes.len();
    match words[..] {
        [MAGIC, version, ref more @ ..] if is_number(version, more) => {
            match version.parse() {
                Ok(OLDEST..=VERSION) => {}
                Ok(found) => {
                    let file = shown_path(&path);
                    let (oldest, known) = (OLDEST, VERSION);
                    return Err(Error::Version { file, found, oldest, known });
                }
                Err(_) => contents.damaged += 1,
            }
            match *more {
                [there, sum, length]
                    if length.len() == LENGTH_DIGITS
                        && checksum(there.as_bytes()) == *sum.as_bytes() =>
                {
                    contents.outlived = there != boot_id().map_err(&failed)?;
                    match length.parse() {
                        Ok(length) => written = length,
                        Err(_) => contents.damaged += 1,
                    }
                }
                _ => contents.damaged += 1,
            }
        }
        _ => {
            contents.damaged += 1;
            // Damage may have joined the head and the first entry.
            contents.add_damaged(first);
        }
    }
    let mut lost = if contents.damaged > 0 { first.len() } else { 0 };
    if written > bytes.len() {
        contents.damaged += 1;
        lost = lost.saturating_add(written - bytes.len());
    }
    let mut at = end;
    for line in rest.split_inclusive(|byte| *byte == b'\n') {
        at += line.len();
        match line.strip_suffix(b"\n").and_then(StateEntry::decode) {
            Some(entry) => contents.add(entry, (at - line.len()) as u64),
            // An incomplete entry behind `written` is no damage: no client had a reply.
            None if at - line.len() < written => {
                contents.damaged += 1;
                lost = lost.saturating_add(line.len());
                contents.add_damaged(line);
            }
            None => {}
        }
    }
    contents.skip_numbers(lost);
    Ok(contents)
}

/// Returns whether a word is a version. If no word follows, it may be the beginning of one.
fn is_number(word: &str, rest: &[&str]) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit()) && !rest.is_empty()
}

impl Contents {
    /// Recovers what can be read of a damaged line.
    fn add_damaged(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if self.suspects.len() < SUSPECTS_MAX {
            self.suspects.extend(Suspect::read(line));
        }
        if self.unproven.len() < SUSPECTS_MAX {
            self.unproven.extend(read_unheld_locks(line));
        }
    }

    /// Skips the numbers that entries in `lost` damaged or missing bytes may have had. If a number
    /// was assigned again, a client that knows it would take the new lock for the old one.
    fn skip_numbers(&mut self, lost: usize) {
        if self.damaged > 0 {
            let numbers = (self.damaged + lost / SHORTEST_LOCK) as u64;
            let numbers = numbers.min(SKIPPED_MAX);
            self.highest.lock = self.highest.lock.saturating_add(numbers);
            self.highest.anchor = self.highest.anchor.saturating_add(numbers);
        }
    }

    fn add(&mut self, entry: StateEntry, offset: u64) {
        if let Record::HighestNumbers(highest) = &entry.record {
            self.highest.lock = self.highest.lock.max(highest.lock);
            self.highest.anchor = self.highest.anchor.max(highest.anchor);
        }
        let Some(id) = entry.record.id() else { return };
        self.highest.include(id);
        if entry.stage != EntryStage::Removed {
            let StateEntry { stage, mode, .. } = entry;
            self.positions.push(EntryPosition { id, offset, stage, mode });
            self.entries.push(entry);
        }
    }
}

/// Copies a damaged state file to `state.damaged`, for an administrator. Returns the path of the
/// copy.
///
/// # Errors
///
/// [`Error::File`].
pub fn copy_aside(directory: &Path) -> Result<PathBuf, Error> {
    let path = directory.join(FILE);
    let aside = directory.join("state.damaged");
    fs::copy(&path, &aside).map_err(|cause| {
        // A partial copy would take space that new entries need.
        let _ = fs::remove_file(&aside);
        Error::file(&path, "copy")(cause)
    })?;
    Ok(aside)
}
