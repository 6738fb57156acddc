//! The record of a lock.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::super::fields::{self, FieldWriter, Fields, Value};
use super::offer::FormerLock;
use super::older::Below;
use super::value::{
    EncodedExtent, EncodedIdentity, EncodedPath, EncodedUuid, decode_owner, is_zero,
};
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
    uuid: EncodedUuid,
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
            uuid: lock.owner.uuid.into(),
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
    /// Moves the lower files and devices of versions 4 and 5 to their present field.
    pub(in crate::keep::state_file) fn upgrade(&mut self) {
        let below = std::mem::take(&mut self.below);
        self.occupies.extend(below.into_extents().map(EncodedExtent::from));
    }

    /// Encodes the fields.
    pub(in crate::keep::state_file) fn encode(&self, out: &mut FieldWriter<'_>) {
        out.put_owner(fields::ID, self.number, (self.uid, self.uuid.0, self.process), &[]);
        let flags = u8::from(self.fleeting) | u8::from(self.write_shown) << 1;
        out.put(fields::LOCK, &[&self.since.to_le_bytes(), &[flags]]);
        out.put(fields::RESOURCE, &[self.resource.as_bytes()]);
        if let Some(canonical) = &self.canonical {
            out.put(fields::CANONICAL, &[canonical.as_bytes()]);
        }
        if let Some(path) = &self.path {
            out.put(fields::PATH, &[path.bytes()]);
        }
        self.identity.put(fields::IDENTITY, out);
        self.occupies.iter().for_each(|extent| extent.put(fields::OCCUPIES, out));
        self.copies.iter().for_each(|path| out.put(fields::COPY, &[path.bytes()]));
        out.put(fields::LOCKSPACE, &[self.lockspace.as_bytes()]);
        self.lock_files.iter().for_each(|path| out.put(fields::LOCK_FILE, &[path.bytes()]));
        if let Some(former) = &self.former {
            former.put(fields::FORMER, out);
        }
        if !self.resumes.is_empty() {
            let numbers: Vec<_> = self.resumes.iter().flat_map(|n| n.to_le_bytes()).collect();
            out.put(fields::RESUMES, &[&numbers]);
        }
        if let Some(stashed_as) = &self.stashed_as {
            stashed_as.put(fields::STASHED_AS, out);
        }
    }

    /// Decodes the fields; `None` if one is missing or invalid.
    pub(in crate::keep::state_file) fn decode(fields: &Fields<'_>) -> Option<Self> {
        let mut id = Value(fields.one(fields::ID)?);
        let (number, (uid, uuid, process)) = id.owner()?;
        id.end(())?;
        let mut lock = Value(fields.one(fields::LOCK)?);
        let (since, flags) = (lock.u64()?, lock.byte()?);
        lock.end(())?;
        let optional = |tag| match fields.one(tag) {
            Some(value) => Some(Some(FormerLock::decode(value)?)),
            None => Some(None),
        };
        let canonical = match fields.one(fields::CANONICAL) {
            Some(value) => Some(Value(value).text()?.to_owned()),
            None => None,
        };
        let paths = |tag| fields.all(tag).map(EncodedPath::of).collect();
        let mut resumes = Value(fields.one(fields::RESUMES).unwrap_or_default());
        Some(Self {
            number,
            uid,
            uuid: EncodedUuid(uuid),
            process,
            since,
            resource: fields.text(fields::RESOURCE)?.to_owned(),
            canonical,
            path: fields.one(fields::PATH).map(EncodedPath::of),
            identity: EncodedIdentity::decode(fields.one(fields::IDENTITY)?)?,
            below: Below::default(),
            occupies: fields
                .all(fields::OCCUPIES)
                .map(EncodedExtent::decode)
                .collect::<Option<_>>()?,
            copies: paths(fields::COPY),
            lockspace: fields.text(fields::LOCKSPACE)?.to_owned(),
            lock_files: paths(fields::LOCK_FILE),
            fleeting: flags & 1 != 0,
            write_shown: flags & 2 != 0,
            former: optional(fields::FORMER)?,
            resumes: std::iter::from_fn(|| resumes.u64()).collect(),
            stashed_as: optional(fields::STASHED_AS)?,
        })
    }

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
        decode_owner(self.uid, self.uuid, self.process)
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
        let owner = decode_owner(self.uid, self.uuid, self.process)?;
        let proof = Proof::Unverified;
        Some(Lock { id: self.number, owner, since: self.since, stage, proof, want })
    }
}
