//! What can still be read of a lock record that is damaged.
//!
//! A record whose checksum is wrong tells nothing that is certain. But the disk or lease of a VM that
//! lives must not be free because a byte of its record changed, so the name of the disk or lease is read
//! where it can be; what else the record says of it is a hint. Most names are written more than once
//! in a record: a disk's as the requested, the canonical and the lock file's path, a lease's as the
//! resource and as the path of its file. So a single damaged field is outvoted.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::line::{HEAD, Line, Step, mode_byte};
use super::record::Record;
use super::spelling::{Identified, Occupied, Spelling};
use crate::lock::Mode;
use crate::lock::lockspace::LockspaceKind;
use crate::lock::lockspace::key::digest_of;
use crate::lock::model::disk_path::DiskPath;
use crate::lock::model::extent::Extent;
use crate::lock::model::identity::Identity;
use crate::lock::model::lease_name::LeaseName;
use crate::lock::model::lease_name::check_key;
use crate::lock::text::escape::spelt_path;

/// The longest piece of a damaged line that is looked at, in bytes: a path has 4096 at most, and stands
/// in a record three or four times.
const PIECE_MAX: usize = 128 * 1024;
/// The most disks and leases that the damaged records of one file can name.
pub(super) const SUSPECTS_MAX: usize = 16_384;
/// How the records of each kind begin.
const RECORDS: [&[u8]; 6] = [
    b"{\"counted\":",
    b"{\"owner\":{",
    b"{\"anchor\":{",
    b"{\"lock\":{",
    b"{\"lockspace\":{",
    b"{\"offer\":{",
];
/// The length of the name of a lock file that is a SHA-256 in hex.
const HASHED: usize = 64;
/// How the record of a lock begins.
const LOCK: &[u8] = b"{\"lock\":{";
/// Keys that only the record of a lock has.
const LOCK_KEYS: [&[u8]; 4] =
    [b"\"resource\":", b"\"canonical\":", b"\"lock_files\":", b"\"write_shown\":"];

/// The name of what a damaged lock record was about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SuspectName {
    /// A disk, by a path to it: absolute, without `..`.
    Disk(PathBuf),
    /// A lease, or the lock file of a disk whose own name can't be read: by the path of the file.
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
    /// The number of the lock, where it can be read.
    pub number: Option<u64>,
    /// The name.
    pub name: SuspectName,
    /// What the name led to, where that can be read.
    pub identity: Option<Identity>,
    /// What it lies on, as far as that can be read.
    pub below: Vec<Extent>,
    /// The paths of its copies in upper layers, as far as they can be read.
    pub copies: Vec<PathBuf>,
    /// The canonical path, where it can be read.
    pub canonical: Option<PathBuf>,
    /// The lockspace, where it can be read.
    pub lockspace: Option<LockspaceKind>,
    /// The lock files, where they can be read.
    pub lock_files: Vec<PathBuf>,
    /// The mode; exclusive, where it can't be read.
    pub mode: Mode,
}

impl Suspect {
    /// Reads a damaged line, without its end, or several that damage has joined. Returns what records
    /// of held locks in it name.
    pub(super) fn read(line: &[u8]) -> Vec<Self> {
        pieces(line).into_iter().flat_map(Self::read_piece).take(SUSPECTS_MAX).collect()
    }

