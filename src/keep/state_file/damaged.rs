//! Recovering what can still be read of damaged entries of locks.
//!
//! Nothing in a record with a wrong checksum is certain. But the disk or lease of a VM that lives
//! must not be free because a byte of its record changed. So the name of the disk or lease is
//! recovered if possible; the other fields are hints. Most names stand more than once in a record:
//! the name of a disk as the requested path, the canonical path and the path of the lock file; the
//! name of a lease as the resource and as the path of its file. So the majority outvotes a single
//! damaged field.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::format::{EntryStage, PREFIX, StateEntry, mode_byte};
use super::record::Record;
use super::record::value::{EncodedExtent, EncodedIdentity, EncodedPath};
use crate::lock::Mode;
use crate::lock::lockspace::LockspaceKind;
use crate::lock::lockspace::key::digest_of;
use crate::lock::model::disk_path::DiskPath;
use crate::lock::model::extent::Extent;
use crate::lock::model::identity::Identity;
use crate::lock::model::lease_name::{LeaseName, check_key};
use crate::lock::text::escape::spelt_path;

/// The maximum length of a piece of a damaged line that is examined, in bytes. A path has at most
/// 4096 bytes, and stands in a record three or four times.
const PIECE_MAX: usize = 128 * 1024;
/// The maximum number of disks and leases that are recovered from one file.
pub(super) const SUSPECTS_MAX: usize = 16_384;
/// The beginnings of the records of all kinds.
const RECORDS: [&[u8]; 6] = [
    b"{\"counted\":",
    b"{\"owner\":{",
    b"{\"anchor\":{",
    b"{\"lock\":{",
    b"{\"lockspace\":{",
    b"{\"offer\":{",
];
/// The length of the name of a lock file that is a SHA-256 in hexadecimal.
const HASHED: usize = 64;
/// The beginning of the record of a lock.
const LOCK: &[u8] = b"{\"lock\":{";
/// Members that only the record of a lock has.
const LOCK_KEYS: [&[u8]; 4] =
    [b"\"resource\":", b"\"canonical\":", b"\"lock_files\":", b"\"write_shown\":"];

/// The name of the disk or lease of a damaged lock record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SuspectName {
    /// A disk, by a path to it: absolute, without `..`.
    Disk(PathBuf),
    /// A lease, or the lock file of a disk whose own name cannot be read, by the path of the file.
    LockFile(PathBuf),
}

impl SuspectName {
    /// Returns the name for messages.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Disk(path) => spelt_path(path),
            Self::LockFile(path) => format!("lease {}", spelt_path(path)),
        }
    }
}

/// A disk or lease that a damaged lock record names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// The number of the lock, if it can be read.
    pub number: Option<u64>,
    /// The name.
    pub name: SuspectName,
    /// The identity that the name was resolved to, if it can be read.
    pub identity: Option<Identity>,
    /// The extents of lower files and devices, if they can be read.
    pub below: Vec<Extent>,
    /// The paths of its copies in upper layers, if they can be read.
    pub copies: Vec<PathBuf>,
    /// The canonical path, if it can be read.
    pub canonical: Option<PathBuf>,
    /// The lockspace, if it can be read.
    pub lockspace: Option<LockspaceKind>,
    /// The lock files, if they can be read.
    pub lock_files: Vec<PathBuf>,
    /// The mode; exclusive if it cannot be read.
    pub mode: Mode,
}

impl Suspect {
    /// Reads a damaged line, without its line feed, or several lines that damage has joined.
    /// Returns the disks and leases that entries of held locks in it name.
    pub(super) fn read(line: &[u8]) -> Vec<Self> {
        pieces(line).into_iter().flat_map(Self::read_piece).take(SUSPECTS_MAX).collect()
    }

    /// Reads the rest of one entry.
    fn read_piece(piece: &[u8]) -> Vec<Self> {
        let start = find(piece, LOCK);
        if piece.len() > PIECE_MAX
            || (start.is_none() && !LOCK_KEYS.into_iter().any(|key| find(piece, key).is_some()))
        {
            return Vec::new();
        }
        // If the stage cannot be read, the lock may have been held.
        let byte_at = |at: usize| piece.get(start?.checked_sub(PREFIX)? + at).copied();
        let stage = byte_at(0).and_then(EntryStage::from_byte);
        if !matches!(stage, Some(EntryStage::Held | EntryStage::Reacquired) | None) {
            return Vec::new();
        }
        let is_mode = |mode| byte_at(1) == Some(mode_byte(Some(mode)));
        if is_mode(Mode::None) {
            return Vec::new();
        }
        let mode = if is_mode(Mode::Shared) { Mode::Shared } else { Mode::Exclusive };
        let fields = Fields::read(piece);
        let suspect = |name| Self {
            number: field(piece, "number"),
            name,
            identity: fields.identity,
            below: fields.below.clone(),
            copies: fields.copies.clone(),
            canonical: fields.canonical.clone(),
            lockspace: fields.lockspace,
            lock_files: fields.lock_files.clone(),
            mode,
        };
        fields.names().into_iter().map(suspect).collect()
    }
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
    pieces.filter_map(StateEntry::decode_unproven).filter(is_unheld).collect()
}

