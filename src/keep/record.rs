//! Owners, anchors and locks as they are written down.
//!
//! These are not the table's own types: what is written has to be read by another version of the
//! program, so it changes only with the version of the state (`super::state::VERSION`).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::handover::{OfferRecord, Origin};
use super::key::Part;
use super::spelling::{Identified, Occupied, Spelling};
use super::state::Name;
use crate::lock::lockspace::LockspaceKind;
use crate::lock::model::extent::Extent;
use crate::lock::model::lock::{Lock, Proof, Stage, Want};
use crate::lock::model::loss_action::OnLost;
use crate::lock::model::owner::AnchorId;
use crate::lock::{Anchor, Front, Mode, Owner, OwnerId};

/// What one line of the state file tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Record {
    /// The highest numbers that were ever given.
    Counted(Counted),
    /// An owner.
    Owner(OwnerRecord),
    /// What keeps an owner alive.
    Anchor(AnchorRecord),
    /// A lock.
    Lock(Box<LockRecord>),
    /// A directory of keys.
    Lockspace(LockspaceRecord),
    /// What an owner offers to another.
    Offer(OfferRecord),
}

/// A directory of keys that a client named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockspaceRecord {
    number: u32,
    path: Spelling,
}

impl LockspaceRecord {
    /// What is written of one.
    #[must_use]
    pub fn new(number: u32, path: &Path) -> Self {
        Self { number, path: path.into() }
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Where it is.
    #[must_use]
    pub fn path(self) -> PathBuf {
        self.path.into()
    }
}

/// The highest numbers that were ever given: none is given twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counted {
    /// The last lock.
    pub lock: u64,
    /// The last anchor.
    pub anchor: AnchorId,
}

impl Counted {
    /// What is parked has one, too.
    pub fn count_parked(&mut self, part: Part) {
        match part {
            Part::Byte(number, _) => self.lock = self.lock.max(number),
            Part::Anchor(number) => self.anchor = self.anchor.max(number),
        }
    }

    /// What is written down has a number.
    pub(super) fn count(&mut self, name: Name) {
        match name {
            Name::Lock(number) => self.lock = self.lock.max(number),
            Name::Anchor(number) | Name::Owner(number) | Name::Offer(number) => {
                self.anchor = self.anchor.max(number);
            }
            // What refers to one keeps it.
            Name::Lockspace(_) => {}
        }
    }
}

/// An owner, without what it holds and what keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerRecord {
    number: AnchorId,
    uid: u32,
    uuid: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    process: u32,
    name: String,
    front: String,
    since: u64,
    /// It stays until it is closed, whatever becomes of its anchors.
    manual: bool,
    /// What becomes of its processes when a lock is lost, where anything does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    on_lost: Option<String>,
    /// What its locks are for, where its opener says so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    why: String,
}

/// What keeps an owner alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnchorRecord {
    number: AnchorId,
    uid: u32,
    uuid: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    process: u32,
    kind: String,
    /// Of a process.
    #[serde(default, skip_serializing_if = "is_zero")]
    pid: u32,
    /// Of a process: it was allowed though it is another user's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    permitted: bool,
    /// What it is known by where its descriptor is lost.
    #[serde(default)]
    sign: Sign,
}

/// What something is known by that there is no descriptor of, on a host that has not rebooted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sign {
    /// The number of the pipe or of the pidfd (`st_ino`); 0 where it tells nothing.
    #[serde(default)]
    pub inode: u64,
    /// When a process was started, in ticks since boot (`/proc/PID/stat`, `proc_pid_stat(5)`).
    #[serde(default)]
    pub start: u64,
}

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
    path: Option<Spelling>,
    identity: Identified,
    /// What it lies on, as versions 4 and 5 wrote it: not which part of that it occupies.
    #[serde(default, skip_serializing)]
    below: Vec<Identified>,
    /// The parts of other files and devices that it occupies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    occupies: Vec<Occupied>,
    /// Where files of overlays will be that it lies on, once they are copied up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    copies: Vec<Spelling>,
    lockspace: String,
    lock_files: Vec<Spelling>,
    fleeting: bool,
    write_shown: bool,
    /// Whose it was before, and which one, where it was handed over; and whether that one is
    /// remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<Origin>,
    /// What its owner remembered, and has again with this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    resumes: Vec<u64>,
    /// Under which names its descriptors are parked, where it was handed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parked: Option<Origin>,
}

// serde passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
pub(super) fn is_zero(number: &u32) -> bool {
    *number == 0
}

pub(super) fn owner_id(uid: u32, uuid: &str, process: u32) -> Option<OwnerId> {
    Some(OwnerId { uid, uuid: Uuid::try_parse(uuid).ok()?, process })
}

impl OwnerRecord {
    /// What is written of an owner; its record has a number among those of anchors, since a
    /// machine may be opened again while its old owner is still being cleared away.
    #[must_use]
    pub fn new(number: AnchorId, owner: &Owner, manual: bool) -> Self {
        Self {
            number,
            manual,
            uid: owner.id.uid,
            uuid: owner.id.uuid.to_string(),
            process: owner.id.process,
            name: owner.name.clone(),
            front: owner.front.as_str().to_owned(),
            since: owner.since,
            on_lost: (owner.on_lost != OnLost::default())
                .then(|| owner.on_lost.as_str().to_owned()),
            why: owner.why.clone(),
        }
    }

