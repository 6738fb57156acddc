//! The disks and leases that damaged records name.
//!
//! Nothing in a record with a wrong checksum is certain. But the disk or lease of a VM that lives
//! must not be free because a byte of its record changed. So the name of the disk or lease is
//! recovered if possible; the other fields are hints. Most names stand more than once in a record:
//! the name of a disk as the requested path, the canonical path and the path of the lock file; the
//! name of a lease as the resource and as the path of its file. So the majority outvotes a single
//! damaged field.

use std::path::{Path, PathBuf};

use super::entry::EntryStage;
use crate::lock::Mode;
use crate::lock::lockspace::LockspaceKind;
use crate::lock::lockspace::key::digest_of;
use crate::lock::model::disk_path::DiskPath;
use crate::lock::model::extent::Extent;
use crate::lock::model::identity::Identity;
use crate::lock::model::lease_name::{LeaseName, check_key};
use crate::lock::text::escape::spelt_path;

/// The maximum number of disks and leases that are recovered from one file.
pub(super) const SUSPECTS_MAX: usize = 16_384;
/// The length of the name of a lock file that is a SHA-256 in hexadecimal.
const HASHED: usize = 64;

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
    /// Returns the disks and leases that the fields of a damaged lock record name. `stage` and
    /// `mode` are `None` if they cannot be read: then the lock may have been held, and exclusive.
    pub(super) fn of(
        stage: Option<EntryStage>,
        mode: Option<Mode>,
        number: Option<u64>,
        fields: &NamedFields,
    ) -> Vec<Self> {
        if !matches!(stage, Some(EntryStage::Held | EntryStage::Reacquired) | None)
            || mode == Some(Mode::None)
        {
            return Vec::new();
        }
        let suspect = |name| Self {
            number,
            name,
            identity: fields.identity,
            below: fields.below.clone(),
            copies: fields.copies.clone(),
            canonical: fields.canonical.clone(),
            lockspace: fields.lockspace,
            lock_files: fields.lock_files.clone(),
            mode: mode.unwrap_or(Mode::Exclusive),
        };
        fields.names().into_iter().map(suspect).collect()
    }
}

/// The fields of a damaged lock record that can be read.
#[derive(Debug, Default)]
pub(super) struct NamedFields {
    pub(super) resource: Option<String>,
    pub(super) path: Option<PathBuf>,
    pub(super) canonical: Option<PathBuf>,
    pub(super) identity: Option<Identity>,
    pub(super) below: Vec<Extent>,
    pub(super) copies: Vec<PathBuf>,
    pub(super) lockspace: Option<LockspaceKind>,
    pub(super) lock_files: Vec<PathBuf>,
}

impl NamedFields {
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
pub(super) fn is_plain(path: &Path) -> bool {
    let parsed = DiskPath::from_bytes(path.as_os_str().as_encoded_bytes());
    parsed.is_ok_and(|path| !path.has_parent_component())
}

/// Returns the name of a lock file in its directory; `None` if it cannot be the name of one.
fn key_of(file: &Path) -> Option<&str> {
    let name = file.file_name()?.to_str()?;
    (file.parent().is_some() && check_key(name).is_ok()).then_some(name)
}
