//! Reading a state file of versions 3 to 7.

use std::io;

use super::super::contents::{Contents, boot_id};
use super::super::entry::{Encoding, EntryPosition};
use super::damaged::{read_suspects, read_unheld_locks};
use super::format::{LENGTH_DIGITS, MAGIC, checksum, decode};

/// The minimum length of the entry of a lock, in bytes: limits how many entries damage can have
/// destroyed.
const SHORTEST_LOCK: usize = 64;

/// Reads a state file. The version in its head, if there is one, is known to be supported.
///
/// # Errors
///
/// The ID of this boot cannot be read.
pub(in crate::keep::state_file) fn read(bytes: &[u8]) -> io::Result<Contents> {
    let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1);
    let (first, rest) = bytes.split_at(end);
    let words: Vec<&str> = str::from_utf8(first).unwrap_or_default().split_whitespace().collect();
    let mut contents = Contents::default();
    let mut written = bytes.len();
    let mut is_damaged = false;
    match words[..] {
        [MAGIC, version, ref more @ ..] if is_number(version, more) => {
            is_damaged |= version.parse::<u64>().is_err();
            match *more {
                [there, sum, length]
                    if length.len() == LENGTH_DIGITS
                        && checksum(there.as_bytes()) == *sum.as_bytes() =>
                {
                    contents.outlived = there != boot_id()?;
                    match length.parse() {
                        Ok(length) => written = length,
                        Err(_) => is_damaged = true,
                    }
                }
                _ => is_damaged = true,
            }
        }
        _ => is_damaged = true,
    }
    if is_damaged {
        // Damage may have joined the head and the first entry.
        add_damaged(&mut contents, 0, first);
    }
    let mut lost = if is_damaged { first.len() } else { 0 };
    if written > bytes.len() {
        contents.add_damage(bytes.len(), written - bytes.len(), Vec::new());
        lost = lost.saturating_add(written - bytes.len());
    }
    let mut at = end;
    for line in rest.split_inclusive(|byte| *byte == b'\n') {
        let start = at;
        at += line.len();
        match line.strip_suffix(b"\n").and_then(decode) {
            Some(entry) => {
                let position = entry.record.id().map(|id| EntryPosition {
                    id,
                    offset: start as u64,
                    encoding: Encoding::Json,
                    stage: entry.stage,
                    mode: entry.mode,
                });
                contents.add(entry, position);
            }
            // An incomplete entry behind `written` is no damage: no client had a reply.
            None if start < written => {
                lost = lost.saturating_add(line.len());
                add_damaged(&mut contents, start, line);
            }
            None => {}
        }
    }
    if contents.damaged() > 0 {
        contents.skip_numbers(contents.damaged() + lost / SHORTEST_LOCK);
    }
    Ok(contents)
}

/// Returns whether a word is a version. If no word follows, it may be the beginning of one.
fn is_number(word: &str, rest: &[&str]) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit()) && !rest.is_empty()
}

/// Recovers what can be read of a damaged line.
fn add_damaged(contents: &mut Contents, offset: usize, line: &[u8]) {
    let rest = line.strip_suffix(b"\n").unwrap_or(line);
    contents.add_damage(offset, line.len(), read_suspects(rest));
    contents.add_unproven(read_unheld_locks(rest));
}
