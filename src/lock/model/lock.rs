//! Locks and their resources, as the table stores them.

use std::path::{Path, PathBuf};

use super::extent::Extent;
use super::identity::Identity;
use super::mode::Mode;
use super::owner::OwnerId;
use crate::lock::model::identity::is_loop;
use crate::lock::model::lockspace_kind::LockspaceKind;
use crate::lock::request::Asked;

/// A lock on a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// Its number, which is never reused in the life of the service.
    pub id: u64,
    /// The owner that holds it.
    pub owner: OwnerId,
    /// When it was acquired, in microseconds since 1970.
    pub since: u64,
    /// The stage of its acquisition or release.
    pub stage: Stage,
    /// Whether it was verified.
    pub proof: Proof,
    /// The resource and the mode.
    pub want: Want,
}

impl Lock {
    /// Whether it was requested by this name in this lockspace.
    #[must_use]
    pub fn is_named(&self, lockspace: LockspaceKind, resource: &str) -> bool {
        self.want.lockspace == lockspace && self.want.resource == resource
    }

    /// Whether it conflicts with a request of an owner for this resource in a conflicting mode. The
    /// owner's own lock conflicts if it is on the same resource, and not if it is on a part of it:
    /// one VM may use a disk and a part of the disk.
    #[must_use]
    pub fn blocks(&self, id: OwnerId, want: &Want) -> bool {
        self.owner != id || self.want.is_same(want)
    }
}

/// The result of the last verification of a held lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// It was verified, when it was acquired or later.
    Verified,
    /// It was held before the service was restarted, and has not been verified since.
    Unverified,
    /// It is lost: another program has locked the resource, or its file is gone. Its owner may
    /// still be using the disk, so it continues to conflict with requests of others.
    Lost,
}

/// One resource of a request, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// The name by which it was requested, exactly as given.
    pub resource: String,
    /// Its name without links and detours.
    pub canonical: Option<String>,
    /// The path for finding it again; `None` for a descriptor without a name.
    pub path: Option<PathBuf>,
    /// Its identity.
    pub identity: Identity,
    /// All layers below it: its range of the disk that contains a partition and of the file behind
    /// a loop device, and the disks that a volume is made of.
    pub below: Vec<Extent>,
    /// The paths at which upper layers of overlays will have the file, or a file that it lies on,
    /// once that is copied up: then it lies on these, too.
    pub copies: Vec<PathBuf>,
    /// The kind of the lockspace of its lock files.
    pub lockspace: LockspaceKind,
    /// The files whose byte is locked.
    pub lock_files: Vec<PathBuf>,
    /// Whether these are removed with the last lock on them. Never the disk itself.
    pub fleeting: bool,
    /// The requested mode.
    pub mode: Mode,
    /// Whether the caller has shown that it may write the resource: that allows a later upgrade.
    pub write_shown: bool,
}

impl Want {
    /// Returns a resource that is locked directly, of which nothing else is known: no path, no lock
    /// files, and no layers below it.
    #[must_use]
    pub fn direct(resource: String, identity: Identity, mode: Mode) -> Self {
        Self {
            resource,
            canonical: None,
            path: None,
            identity,
            below: Vec::new(),
            copies: Vec::new(),
            lockspace: LockspaceKind::Direct,
            lock_files: Vec::new(),
            fleeting: false,
            mode,
            write_shown: false,
        }
    }

    /// Returns the file systems that have to be queried about it.
    #[must_use]
    pub fn asks(&self) -> Vec<Asked<'_>> {
        let files = self.lock_files.iter().map(PathBuf::as_path).filter(|file| file.is_absolute());
        // The lock file itself may be gone; its directory is on the same file system.
        let files = files.map(|file| match file.parent() {
            Some(directory) if self.lockspace.has_files() => directory,
            _ => file,
        });
        // A disk that is its own lock file is listed once.
        let is_lock_file = |path: &&Path| {
            !self.lockspace.has_files() && self.lock_files.iter().any(|file| file == path)
        };
        let path = self.path.as_deref().filter(|path| !is_lock_file(path));
        files.chain(path).map(Asked::path).collect()
    }

    /// Whether it may come to lie on something else while it is locked: a loop device can be set up
    /// again or with another range, and a file of an overlay can be copied up.
    #[must_use]
    pub fn may_change(&self) -> bool {
        let is_loop =
            |identity: Identity| matches!(identity, Identity::Block { dev, .. } if is_loop(dev));
        let mut below = self.below.iter().map(|extent| extent.identity);
        let is_device = matches!(self.identity, Identity::Block { .. });
        !self.copies.is_empty() || is_loop(self.identity) || (is_device && below.any(is_loop))
    }

    /// Whether it is a lease, and not a disk.
    #[must_use]
    pub fn is_lease(&self) -> bool {
        matches!(self.identity, Identity::Key { .. })
    }

    /// Whether it can be found again without the descriptor by which it was passed.
    #[must_use]
    pub fn can_be_found(&self) -> bool {
        self.is_lease() || self.path.as_deref().is_some_and(|path| path.to_str().is_some())
    }

    /// Whether both are one resource: one disk, or one file in a lockspace.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let hashed = |want: &Self| want.lockspace.has_files();
        self.identity == other.identity
            || (hashed(self)
                && hashed(other)
                && self.lock_files.iter().any(|file| other.lock_files.contains(file)))
    }

    /// Whether a write to one may change a byte of the other: they are one resource, one lies on
    /// the other, or both lie on a third one and their ranges there overlap.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.is_same(other)
            || self.lies_on(other)
            || other.lies_on(self)
            || self.below.iter().any(|extent| other.below.iter().any(|it| extent.conflicts(it)))
    }

    /// Whether this one occupies a part of the other, or all of it.
    #[must_use]
    pub fn lies_on(&self, other: &Self) -> bool {
        let all = Extent::whole(other.identity);
        self.below.iter().any(|extent| extent.conflicts(&all))
    }
}

/// The stage of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is reserved, and its byte is being locked.
    Granting,
    /// Its byte is locked, and its owner was notified.
    Held,
    /// It is being released, and its byte may still be locked.
    Releasing,
}