    /// The number of the record.
    #[must_use]
    pub fn number(&self) -> AnchorId {
        self.number
    }

    /// Whether it stays until it is closed.
    #[must_use]
    pub fn is_manual(&self) -> bool {
        self.manual
    }

    /// The owner, still without anchors; `None` where a word is none of ours.
    #[must_use]
    pub fn owner(&self) -> Option<Owner> {
        let front = Front::ALL.into_iter().find(|front| front.as_str() == self.front)?;
        let id = owner_id(self.uid, &self.uuid, self.process)?;
        let on_lost = self.on_lost.as_deref().map_or(Ok(OnLost::default()), str::parse).ok()?;
        let why = self.why.clone();
        Some(Owner { why, on_lost, ..Owner::new(id, self.name.clone(), front, self.since) })
    }
}

impl AnchorRecord {
    /// What is written of an anchor.
    #[must_use]
    pub fn new(owner: OwnerId, number: AnchorId, anchor: Anchor, sign: Sign) -> Self {
        let pid = if let Anchor::Process { pid } = anchor { pid } else { 0 };
        let kind = word_of(anchor).to_owned();
        let (uid, uuid, process) = (owner.uid, owner.uuid.to_string(), owner.process);
        Self { number, uid, uuid, process, kind, pid, permitted: false, sign }
    }

    /// The same of a process that is another user's, if so.
    #[must_use]
    pub fn permitted(self, permitted: bool) -> Self {
        Self { permitted, ..self }
    }

    /// Whether it was allowed though it is another user's.
    #[must_use]
    pub fn is_permitted(&self) -> bool {
        self.permitted
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> AnchorId {
        self.number
    }

    /// What it is known by.
    #[must_use]
    pub fn sign(&self) -> Sign {
        self.sign
    }

    /// Whose it is.
    #[must_use]
    pub fn owner(&self) -> Option<OwnerId> {
        owner_id(self.uid, &self.uuid, self.process)
    }

    /// The anchor; `None` where a word is none of ours.
    #[must_use]
    pub fn anchor(&self) -> Option<Anchor> {
        let process = Anchor::Process { pid: self.pid };
        let all = [Anchor::Lifeline, process, Anchor::Connection, Anchor::Manual];
        all.into_iter().find(|anchor| word_of(*anchor) == self.kind)
    }
}

/// The word for a kind of anchor in the state file. A lifeline is `lease` there, since files of
/// earlier versions have this word.
fn word_of(anchor: Anchor) -> &'static str {
    if anchor == Anchor::Lifeline { "lease" } else { anchor.as_str() }
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
            path: want.path.as_deref().map(Spelling::from),
            identity: want.identity.into(),
            below: Vec::new(),
            occupies: want.below.iter().copied().map(Occupied::from).collect(),
            copies: want.copies.iter().map(|path| path.as_path().into()).collect(),
            lockspace: want.lockspace.name().into_owned(),
            lock_files: want.lock_files.iter().map(|file| file.as_path().into()).collect(),
            fleeting: want.fleeting,
            write_shown: want.write_shown,
            before: None,
            resumes: Vec::new(),
            parked: None,
        }
    }
}

impl LockRecord {
    /// The same for a lock that was handed over.
    #[must_use]
    pub fn handed_over(self, before: Origin, parked: Origin, resumes: Vec<u64>) -> Self {
        Self { before: Some(before), parked: Some(parked), resumes, ..self }
    }

    /// The same under another number, where its own may be damaged.
    #[must_use]
    pub fn renumbered(self, number: u64) -> Self {
        Self { number, ..self }
    }

    /// What its owner remembered, and has again with this.
    #[must_use]
    pub fn resumes(&self) -> &[u64] {
        &self.resumes
    }

    /// Whose it is.
    #[must_use]
    pub fn owner(&self) -> Option<OwnerId> {
        owner_id(self.uid, &self.uuid, self.process)
    }

    /// Whose it was before.
    #[must_use]
    pub fn before(&self) -> Option<&Origin> {
        self.before.as_ref()
    }

    /// The owner and the number under which its descriptors are parked.
    #[must_use]
    pub fn parked(&self) -> Option<(OwnerId, u64)> {
        match &self.parked {
            Some(parked) => parked.name(),
            None => Some((self.owner()?, self.number)),
        }
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The lock, unverified; `None` where a word is none of ours.
    #[must_use]
    pub fn lock(self, mode: Mode, stage: Stage) -> Option<Lock> {
        let lockspace = LockspaceKind::named(&self.lockspace)?;
        let occupied = self.occupies.into_iter().map(Extent::from);
        let below = self.below.into_iter().map(|lower| Extent::partial(lower.into()));
        let want = Want {
            resource: self.resource,
            canonical: self.canonical,
            path: self.path.map(PathBuf::from),
            identity: self.identity.into(),
            below: occupied.chain(below).collect(),
            copies: self.copies.into_iter().map(PathBuf::from).collect(),
            lockspace,
            lock_files: self.lock_files.into_iter().map(PathBuf::from).collect(),
            fleeting: self.fleeting,
            mode,
            write_shown: self.write_shown,
        };
        let owner = owner_id(self.uid, &self.uuid, self.process)?;
        let proof = Proof::Unverified;
        Some(Lock { id: self.number, owner, since: self.since, stage, proof, want })
    }
}
