//! Recovering what can still be read of damaged lines of versions 3 to 7.

use std::path::PathBuf;

use serde::de::DeserializeOwned;

use super::super::entry::{EntryStage, StateEntry};
use super::super::record::Record;
use super::super::record::value::{EncodedExtent, EncodedIdentity, EncodedPath};
use super::super::suspect::{NamedFields, SUSPECTS_MAX, Suspect, is_plain};
use super::format::{PREFIX, decode_unproven, mode_byte, stage_of};
use crate::lock::Mode;
use crate::lock::lockspace::LockspaceKind;
use crate::lock::model::extent::Extent;
use crate::lock::model::identity::Identity;

/// The maximum length of a piece of a damaged line that is examined, in bytes. A path has at most
/// 4096 bytes, and stands in a record three or four times.
const PIECE_MAX: usize = 128 * 1024;
/// The beginnings of the records of all kinds.
const RECORDS: [&[u8]; 6] = [
    b"{\"counted\":",
    b"{\"owner\":{",
    b"{\"anchor\":{",
    b"{\"lock\":{",
    b"{\"lockspace\":{",
    b"{\"offer\":{",
];
/// The beginning of the record of a lock.
const LOCK: &[u8] = b"{\"lock\":{";
/// Members that only the record of a lock has.
const LOCK_KEYS: [&[u8]; 4] =
    [b"\"resource\":", b"\"canonical\":", b"\"lock_files\":", b"\"write_shown\":"];

/// Reads a damaged line, without its line feed, or several lines that damage has joined. Returns
/// the disks and leases that entries of held locks in it name.
pub(super) fn read_suspects(line: &[u8]) -> Vec<Suspect> {
    pieces(line).into_iter().flat_map(read_piece).take(SUSPECTS_MAX).collect()
}

/// Reads the rest of one entry.
fn read_piece(piece: &[u8]) -> Vec<Suspect> {
    let start = find(piece, LOCK);
    if piece.len() > PIECE_MAX
        || (start.is_none() && !LOCK_KEYS.into_iter().any(|key| find(piece, key).is_some()))
    {
        return Vec::new();
    }
    let byte_at = |at: usize| piece.get(start?.checked_sub(PREFIX)? + at).copied();
    let stage = byte_at(0).and_then(stage_of);
    let modes = [Mode::None, Mode::Shared, Mode::Exclusive];
    let mode = modes.into_iter().find(|mode| byte_at(1) == Some(mode_byte(Some(*mode))));
    Suspect::of(stage, mode, field(piece, "number"), &fields_of(piece))
}

/// Returns the entries of suspended and reserved locks in a damaged line that can be decoded
/// although their checksums are wrong. An owner that is resumed without one of its locks would have
/// no lock on that disk.
pub(super) fn read_unheld_locks(line: &[u8]) -> Vec<StateEntry> {
    let is_unheld = |entry: &StateEntry| {
        let is_lock = matches!(entry.record, Record::Lock(_));
        is_lock && matches!(entry.stage, EntryStage::Suspended | EntryStage::Reserved)
    };
    let pieces = pieces(line).into_iter().filter(|piece| piece.len() <= PIECE_MAX);
    pieces.filter_map(decode_unproven).filter(is_unheld).collect()
}

/// Returns the fields that can be read.
fn fields_of(piece: &[u8]) -> NamedFields {
    let path =
        |key| field::<EncodedPath>(piece, key).map(PathBuf::from).filter(|path| is_plain(path));
    let paths = |key| {
        let all = field::<Vec<EncodedPath>>(piece, key).unwrap_or_default();
        let all: Vec<PathBuf> = all.into_iter().map(PathBuf::from).collect();
        if all.iter().all(|path| is_plain(path)) { all } else { Vec::new() }
    };
    let occupies = field::<Vec<EncodedExtent>>(piece, "occupies").unwrap_or_default();
    let lockspace = field::<String>(piece, "lockspace");
    NamedFields {
        resource: field(piece, "resource"),
        path: path("path"),
        canonical: path("canonical"),
        identity: field::<EncodedIdentity>(piece, "identity").map(Identity::from),
        below: occupies.into_iter().map(Extent::from).collect(),
        copies: paths("copies"),
        lockspace: lockspace.and_then(|name| LockspaceKind::named(&name)),
        lock_files: paths("lock_files"),
    }
}

/// Splits a damaged line into pieces with at most one record each: at NUL bytes, and at the
/// beginning of another record, since the line feed may be damaged.
fn pieces(line: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    for part in line.split(|byte| *byte == 0).filter(|part| !part.is_empty()) {
        let mut begin = 0;
        for at in 0..part.len() {
            if part[at] == b'{' && RECORDS.into_iter().any(|record| part[at..].starts_with(record))
            {
                let next = at.saturating_sub(PREFIX);
                if next > begin {
                    pieces.push(&part[begin..next]);
                    begin = next;
                }
            }
        }
        pieces.push(&part[begin..]);
    }
    pieces
}

/// Returns the value of a member of the record. Since quotation marks in a string are escaped, no
/// string can contain the member's name as it is searched for.
fn field<T: DeserializeOwned>(piece: &[u8], key: &str) -> Option<T> {
    let found = ['{', ','].into_iter().find_map(|before| {
        let key = format!("{before}\"{key}\":");
        // Damage may end directly before the name.
        let first = piece.starts_with(&key.as_bytes()[1..]).then_some(key.len() - 1);
        piece.get(first.or_else(|| Some(find(piece, key.as_bytes())? + key.len()))?..)
    });
    serde_json::Deserializer::from_slice(found?).into_iter().next()?.ok()
}

fn find(piece: &[u8], word: &[u8]) -> Option<usize> {
    piece.windows(word.len()).position(|part| part == word)
}

#[cfg(test)]
mod tests;
