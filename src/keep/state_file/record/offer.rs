//! The records of transfers: offers, and the former numbers of transferred locks.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::super::fields::{self, FieldWriter, Fields, Value};
use super::value::{EncodedUuid, decode_owner, is_zero};
use crate::lock::OwnerId;
use crate::lock::model::owner::{AnchorId, Offer};

/// A transferred lock under its former owner and number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormerLock {
    uid: u32,
    uuid: EncodedUuid,
    #[serde(default, skip_serializing_if = "is_zero")]
    process: u32,
    number: u64,
    /// The former owner still has it as a suspended lock.
    #[serde(default, rename = "remembered")]
    is_suspended: bool,
}

impl FormerLock {
    /// Appends its field.
    pub(super) fn put(&self, tag: u8, out: &mut FieldWriter<'_>) {
        let owner = (self.uid, self.uuid.0, self.process);
        out.put_owner(tag, self.number, owner, &[u8::from(self.is_suspended)]);
    }

    /// Decodes the value of its field.
    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let mut value = Value(value);
        let (number, (uid, uuid, process)) = value.owner()?;
        let is_suspended = value.flag()?;
        value.end(Self { uid, uuid: EncodedUuid(uuid), process, number, is_suspended })
    }

    /// Creates the record.
    #[must_use]
    pub fn new(owner: OwnerId, number: u64, is_suspended: bool) -> Self {
        let (uid, uuid, process) = (owner.uid, owner.uuid.into(), owner.process);
        Self { uid, uuid, process, number, is_suspended }
    }

    /// Returns the former owner and number; `None` if the owner is invalid.
    #[must_use]
    pub fn owner_and_number(&self) -> Option<(OwnerId, u64)> {
        Some((decode_owner(self.uid, self.uuid, self.process)?, self.number))
    }

    /// Returns the former number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns whether the former owner still has it as a suspended lock.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.is_suspended
    }
}

/// The offer of an owner to transfer its locks to a client that presents the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfferRecord {
    number: AnchorId,
    uid: u32,
    uuid: EncodedUuid,
    #[serde(default, skip_serializing_if = "is_zero")]
    process: u32,
    token: String,
    /// The time at which the offer expires, in microseconds since boot.
    until: u64,
}

impl OfferRecord {
    /// Encodes the fields.
    pub(in crate::keep::state_file) fn encode(&self, out: &mut FieldWriter<'_>) {
        out.put_owner(fields::ID, self.number, (self.uid, self.uuid.0, self.process), &[]);
        out.put(fields::OFFER, &[&self.until.to_le_bytes(), self.token.as_bytes()]);
    }

    /// Decodes the fields; `None` if one is missing or invalid.
    pub(in crate::keep::state_file) fn decode(fields: &Fields<'_>) -> Option<Self> {
        let mut id = Value(fields.one(fields::ID)?);
        let (number, (uid, uuid, process)) = id.owner()?;
        id.end(())?;
        let mut offer = Value(fields.one(fields::OFFER)?);
        let until = offer.u64()?;
        let (uuid, token) = (EncodedUuid(uuid), offer.text()?.to_owned());
        Some(Self { number, uid, uuid, process, token, until })
    }

    /// Creates the record of an offer of `owner`.
    #[must_use]
    pub fn new(owner: OwnerId, offer: Offer) -> Self {
        let (uid, uuid, process) = (owner.uid, owner.uuid.into(), owner.process);
        let token = offer.token.simple().to_string();
        Self { number: offer.record, uid, uuid, process, token, until: offer.until }
    }

    /// Returns the number of the record.
    #[must_use]
    pub fn number(&self) -> AnchorId {
        self.number
    }

    /// Returns the owner and its offer; `None` if a field is invalid.
    #[must_use]
    pub fn offer(&self) -> Option<(OwnerId, Offer)> {
        let owner = decode_owner(self.uid, self.uuid, self.process)?;
        let token = Uuid::try_parse(&self.token).ok()?;
        Some((owner, Offer { token, until: self.until, record: self.number }))
    }
}
