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
use super::state::{DIGITS, FILE, MAGIC, OLDEST, VERSION, boot, failed};
use crate::lock::printable::shown_path;

/// What a state file holds.
#[derive(Debug, Default)]
pub struct Contents {
    /// All that is readable and tells of something, in the order in which it came.
    pub lines: Vec<Line>,
    /// The highest numbers given.
    pub counted: Counted,
    /// How many records are damaged; a file that ends too early is one.
    pub damaged: usize,
    /// There is no file.
    pub missing: bool,
    /// It was written before this host was booted: all machines of that boot have ended, and all
    /// locks with them.
    pub outlived: bool,
}

/// Reads the state file of a runtime directory. Changes nothing.
///
/// # Errors
///
/// [`Error::Version`] where another version wrote it, [`Error::File`] where it can't be read.
pub fn read(directory: &Path) -> Result<Contents, Error> {
    let path = directory.join(FILE);
    let failed = failed(&path, "reading");
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
        _ => contents.damaged += 1,
    }
    if written > bytes.len() {
        contents.damaged += 1;
    }
    let mut at = end;
    for line in rest.split_inclusive(|byte| *byte == b'\n') {
        at += line.len();
        match line.strip_suffix(b"\n").and_then(Line::read) {
            Some(line) => contents.add(line),
            // Behind the mark nobody was told of anything.
            None if at <= written => contents.damaged += 1,
            None => {}
        }
    }
    Ok(contents)
}

/// Whether a word is a version, and not the beginning of one.
fn is_number(word: &str, rest: &[&str]) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit()) && !rest.is_empty()
}

impl Contents {
    fn add(&mut self, line: Line) {
        match &line.record {
            Record::Counted(counted) => {
                self.counted.lock = self.counted.lock.max(counted.lock);
                self.counted.anchor = self.counted.anchor.max(counted.anchor);
                return;
            }
            Record::Lock(lock) => self.counted.lock = self.counted.lock.max(lock.number()),
            Record::Anchor(anchor) => {
                self.counted.anchor = self.counted.anchor.max(anchor.number());
            }
            Record::Owner(owner) => self.counted.anchor = self.counted.anchor.max(owner.number()),
            Record::Offer(offer) => self.counted.anchor = self.counted.anchor.max(offer.number()),
            Record::Lockspace(_) => {}
        }
        if line.step != Step::Gone {
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
    fs::copy(&path, &aside).map_err(failed(&path, "copying"))?;
    Ok(aside)
}
