//! The records of owners and anchors.

use serde::{Deserialize, Serialize};

use super::super::fields::{self, FieldWriter, Fields, Value};
use super::value::{EncodedUuid, decode_owner, is_zero};
use crate::lock::model::loss_action::OnLost;
use crate::lock::model::owner::AnchorId;
use crate::lock::{Anchor, Front, Owner, OwnerId};

/// An owner, without its locks and anchors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerRecord {
    number: AnchorId,
    uid: u32,
    uuid: EncodedUuid,
    #[serde(default, skip_serializing_if = "is_zero")]
    process: u32,
    name: String,
    #[serde(rename = "front")]
    frontend: String,
    since: u64,
    /// The owner stays until it is closed, even if all its anchors end.
    manual: bool,
    /// The loss action, if it is not the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    on_lost: Option<String>,
    /// The purpose of the locks, as the client states it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    why: String,
}

impl OwnerRecord {
    /// Encodes the fields.
    pub(in crate::keep::state_file) fn encode(&self, out: &mut FieldWriter<'_>) {
        out.put_owner(fields::ID, self.number, (self.uid, self.uuid.0, self.process), &[]);
        out.put(fields::OWNER, &[&self.since.to_le_bytes(), &[u8::from(self.manual)]]);
        out.put(fields::NAME, &[self.name.as_bytes()]);
        out.put(fields::FRONTEND, &[self.frontend.as_bytes()]);
        if let Some(on_lost) = &self.on_lost {
            out.put(fields::ON_LOST, &[on_lost.as_bytes()]);
        }
        if !self.why.is_empty() {
            out.put(fields::WHY, &[self.why.as_bytes()]);
        }
    }

    /// Decodes the fields; `None` if one is missing or invalid.
    pub(in crate::keep::state_file) fn decode(fields: &Fields<'_>) -> Option<Self> {
        let mut id = Value(fields.one(fields::ID)?);
        let (number, (uid, uuid, process)) = id.owner()?;
        id.end(())?;
        let mut owner = Value(fields.one(fields::OWNER)?);
        let (since, manual) = (owner.u64()?, owner.flag()?);
        owner.end(())?;
        let optional = |tag| match fields.one(tag) {
            Some(value) => Some(Some(Value(value).text()?.to_owned())),
            None => Some(None),
        };
        Some(Self {
            number,
            uid,
            uuid: EncodedUuid(uuid),
            process,
            name: fields.text(fields::NAME)?.to_owned(),
            frontend: fields.text(fields::FRONTEND)?.to_owned(),
            since,
            manual,
            on_lost: optional(fields::ON_LOST)?,
            why: optional(fields::WHY)?.unwrap_or_default(),
        })
    }

    /// Creates the record of an owner. `number` is one of the numbers of anchors: while an ended
    /// owner is being removed, another owner with the same ID may be opened.
    #[must_use]
    pub fn new(number: AnchorId, owner: &Owner, manual: bool) -> Self {
        Self {
            number,
            manual,
            uid: owner.id.uid,
            uuid: owner.id.uuid.into(),
            process: owner.id.process,
            name: owner.name.clone(),
            frontend: owner.front.as_str().to_owned(),
            since: owner.since,
            on_lost: (owner.on_lost != OnLost::default())
                .then(|| owner.on_lost.as_str().to_owned()),
            why: owner.why.clone(),
        }
    }

    /// Returns the number of the record.
    #[must_use]
    pub fn number(&self) -> AnchorId {
        self.number
    }

    /// Returns whether the owner stays until it is closed.
    #[must_use]
    pub fn is_manual(&self) -> bool {
        self.manual
    }

    /// Returns the owner, without anchors; `None` if a field is invalid.
    #[must_use]
    pub fn owner(&self) -> Option<Owner> {
        let front = Front::ALL.into_iter().find(|front| front.as_str() == self.frontend)?;
        let id = decode_owner(self.uid, self.uuid, self.process)?;
        let on_lost = self.on_lost.as_deref().map_or(Ok(OnLost::default()), str::parse).ok()?;
        let why = self.why.clone();
        Some(Owner { why, on_lost, ..Owner::new(id, self.name.clone(), front, self.since) })
    }
}

