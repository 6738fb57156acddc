//! The record of a lock.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::offer::FormerLock;
use super::older::Below;
use super::value::{EncodedExtent, EncodedIdentity, EncodedPath, decode_owner, is_zero};
use crate::lock::lockspace::LockspaceKind;
use crate::lock::model::extent::Extent;
use crate::lock::model::lock::{Lock, Proof, Stage, Want};
use crate::lock::{Mode, OwnerId};

/// A lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockRecord {
    number: u64,
    uid: u32,
    uuid: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    process: u32,
    since: u64,
    resource: String,
    canonical: Option<String>,
    path: Option<EncodedPath>,
    identity: EncodedIdentity,
    /// The lower files and devices, in versions 4 and 5.
    #[serde(default, skip_serializing)]
    below: Below,
    /// The parts of lower files and devices that the disk occupies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    occupies: Vec<EncodedExtent>,
    /// The paths that the lower files in overlays will have once they are copied up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    copies: Vec<EncodedPath>,
    lockspace: String,
    lock_files: Vec<EncodedPath>,
    fleeting: bool,
    write_shown: bool,
    /// The former owner and number of a transferred lock.
    #[serde(default, rename = "before", skip_serializing_if = "Option::is_none")]
    former: Option<FormerLock>,
    /// The suspended locks of the owner that are resumed with this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    resumes: Vec<u64>,
    /// The owner and number under which the descriptors of a transferred lock are stashed.
    #[serde(default, rename = "parked", skip_serializing_if = "Option::is_none")]
    stashed_as: Option<FormerLock>,
}

impl From<&Lock> for LockRecord {
    fn from(lock: &Lock) -> Self {
        let want = &lock.want;
        Self {
            number: lock.id,
            uid: lock.owner.uid,
            uuid: lock.owner.uuid.to_string(),
            process: lock.owner.process,
            since: lock.since,
            resource: want.resource.clone(),
            canonical: want.canonical.clone(),
            path: want.path.as_deref().map(EncodedPath::from),
            identity: want.identity.into(),
            below: Below::default(),
            occupies: want.below.iter().copied().map(EncodedExtent::from).collect(),
            copies: want.copies.iter().map(|path| path.as_path().into()).collect(),
            lockspace: want.lockspace.name().into_owned(),
            lock_files: want.lock_files.iter().map(|file| file.as_path().into()).collect(),
            fleeting: want.fleeting,
            write_shown: want.write_shown,
            former: None,
            resumes: Vec::new(),
            stashed_as: None,
        }
    }
}

impl LockRecord {
    /// Sets the fields of a transferred lock: its former owner and number, the owner and number
    /// under which its descriptors are stashed, and the suspended locks that are resumed with it.
    #[must_use]
    pub fn transferred(
        self,
        former: FormerLock,
        stashed_as: FormerLock,
        resumes: Vec<u64>,
    ) -> Self {
        Self { former: Some(former), stashed_as: Some(stashed_as), resumes, ..self }
    }

    /// Sets another number, since its own may be damaged.
    #[must_use]
    pub fn renumbered(self, number: u64) -> Self {
        Self { number, ..self }
    }

    /// Returns the suspended locks of the owner that are resumed with this one.
    #[must_use]
    pub fn resumes(&self) -> &[u64] {
        &self.resumes
    }

    /// Returns the owner; `None` if a field is invalid.
    #[must_use]
    pub fn owner(&self) -> Option<OwnerId> {
        decode_owner(self.uid, &self.uuid, self.process)
    }

    /// Returns the former owner and number of a transferred lock.
    #[must_use]
    pub fn former(&self) -> Option<&FormerLock> {
        self.former.as_ref()
    }

    /// Returns the owner and the number under which the descriptors of the lock are stashed; `None`
    /// if a field is invalid.
    #[must_use]
    pub fn stashed_as(&self) -> Option<(OwnerId, u64)> {
        match &self.stashed_as {
            Some(stashed_as) => stashed_as.owner_and_number(),
            None => Some((self.owner()?, self.number)),
        }
    }

    /// Returns the number of the lock.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns the lock, unverified; `None` if a field is invalid.
    #[must_use]
    pub fn lock(self, mode: Mode, stage: Stage) -> Option<Lock> {
        let lockspace = LockspaceKind::named(&self.lockspace)?;
        let occupied = self.occupies.into_iter().map(Extent::from);
        let want = Want {
            resource: self.resource,
            canonical: self.canonical,
            path: self.path.map(PathBuf::from),
            identity: self.identity.into(),
            below: occupied.chain(self.below.into_extents()).collect(),
            copies: self.copies.into_iter().map(PathBuf::from).collect(),
            lockspace,
            lock_files: self.lock_files.into_iter().map(PathBuf::from).collect(),
            fleeting: self.fleeting,
            mode,
            write_shown: self.write_shown,
        };
        let owner = decode_owner(self.uid, &self.uuid, self.process)?;
        let proof = Proof::Unverified;
        Some(Lock { id: self.number, owner, since: self.since, stage, proof, want })
    }
}
