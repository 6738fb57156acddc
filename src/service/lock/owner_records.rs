//! The records of owners and of their anchors.

use crate::lock::Owner;
use crate::lock::OwnerId;
use crate::lock::model::owner::AnchorId;
use crate::service::components::Components;
use crate::service::persist::anchor_handle::AnchorHandle;
use crate::service::persist::journal::{Journal, OwnerRecords};

/// An owner that is being opened, with its records.
pub(in crate::service) struct Opened {
    pub(in crate::service) owner: Owner,
    pub(in crate::service) records: OwnerRecords,
    pub(in crate::service) anchors: Vec<(AnchorId, AnchorHandle)>,
}

/// Removes the records of owners that were removed from the table.
pub(in crate::service) fn remove(journal: &Journal, owners: &[OwnerRecords]) {
    for records in owners {
        match journal.forget(records) {
            Ok(true) => journal.compact_later(),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "an owner is gone, but its record is not");
            }
        }
    }
}

/// Removes the record of an anchor.
pub(in crate::service) fn remove_anchor(journal: &Journal, id: OwnerId, number: AnchorId) {
    match journal.forget_anchor(id, number) {
        Ok(true) => journal.compact_later(),
        Ok(false) => {}
        Err(error) => tracing::error!(%error, "cannot remove the record of an anchor that ended"),
    }
}

/// Removes the records of anchors that ended while they were being written. Call it on a worker
/// thread.
pub(in crate::service) fn remove_ended_anchors(components: &Components, records: &OwnerRecords) {
    let ended: Vec<AnchorId> = {
        let state = components.state();
        let owner = state.table.owner(records.owner);
        let has_ended = |number: &AnchorId| {
            owner.is_none_or(|owner| owner.ended || !owner.anchors.contains_key(number))
        };
        records.anchors.iter().copied().filter(has_ended).collect()
    };
    for number in ended {
        remove_anchor(&components.journal, records.owner, number);
    }
}