/// The fields of a damaged lock record that can be read.
struct Fields {
    resource: Option<String>,
    path: Option<PathBuf>,
    canonical: Option<PathBuf>,
    identity: Option<Identity>,
    below: Vec<Extent>,
    copies: Vec<PathBuf>,
    lockspace: Option<LockspaceKind>,
    lock_files: Vec<PathBuf>,
}

impl Fields {
    fn read(piece: &[u8]) -> Self {
        let path =
            |key| field::<EncodedPath>(piece, key).map(PathBuf::from).filter(|path| is_plain(path));
        let paths = |key| {
            let all = field::<Vec<EncodedPath>>(piece, key).unwrap_or_default();
            let all: Vec<PathBuf> = all.into_iter().map(PathBuf::from).collect();
            if all.iter().all(|path| is_plain(path)) { all } else { Vec::new() }
        };
        let occupies = field::<Vec<EncodedExtent>>(piece, "occupies").unwrap_or_default();
        let lockspace = field::<String>(piece, "lockspace");
        Self {
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

    /// Returns the names of the locked resource: one name, unless only lock files are known.
    fn names(&self) -> Vec<SuspectName> {
        let resource = self.resource.as_deref();
        let lease = resource.and_then(LeaseName::parse);
        if lease.is_some() || matches!(self.identity, Some(Identity::Key { .. })) {
            let lease = lease.and_then(Result::ok);
            let by_resource = lease.map(|lease| lease.directory().join(lease.key()));
            return self.lease(by_resource).into_iter().map(SuspectName::LockFile).collect();
        }
        if let Some(path) = self.disk() {
            return vec![SuspectName::Disk(path)];
        }
        let files = self.lock_files.iter().filter(|file| key_of(file).is_some()).cloned();
        let is_hashed = |file: &Path| key_of(file).is_some_and(|name| name.len() == HASHED);
        let name = |file: PathBuf| match self.lockspace {
            Some(_) => SuspectName::LockFile(file),
            None if is_hashed(&file) => SuspectName::LockFile(file),
            None => SuspectName::Disk(file),
        };
        files.map(name).collect()
    }

    /// Returns the path of the disk that most fields have; in case of a tie, the path in the first
    /// field.
    fn disk(&self) -> Option<PathBuf> {
        let resource = self.resource.as_deref().map(PathBuf::from).filter(|path| is_plain(path));
        let has_files = self.lockspace.is_some_and(LockspaceKind::has_files);
        let is_known = self.path.is_some() || self.canonical.is_some() || resource.is_some();
        // If neither a name nor the lockspace is known, the lock file may be any file.
        let is_disk = !has_files && (is_known || self.lockspace.is_some());
        let lock_file = self.lock_files.first().filter(|_| is_disk).cloned();
        let all = [self.path.clone(), resource, self.canonical.clone(), lock_file];
        let votes = |path: &PathBuf| all.iter().flatten().filter(|other| *other == path).count();
        // `max_by_key` returns the last of several maxima.
        all.iter().flatten().rev().max_by_key(|path| votes(path)).cloned()
    }

    /// Returns the path of the file of a lease: the path that matches the identity, if that is
    /// known.
    fn lease(&self, by_resource: Option<PathBuf>) -> Option<PathBuf> {
        let all = self.lock_files.first().cloned().into_iter().chain(by_resource);
        let all: Vec<PathBuf> = all.filter(|file| key_of(file).is_some()).collect();
        let matches = |file: &&PathBuf| match (self.identity, key_of(file)) {
            (Some(Identity::Key { key, .. }), Some(name)) => digest_of(name) == key,
            _ => false,
        };
        all.iter().find(matches).or(all.first()).cloned()
    }
}

/// Returns whether a path can be the path of a disk or lock file: absolute, without `..`.
fn is_plain(path: &Path) -> bool {
    let parsed = DiskPath::from_bytes(path.as_os_str().as_encoded_bytes());
    parsed.is_ok_and(|path| !path.has_parent_component())
}

/// Returns the name of a lock file in its directory; `None` if it cannot be the name of one.
fn key_of(file: &Path) -> Option<&str> {
    let name = file.file_name()?.to_str()?;
    (file.parent().is_some() && check_key(name).is_ok()).then_some(name)
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