    /// Reads what is left of one record.
    fn read_piece(piece: &[u8]) -> Vec<Self> {
        let start = find(piece, LOCK);
        if piece.len() > PIECE_MAX
            || (start.is_none() && !LOCK_KEYS.into_iter().any(|key| find(piece, key).is_some()))
        {
            return Vec::new();
        }
        // What is not known to be something else was held, in whatever mode.
        let mark = |at: usize| piece.get(start?.checked_sub(HEAD)? + at).copied();
        let step = mark(0).and_then(Step::of);
        if !matches!(step, Some(Step::Held | Step::Reacquired) | None) {
            return Vec::new();
        }
        let is_mode = |mode| mark(1) == Some(mode_byte(Some(mode)));
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

/// Reads the records of suspended and reserved locks in a damaged line that can be read although their
/// checksums are wrong. An owner that is resumed without one of its locks would have no lock on that disk.
pub(super) fn read_unheld(line: &[u8]) -> Vec<Line> {
    let is_unheld = |line: &Line| {
        let is_lock = matches!(line.record, Record::Lock(_));
        is_lock && matches!(line.step, Step::Suspended | Step::Reserved)
    };
    let pieces = pieces(line).into_iter().filter(|piece| piece.len() <= PIECE_MAX);
    pieces.filter_map(Line::read_unproven).filter(is_unheld).collect()
}

/// What can be read of a record.
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
            |key| field::<Spelling>(piece, key).map(PathBuf::from).filter(|path| is_plain(path));
        let paths = |key| {
            let all = field::<Vec<Spelling>>(piece, key).unwrap_or_default();
            let all: Vec<PathBuf> = all.into_iter().map(PathBuf::from).collect();
            if all.iter().all(|path| is_plain(path)) { all } else { Vec::new() }
        };
        let occupies = field::<Vec<Occupied>>(piece, "occupies").unwrap_or_default();
        let lockspace = field::<String>(piece, "lockspace");
        Self {
            resource: field(piece, "resource"),
            path: path("path"),
            canonical: path("canonical"),
            identity: field::<Identified>(piece, "identity").map(Identity::from),
            below: occupies.into_iter().map(Extent::from).collect(),
            copies: paths("copies"),
            lockspace: lockspace.and_then(|name| LockspaceKind::named(&name)),
            lock_files: paths("lock_files"),
        }
    }

    /// Returns the names of what was locked: one, unless only lock files are known.
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

    /// Returns the path that most fields give for the disk; of several, that of the first field.
    fn disk(&self) -> Option<PathBuf> {
        let resource = self.resource.as_deref().map(PathBuf::from).filter(|path| is_plain(path));
        let has_files = self.lockspace.is_some_and(LockspaceKind::has_files);
        let is_known = self.path.is_some() || self.canonical.is_some() || resource.is_some();
        // Without a name, a lock file of which the lockspace is not known may be any file.
        let is_disk = !has_files && (is_known || self.lockspace.is_some());
        let lock_file = self.lock_files.first().filter(|_| is_disk).cloned();
        let all = [self.path.clone(), resource, self.canonical.clone(), lock_file];
        let votes = |path: &PathBuf| all.iter().flatten().filter(|other| *other == path).count();
        // `max_by_key` returns the last of several.
        all.iter().flatten().rev().max_by_key(|path| votes(path)).cloned()
    }

    /// Returns the path of the file of a lease: the one that goes with the identity, if it is known.
    fn lease(&self, by_resource: Option<PathBuf>) -> Option<PathBuf> {
        let all = self.lock_files.first().cloned().into_iter().chain(by_resource);
        let all: Vec<PathBuf> = all.filter(|file| key_of(file).is_some()).collect();
        let goes = |file: &&PathBuf| match (self.identity, key_of(file)) {
            (Some(Identity::Key { key, .. }), Some(name)) => digest_of(name) == key,
            _ => false,
        };
        all.iter().find(goes).or(all.first()).cloned()
    }
}

/// Whether a path can be that of a disk or lock file: absolute, without `..`.
fn is_plain(path: &Path) -> bool {
    let parsed = DiskPath::from_bytes(path.as_os_str().as_encoded_bytes());
    parsed.is_ok_and(|path| !path.climbs())
}

/// Returns the name of a lock file in its directory; `None` where it can't be one.
fn key_of(file: &Path) -> Option<&str> {
    let name = file.file_name()?.to_str()?;
    (file.parent().is_some() && check_key(name).is_ok()).then_some(name)
}

/// Splits a damaged line into pieces of which each has at most one record: at NUL bytes, and where
/// another record begins, since the end of a line may be what is damaged.
fn pieces(line: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    for part in line.split(|byte| *byte == 0).filter(|part| !part.is_empty()) {
        let mut begin = 0;
        for at in 0..part.len() {
            if part[at] == b'{' && RECORDS.into_iter().any(|record| part[at..].starts_with(record))
            {
                let next = at.saturating_sub(HEAD);
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

/// Reads the value of a key of the record. Quotation marks in a string are escaped, so no string can
/// hold what is looked for.
fn field<T: DeserializeOwned>(piece: &[u8], key: &str) -> Option<T> {
    let found = ['{', ','].into_iter().find_map(|before| {
        let key = format!("{before}\"{key}\":");
        // Damage may end right in front of it.
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
