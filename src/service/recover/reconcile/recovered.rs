//! Keeps locks without a record (orphans) for an owner that only an administrator closes.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::Reconciliation;
use crate::keep::{EntryStage, KeyPart, StashKey};
use crate::lock::acquire::handle::LockHandle;
use crate::lock::acquire::reacquire::recognise;
use crate::lock::holder_record::record::HolderRecord;
use crate::lock::model::lock::{Proof, Stage, Want};
use crate::lock::resolve::renewal::found_below;
use crate::lock::{Anchor, Front, Lock, Owner, OwnerId};
use crate::service::core::clock::now;
use crate::service::core::error::Error;
use crate::service::persist::entries::{lock_entry, owner_entry};
use crate::service::report::event_log::Vm;

/// The UUID of the owner of these locks, fixed so that it can be searched for.
const RECOVERED: Uuid = Uuid::from_bytes(*b"vmlockd:recover\0");
/// The name of this owner.
const RECOVERED_NAME: &str = "recovered";

impl Reconciliation {
    /// Enters an owner that stays until it is closed, in place of an owner whose record is damaged.
    pub(super) fn enter_manual(&mut self, id: OwnerId) -> Result<(), Error> {
        let vm = Vm(id, "");
        tracing::error!(
            owner.uuid = %id.uuid,
            owner.uid = id.uid,
            "the record of {vm} is damaged; its owner is kept until it is closed"
        );
        self.open_manual(id, RECOVERED_NAME)
    }

    /// Opens an owner that stays until it is closed.
    pub(super) fn open_manual(&mut self, id: OwnerId, name: &str) -> Result<(), Error> {
        let mut owner = Owner::new(id, name.to_owned(), Front::Dbus, now());
        owner.anchors.insert(self.state.next_anchor(), Anchor::Manual);
        let record = self.state.next_anchor();
        self.entries.push(owner_entry(record, &owner, EntryStage::Held));
        self.state.table.open_owner(owner)?;
        self.state.owners.entry(id).or_default().record = record;
        Ok(())
    }

    /// Enters locked descriptors without a record as locks of an owner of their own.
    pub(super) fn recover(&mut self) -> Result<(), Error> {
        let byte = |key: &StashKey| match key.part {
            KeyPart::Byte(number, _) => Some((number, key.owner)),
            KeyPart::Anchor(_) => None,
        };
        let keys = self.fds.keys().chain(&self.stash_only);
        let numbers: BTreeMap<u64, OwnerId> = keys.filter_map(byte).collect();
        let id = OwnerId::new(0, RECOVERED);
        for (number, owner) in numbers {
            let found = self.descriptions(owner, number);
            // If nothing is locked, the record is missing because the lock was released.
            let Some(want) = recognise(&found, number) else { continue };
            let want = Want { below: found_below(want.identity), ..want };
            // The content of the holder record, if any, is unknown.
            let signature = HolderRecord::default();
            let held = LockHandle::restored(found, &want, &signature, &mut self.directories);
            let Some(held) = held else { continue };
            if self.state.table.owner(id).is_none() {
                self.enter_manual(id)?;
            }
            let (since, stage, proof) = (now(), Stage::Held, Proof::Unverified);
            let lock = Lock { id: number, owner: id, since, stage, proof, want };
            tracing::error!(
                lock = number,
                "the record of a lock on {} is missing; the lock is kept until an administrator releases it",
                crate::lock::text::escape::shown(&lock.want.resource)
            );
            let (held, entry) = (Arc::new(held), lock_entry(&lock, EntryStage::Held));
            if let Err(error) = self.state.table.restore(lock) {
                tracing::error!(%error, lock = number, "cannot restore lock {number}, which has no record");
                continue;
            }
            self.keep_stashed(owner, number, &held)?;
            self.entries.push(entry);
            self.state.held.insert(number, held);
        }
        Ok(())
    }
}
