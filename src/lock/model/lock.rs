//! What the table keeps of each lock.

use std::path::{Path, PathBuf};

use super::extent::Extent;
use super::identity::Identity;
use super::mode::Mode;
use super::owner::OwnerId;
use crate::lock::disk::loop_device::is_loop;
use crate::lock::lockspace::LockspaceKind;
use crate::lock::request::Asked;

/// A resource in somebody's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// Its number, over the life of the service never used twice.
    pub id: u64,
    /// Who holds it.
    pub owner: OwnerId,
    /// When it was given, in microseconds since 1970.
    pub since: u64,
    /// How far it is.
    pub stage: Stage,
    /// Whether it is there.
    pub proof: Proof,
    /// What is held, and how.
    pub want: Want,
}

impl Lock {
    /// Whether it was asked for by this name in this lockspace.
    #[must_use]
    pub fn goes_by(&self, lockspace: LockspaceKind, resource: &str) -> bool {
        self.want.lockspace == lockspace && self.want.resource == resource
    }

    /// Whether it is in the way of an owner who asks for this in a conflicting mode: what he holds
    /// himself is, if it is the very same. One machine may use a disk and a part of it.
    #[must_use]
    pub fn hinders(&self, id: OwnerId, want: &Want) -> bool {
        self.owner != id || self.want.is_same(want)
    }
}

/// Whether a lock that is held is there, as far as was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// It was seen to be there, when it was given or since.
    Verified,
    /// It was there before the service was started again, and has not been looked at since.
    Unverified,
    /// It is not there: somebody else has it, or its file is gone. Its owner may still be using
    /// the disk, so it stays in the way of others.
    Lost,
}

/// One resource of a request, as far as it was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// The name by which it was asked for, to the letter.
    pub resource: String,
    /// Its name without links and detours.
    pub canonical: Option<String>,
    /// The path to it, for looking at it again; none where it came as a descriptor without a name.
    pub path: Option<PathBuf>,
    /// What it really is.
    pub identity: Identity,
    /// All that it lies on, however far below: its range of the disk that a partition is a part of
    /// and of the file behind a loop device, and the disks that a volume is made of.
    pub below: Vec<Extent>,
    /// The paths at which upper layers of overlays will have a file that it lies on, or is, once that
    /// is copied up: then it lies on these, too.
    pub copies: Vec<PathBuf>,
    /// The rule by which its lock file was found.
    pub lockspace: LockspaceKind,
    /// The files whose byte is locked.
    pub lock_files: Vec<PathBuf>,
    /// Whether these are removed with the last lock on them. Never the disk itself.
    pub fleeting: bool,
    /// How it shall be held.
    pub mode: Mode,
    /// Whether the caller showed that he may write it: that allows strengthening later.
    pub write_shown: bool,
}

impl Want {
    /// A resource that is locked directly, of which nothing else is known: no path, no lock files,
    /// and nothing below it.
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

    /// What has to be asked about it.
    #[must_use]
    pub fn asks(&self) -> Vec<Asked<'_>> {
        let files = self.lock_files.iter().map(PathBuf::as_path).filter(|file| file.is_absolute());
        // A lock file itself may be gone; its directory says as much.
        let files = files.map(|file| match file.parent() {
            Some(directory) if self.lockspace.has_files() => directory,
            _ => file,
        });
        // A disk that is its own lock file is asked once.
        let is_lock_file = |path: &&Path| {
            !self.lockspace.has_files() && self.lock_files.iter().any(|file| file == path)
        };
        let path = self.path.as_deref().filter(|path| !is_lock_file(path));
        files.chain(path).map(Asked::path).collect()
    }

    /// Whether it may come to lie on something else while it is locked: a loop device can be set up
    /// anew or with another range, and a file of an overlay be copied up.
    #[must_use]
    pub fn may_change(&self) -> bool {
        let is_loop =
            |identity: Identity| matches!(identity, Identity::Block { dev, .. } if is_loop(dev));
        let mut below = self.below.iter().map(|extent| extent.identity);
        let is_device = matches!(self.identity, Identity::Block { .. });
        !self.copies.is_empty() || is_loop(self.identity) || (is_device && below.any(is_loop))
    }

    /// Whether it is a lease, and no disk.
    #[must_use]
    pub fn is_lease(&self) -> bool {
        matches!(self.identity, Identity::Key { .. })
    }

    /// Whether it can be found again without the descriptor by which it came.
    #[must_use]
    pub fn can_be_found(&self) -> bool {
        self.is_lease() || self.path.as_deref().is_some_and(|path| path.to_str().is_some())
    }

    /// Whether two names mean one resource: one disk, or one file in a lockspace.
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
    pub fn meets(&self, other: &Self) -> bool {
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

/// How far a lock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Decided, its byte being taken.
    Granting,
    /// Its byte is taken, and its owner was told.
    Held,
    /// Being given up, its byte perhaps still taken.
    Releasing,
}
