//! Recovering what can still be read of damaged slots.
//!
//! Each field has a checksum of its own, so intact fields are known to be intact. Fields that are
//! not intact count only if no intact one names the disk or lease.

use std::path::PathBuf;

use super::entry::{EntryStage, StateEntry};
use super::fields::{self, Fields, Value};
use super::layout::{Header, mode_of, payload_of, stage_of};
use super::record::Record;
use super::record::value::{EncodedExtent, EncodedIdentity, EncodedPath};
use super::scan::decode;
use super::suspect::{NamedFields, SUSPECTS_MAX, Suspect, is_plain};
use crate::lock::lockspace::LockspaceKind;
use crate::lock::model::extent::Extent;
use crate::lock::model::identity::Identity;

/// The maximum length of a damaged piece that is examined, in bytes. A path has at most 4096 bytes,
/// and stands in a record three or four times.
const PIECE_MAX: usize = 128 * 1024;
/// The maximum capacity of an entry that is examined, in slots.
const CAPACITY_MAX: u32 = 4096;

/// Damaged slots that follow each other.
pub(super) struct Piece<'a> {
    /// The header of the first record; `None` if there is none.
    pub(super) header: Option<Header>,
    pub(super) payload: &'a [u8],
    /// The salt of the file; `None` if it is lost.
    pub(super) salt: Option<u32>,
}

/// Returns the disks and leases that entries of held locks in damaged slots name.
pub(super) fn read_suspects(piece: &Piece<'_>) -> Vec<Suspect> {
    let mut suspects = Vec::new();
    for part in piece.payload.chunks(PIECE_MAX) {
        for (at, fields) in Fields::recover(part, piece.salt).into_iter().enumerate() {
            if !fields.has(fields::LOCK..=fields::STASHED_AS) {
                continue;
            }
            let header = piece.header.filter(|_| at == 0);
            suspects.extend(read_record(header, &fields));
            if suspects.len() >= SUSPECTS_MAX {
                return suspects;
            }
        }
    }
    suspects
}

/// Reads the rest of one record of a lock.
fn read_record(header: Option<Header>, fields: &Fields<'_>) -> Vec<Suspect> {
    let stage = header.and_then(|header| stage_of(header.stage));
    let mode = header.and_then(|header| mode_of(header.mode));
    let intact = fields.intact();
    let number = intact.one(fields::ID).and_then(|id| Value(id).u64());
    let suspects = Suspect::of(stage, mode, number, &names_of(&intact));
    if suspects.is_empty() {
        return Suspect::of(stage, mode, number, &names_of(fields));
    }
    suspects
}

/// Returns the fields that name a disk or lease.
fn names_of(fields: &Fields<'_>) -> NamedFields {
    let path = |value: &[u8]| Some(PathBuf::from(EncodedPath::of(value))).filter(|it| is_plain(it));
    let paths = |tag| fields.all(tag).map(path).collect::<Option<Vec<_>>>().unwrap_or_default();
    let identity = fields.one(fields::IDENTITY).and_then(EncodedIdentity::decode);
    // Without one of its lower devices, a disk would conflict with too little.
    let is_complete = fields.is_whole(fields::IDENTITY, fields::LOCKSPACE);
    let below = fields.all(fields::OCCUPIES).filter(|_| is_complete);
    let below: Option<Vec<EncodedExtent>> = below.map(EncodedExtent::decode).collect();
    NamedFields {
        resource: fields.text(fields::RESOURCE).map(str::to_owned),
        path: fields.one(fields::PATH).and_then(path),
        canonical: fields.one(fields::CANONICAL).and_then(path),
        identity: identity.map(Identity::from),
        below: below.unwrap_or_default().into_iter().map(Extent::from).collect(),
        copies: if is_complete { paths(fields::COPY) } else { Vec::new() },
        lockspace: fields.text(fields::LOCKSPACE).and_then(LockspaceKind::named),
        lock_files: paths(fields::LOCK_FILE),
    }
}

/// Returns the entry of a suspended or reserved lock that can be decoded although its checksum is
/// wrong. An owner that is resumed without one of its locks would have no lock on that disk.
pub(super) fn read_unheld_locks(piece: &Piece<'_>) -> Option<StateEntry> {
    let header = piece.header?;
    let stage = stage_of(header.stage)?;
    if !matches!(stage, EntryStage::Suspended | EntryStage::Reserved) {
        return None;
    }
    let own = piece.payload.get(..payload_of(header.capacity.min(CAPACITY_MAX)));
    let all = [own, Some(piece.payload)].into_iter().flatten();
    let mut entries = all.filter_map(|payload| decode(stage, header, payload));
    entries.find(|entry| matches!(entry.record, Record::Lock(_)))
}

#[cfg(test)]
mod tests;
