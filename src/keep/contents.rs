//! What a state file holds, read by who comes after.
//!
//! What can be read counts, line by line; what can't is counted. Whoever uses it must take care
//! that nothing is concluded from what is missing.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::Error;
use super::line::{Line, Step, checksum};
use super::record::{Counted, Record};
use super::state::{DIGITS, FILE, MAGIC, Name, OLDEST, Origin, VERSION, boot, failed};
use super::suspect::{SUSPECTS_MAX, Suspect, read_unheld};
use crate::lock::text::escape::shown_path;

/// What a state file holds.
#[derive(Debug, Default)]
pub struct Contents {
    /// All that is readable and tells of something, in the order in which it came.
    pub lines: Vec<Line>,
    /// Where those lines are in the file.
    pub origins: Vec<Origin>,
    /// The highest numbers given.
    pub counted: Counted,
    /// How many records are damaged; a file that ends too early is one.
    pub damaged: usize,
    /// The disks and leases that damaged records of held locks name.
    pub suspects: Vec<Suspect>,
    /// The damaged records of suspended and reserved locks that can be read.
    pub unproven: Vec<Line>,
    /// There is no file.
    pub missing: bool,
    /// It was written before this host was booted: all machines of that boot have ended, and all
    /// locks with them.
    pub outlived: bool,
}

/// The shortest record of a lock, in bytes: more of them can't have been where damage is.
const SHORTEST: usize = 64;
/// How many numbers are passed over at most.
const NUMBERS_MAX: u64 = 1 << 30;

/// Reads the state file of a runtime directory. Changes nothing.
///
/// # Errors
///
/// [`Error::Version`] where another version wrote it, [`Error::File`] where it can't be read.
pub fn read(directory: &Path) -> Result<Contents, Error> {
    let path = directory.join(FILE);
    let failed = failed(&path, "read");
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
                    if length.len() == DIGITS && checksum(there.as_bytes()) == *sum.as_bytes() =>
                {
                    contents.outlived = there != boot().map_err(&failed)?;
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
            // Damage may have joined the head and what follows.
            contents.suspect(first);
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
        match line.strip_suffix(b"\n").and_then(Line::read) {
            Some(read) => contents.add(read, (at - line.len()) as u64),
            // Behind the mark nobody was told of anything.
            None if at - line.len() < written => {
                contents.damaged += 1;
                lost = lost.saturating_add(line.len());
                contents.suspect(line);
            }
            None => {}
        }
    }
    contents.skip_numbers(lost);
    Ok(contents)
}

/// Whether a word is a version, and not the beginning of one.
fn is_number(word: &str, rest: &[&str]) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit()) && !rest.is_empty()
}

impl Contents {
    fn suspect(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if self.suspects.len() < SUSPECTS_MAX {
            self.suspects.extend(Suspect::read(line));
        }
        if self.unproven.len() < SUSPECTS_MAX {
            self.unproven.extend(read_unheld(line));
        }
    }

    /// Passes over the numbers that records in so many damaged or missing bytes may have had: a number
    /// that is given again would mean another lock to a client that knows it.
    fn skip_numbers(&mut self, lost: usize) {
        if self.damaged > 0 {
            let numbers = (self.damaged + lost / SHORTEST) as u64;
            let numbers = numbers.min(NUMBERS_MAX);
            self.counted.lock = self.counted.lock.saturating_add(numbers);
            self.counted.anchor = self.counted.anchor.saturating_add(numbers);
        }
    }

    fn add(&mut self, line: Line, offset: u64) {
        let name = match &line.record {
            Record::Counted(counted) => {
                self.counted.lock = self.counted.lock.max(counted.lock);
                self.counted.anchor = self.counted.anchor.max(counted.anchor);
                return;
            }
            Record::Lock(lock) => Name::Lock(lock.number()),
            Record::Anchor(anchor) => Name::Anchor(anchor.number()),
            Record::Owner(owner) => Name::Owner(owner.number()),
            Record::Offer(offer) => Name::Offer(offer.number()),
            Record::Lockspace(lockspace) => Name::Lockspace(lockspace.number()),
        };
        self.counted.count(name);
        if line.step != Step::Gone {
            let Line { step, mode, .. } = line;
            self.origins.push(Origin { name, offset, step, mode });
            self.lines.push(line);
        }
    }
}

/// Puts a damaged state file aside, for whoever wants to know what happened.
///
/// # Errors
///
/// [`Error::File`].
pub fn put_aside(directory: &Path) -> Result<PathBuf, Error> {
    let path = directory.join(FILE);
    let aside = directory.join("state.damaged");
    fs::copy(&path, &aside).map_err(|cause| {
        // Half a copy takes the room away that new records need.
        let _ = fs::remove_file(&aside);
        failed(&path, "copy")(cause)
    })?;
    Ok(aside)
}
