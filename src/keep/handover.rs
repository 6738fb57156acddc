//! Offers, and locks that were handed over, as they are written down.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::record::{is_zero, owner_id};
use crate::lock::OwnerId;
use crate::lock::model::owner::{AnchorId, Offer};

/// A lock by the number that it had with another owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    uid: u32,
    uuid: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    process: u32,
    number: u64,
    /// That owner remembers it.
    #[serde(default)]
    remembered: bool,
}

impl Origin {
    /// What is written of one.
    #[must_use]
    pub fn new(owner: OwnerId, number: u64, remembered: bool) -> Self {
        let (uid, uuid, process) = (owner.uid, owner.uuid.to_string(), owner.process);
        Self { uid, uuid, process, number, remembered }
    }

    /// The owner, and the number.
    #[must_use]
    pub fn name(&self) -> Option<(OwnerId, u64)> {
        Some((owner_id(self.uid, &self.uuid, self.process)?, self.number))
    }

    /// The number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether its owner remembers it.
    #[must_use]
    pub fn is_remembered(&self) -> bool {
        self.remembered
    }
}

/// What an owner offers to whoever knows the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfferRecord {
    number: AnchorId,
    uid: u32,
    uuid: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    process: u32,
    token: String,
    /// In microseconds since boot.
    until: u64,
}

impl OfferRecord {
    /// What is written of one.
    #[must_use]
    pub fn new(owner: OwnerId, offer: Offer) -> Self {
        let (uid, uuid, process) = (owner.uid, owner.uuid.to_string(), owner.process);
        let token = offer.token.simple().to_string();
        Self { number: offer.record, uid, uuid, process, token, until: offer.until }
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> AnchorId {
        self.number
    }

    /// Whose it is, and what; `None` where a word is none of ours.
    #[must_use]
    pub fn offer(&self) -> Option<(OwnerId, Offer)> {
        let owner = owner_id(self.uid, &self.uuid, self.process)?;
        let token = Uuid::try_parse(&self.token).ok()?;
        Some((owner, Offer { token, until: self.until, record: self.number }))
    }
}