/// An anchor: what keeps an owner alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnchorRecord {
    number: AnchorId,
    uid: u32,
    uuid: EncodedUuid,
    #[serde(default, skip_serializing_if = "is_zero")]
    process: u32,
    kind: String,
    /// The PID of an anchor that is a process.
    #[serde(default, skip_serializing_if = "is_zero")]
    pid: u32,
    /// The anchor is a process of another user, and a permission for that was granted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    permitted: bool,
    #[serde(default, rename = "sign")]
    identity: AnchorIdentity,
}

/// Identifies an anchor whose descriptor is lost, as long as the host is not rebooted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnchorIdentity {
    /// The inode number (`st_ino`) of the pipe or of the pidfd; 0 if it identifies nothing.
    #[serde(default)]
    pub inode: u64,
    /// The start time of a process, in ticks since boot (`/proc/PID/stat`, `proc_pid_stat(5)`).
    #[serde(default)]
    pub start: u64,
}

impl AnchorRecord {
    /// Encodes the fields.
    pub(in crate::keep::state_file) fn encode(&self, out: &mut FieldWriter<'_>) {
        out.put_owner(fields::ID, self.number, (self.uid, self.uuid.0, self.process), &[]);
        let AnchorIdentity { inode, start } = self.identity;
        let (pid, permitted) = (self.pid.to_le_bytes(), [u8::from(self.permitted)]);
        out.put(fields::ANCHOR, &[&pid, &permitted, &inode.to_le_bytes(), &start.to_le_bytes()]);
        out.put(fields::ANCHOR_KIND, &[self.kind.as_bytes()]);
    }

    /// Decodes the fields; `None` if one is missing or invalid.
    pub(in crate::keep::state_file) fn decode(fields: &Fields<'_>) -> Option<Self> {
        let mut id = Value(fields.one(fields::ID)?);
        let (number, (uid, uuid, process)) = id.owner()?;
        id.end(())?;
        let mut anchor = Value(fields.one(fields::ANCHOR)?);
        let (pid, permitted) = (anchor.u32()?, anchor.flag()?);
        let identity = AnchorIdentity { inode: anchor.u64()?, start: anchor.u64()? };
        anchor.end(())?;
        let kind = fields.text(fields::ANCHOR_KIND)?.to_owned();
        let uuid = EncodedUuid(uuid);
        Some(Self { number, uid, uuid, process, kind, pid, permitted, identity })
    }

    /// Creates the record of an anchor of `owner`.
    #[must_use]
    pub fn new(owner: OwnerId, number: AnchorId, anchor: Anchor, identity: AnchorIdentity) -> Self {
        let pid = if let Anchor::Process { pid } = anchor { pid } else { 0 };
        let kind = kind_of(anchor).to_owned();
        let (uid, uuid, process) = (owner.uid, owner.uuid.into(), owner.process);
        Self { number, uid, uuid, process, kind, pid, permitted: false, identity }
    }

    /// Sets whether the anchor is a process of another user that was permitted.
    #[must_use]
    pub fn permitted(self, permitted: bool) -> Self {
        Self { permitted, ..self }
    }

    /// Returns whether the anchor is a process of another user that was permitted.
    #[must_use]
    pub fn is_permitted(&self) -> bool {
        self.permitted
    }

    /// Returns the number of the anchor.
    #[must_use]
    pub fn number(&self) -> AnchorId {
        self.number
    }

    /// Returns the identity of the anchor.
    #[must_use]
    pub fn identity(&self) -> AnchorIdentity {
        self.identity
    }

    /// Returns the owner; `None` if a field is invalid.
    #[must_use]
    pub fn owner(&self) -> Option<OwnerId> {
        decode_owner(self.uid, self.uuid, self.process)
    }

    /// Returns the anchor; `None` if its kind is unknown.
    #[must_use]
    pub fn anchor(&self) -> Option<Anchor> {
        let process = Anchor::Process { pid: self.pid };
        let all = [Anchor::Lifeline, process, Anchor::Connection, Anchor::Manual];
        all.into_iter().find(|anchor| kind_of(*anchor) == self.kind)
    }
}

/// Returns the kind of an anchor in the state file. A lifeline is `lease` there, as in files of
/// earlier versions.
fn kind_of(anchor: Anchor) -> &'static str {
    if anchor == Anchor::Lifeline { "lease" } else { anchor.as_str() }
}
