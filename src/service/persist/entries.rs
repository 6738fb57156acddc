//! The entries of the state file, and the keys of the stash.

use std::path::Path;

use crate::keep::{
    AnchorRecord, EntryStage, KeyPart, LockRecord, LockspaceRecord, OfferRecord, OwnerRecord,
    Record, StashKey, StateEntry,
};
use crate::lock::acquire::handle::LockHandle;
use crate::lock::model::owner::AnchorId;
use crate::lock::ofd::description::Description;
use crate::lock::{Anchor, Lock, Owner, OwnerId};

/// Returns the entry of an anchor.
pub(in crate::service) fn anchor_entry(record: AnchorRecord) -> StateEntry {
    StateEntry { stage: EntryStage::Held, mode: None, record: Record::Anchor(record) }
}

/// Returns the entry of an owner; `number` is the number of its record.
pub(in crate::service) fn owner_entry(
    number: AnchorId,
    owner: &Owner,
    stage: EntryStage,
) -> StateEntry {
    let manual = owner.anchors.values().any(|anchor| *anchor == Anchor::Manual);
    let record = Record::Owner(OwnerRecord::new(number, owner, manual));
    StateEntry { stage, mode: None, record }
}

/// Returns the entry of a lockspace.
pub(in crate::service) fn lockspace_entry(number: u32, path: &Path) -> StateEntry {
    let record = Record::Lockspace(LockspaceRecord::new(number, path));
    StateEntry { stage: EntryStage::Held, mode: None, record }
}

/// Returns the entry of an offer.
pub(in crate::service) fn offer_entry(record: OfferRecord) -> StateEntry {
    StateEntry { stage: EntryStage::Held, mode: None, record: Record::Offer(record) }
}

/// Returns the entry of a lock.
pub(in crate::service) fn lock_entry(lock: &Lock, stage: EntryStage) -> StateEntry {
    let record = Record::Lock(Box::new(LockRecord::from(lock)));
    StateEntry { stage, mode: Some(lock.want.mode), record }
}

/// Returns the descriptions of a lock, with the keys under which they are stashed.
pub(in crate::service) fn stash_keys(
    owner: OwnerId,
    lock: u64,
    held: &LockHandle,
) -> impl Iterator<Item = (StashKey, &Description)> {
    let (owner, lock) = held.kept_as(owner, lock);
    held.descriptions().zip(0..).map(move |(description, byte)| {
        (StashKey { owner, part: KeyPart::Byte(lock, byte) }, description)
    })
}
