//! Reconciles suspended, reserved and offered locks, and locks that were transferred between
//! owners.

use std::collections::HashSet;
use std::sync::Arc;

use super::Reconciliation;
use crate::keep::{EntryStage, KeyPart, LockRecord, Record, RecordId, StashKey, StateEntry};
use crate::lock::acquire::handle::LockHandle;
use crate::lock::holder_record::record::HolderRecord;
use crate::lock::model::lock::Stage;
use crate::lock::model::owner::{AnchorId, Offer};
use crate::lock::{Mode, OwnerId, Reason, Table};
use crate::service::core::clock::since_boot;
use crate::service::holder::records::of_owner;
use crate::service::lock::reservations::end_of;

/// The locks that were transferred to other owners.
#[derive(Debug, Default)]
pub(super) struct TransferredLocks {
    /// Transferred locks that their former owners remember as suspended.
    remembered: HashSet<u64>,
    /// Transferred locks that their former owners do not remember, or hold again under another
    /// number.
    superseded: HashSet<u64>,
    /// For each remembered lock: former owner, old number, new owner, new number.
    relations: Vec<(OwnerId, u64, OwnerId, u64)>,
    /// Locks on the way to an owner that ended before the transfer was complete.
    returned: HashSet<u64>,
    /// The former owners' numbers of these locks.
    retained: HashSet<u64>,
}

/// The meaning of a lock record.
pub(super) enum RecordMeaning {
    /// A held lock.
    Lock,
    /// A lock whose transfer was not completed; its former owner keeps it.
    Retained,
    /// A suspended lock that its owner remembers.
    Remembered,
    /// A lock that another record describes.
    Nothing,
}

impl TransferredLocks {
    /// Compares the records of locks. The order of writes makes this unambiguous: the new record of
    /// a transferred lock is written before the old one is removed, and the record of an owner is
    /// removed after the records of its locks, except if the owner ended during a transfer.
    pub(super) fn of(
        locks: &[(LockRecord, Mode, EntryStage)],
        is_known: impl Fn(OwnerId) -> bool,
    ) -> Self {
        let mut moved = Self::default();
        for (record, ..) in locks.iter().filter(|(.., stage)| *stage != EntryStage::Granting) {
            if let Some(before) = record.former()
                && !record.owner().is_some_and(&is_known)
            {
                moved.returned.insert(record.number());
                moved.retained.insert(before.number());
                continue;
            }
            moved.superseded.extend(record.resumes());
            let Some(before) = record.former() else { continue };
            if !before.is_suspended() {
                moved.superseded.insert(before.number());
                continue;
            }
            moved.remembered.insert(before.number());
            if let (Some((from, old)), Some(to)) = (before.owner_and_number(), record.owner()) {
                moved.relations.push((from, old, to, record.number()));
            }
        }
        moved
    }

    pub(super) fn classify(&self, record: &LockRecord, stage: EntryStage) -> RecordMeaning {
        let number = record.number();
        if self.superseded.contains(&number) || self.returned.contains(&number) {
            RecordMeaning::Nothing
        } else if self.retained.contains(&number) {
            RecordMeaning::Retained
        } else if stage == EntryStage::Suspended || self.remembered.contains(&number) {
            RecordMeaning::Remembered
        } else {
            RecordMeaning::Lock
        }
    }

    /// Restores in the table which owner returns which lock to which former owner.
    pub(super) fn relate(&self, table: &mut Table) {
        for (from, old, to, new) in &self.relations {
            let remembers =
                table.owner(*from).is_some_and(|owner| owner.suspended.contains_key(old));
            if remembers && table.lock(*new).is_some() {
                table.restore_handover(*from, *to, *new);
            }
        }
    }
}

impl Reconciliation {
    /// Returns the offer of an owner, if it has not expired.
    pub(super) fn offer_of(&self, id: OwnerId, record: AnchorId) -> Option<Offer> {
        let now = since_boot();
        let offers = self.offers.iter();
        let of_owner = offers.filter(|(owner, offer)| *owner == id && offer.record > record);
        of_owner.map(|(_, offer)| *offer).find(|offer| offer.until > now)
    }

    /// Enters a suspended lock that its owner remembers.
    pub(super) fn enter_remembered(&mut self, record: LockRecord, mode: Mode) {
        let number = record.number();
        let entry = StateEntry {
            stage: EntryStage::Suspended,
            mode: Some(mode),
            record: Record::Lock(Box::new(record.clone())),
        };
        let Some(lock) = record.lock(mode, Stage::Held) else { return };
        // A suspended lock ends with its owner.
        if self.state.table.living(lock.owner).is_ok() && !self.endings.contains(&lock.owner) {
            self.state.table.remember(lock.owner, number, lock.want);
            self.entries.push(entry);
        }
    }

    /// Reserves a released lock for its owner for a full grace period: the start of the reservation
    /// is not recorded.
    pub(super) fn enter_reserved(&mut self, record: LockRecord, mode: Mode) {
        let Some(grace) = self.state.settings.release_grace else { return };
        let entry = StateEntry {
            stage: EntryStage::Reserved,
            mode: Some(mode),
            record: Record::Lock(Box::new(record.clone())),
        };
        let Some(lock) = record.lock(mode, Stage::Held) else { return };
        if self.state.table.living(lock.owner).is_ok() && !self.endings.contains(&lock.owner) {
            self.state.table.restore_reclaimable(lock, end_of(grace));
            self.entries.push(entry);
        }
    }

    /// Enters a remembered lock that may not be unlocked yet: it then conflicts with other owners
    /// until it is released. Call it after all held locks were entered.
    pub(super) fn enter_half_given_up(&mut self, record: LockRecord, mode: Mode) {
        let Some((stashed_owner, stashed_number)) = record.stashed_as() else { return };
        let part = KeyPart::Byte(stashed_number, 0);
        let key = StashKey { owner: stashed_owner, part };
        if !self.fds.contains_key(&key) && !self.stash_only.contains(&key) {
            return;
        }
        let Some(lock) = record.lock(mode, Stage::Held) else { return };
        let (id, number, since, want) = (lock.owner, lock.id, lock.since, lock.want.clone());
        if self.state.table.restore(lock).is_err() {
            // Another lock on the target is held, so this one was unlocked; only its copy in the
            // stash remains.
            return;
        }
        let found = self.descriptions(stashed_owner, stashed_number);
        let signature = HolderRecord { lock: number, ..of_owner(&self.state, id, since) };
        let held = LockHandle::restored(found, &want, &signature, &mut self.directories);
        if let Some(held) = held.map(Arc::new) {
            held.kept_as(stashed_owner, stashed_number);
            if let Err(error) = self.keep_stashed(id, number, &held) {
                tracing::error!(%error, lock = number, "cannot record that suspended lock {number} is being released");
            }
            self.state.held.insert(number, held);
        }
        self.releases.push((id, number, Reason::Suspended));
    }

    /// Withdraws the offers of suspended owners: the transfer is complete, and no other owner may
    /// accept the offer.
    pub(super) fn finish_offers(&mut self) {
        let owners = self.state.table.owners();
        let used = owners.filter(|owner| owner.is_suspended() && owner.offer.is_some());
        for id in used.map(|owner| owner.id).collect::<Vec<_>>() {
            let Some(offer) = self.state.table.withdraw_offer(id, None) else { continue };
            self.entries.retain(|entry| entry.record.id() != Some(RecordId::Offer(offer.record)));
            if self.state.table.owner(id).is_some_and(|owner| owner.anchors.is_empty()) {
                self.endings.push(id);
            }
        }
    }

    /// Completes unfinished suspensions and rolls back unfinished resumptions: no caller was
    /// notified of either, so the owner is suspended.
    pub(super) fn finish_suspensions(&mut self) {
        let table = &self.state.table;
        let half = table.locks().filter_map(|lock| {
            let owner = table.living(lock.owner).ok().filter(|owner| owner.is_suspended())?;
            let known = owner.suspended.values().any(|want| want.overlaps(&lock.want));
            let reason = if known { Reason::Released } else { Reason::Suspended };
            Some((lock.owner, lock.id, reason))
        });
        let half: Vec<_> = half.collect();
        let given_up =
            |number: &u64| self.releases.iter().any(|(_, released, _)| released == number);
        let half: Vec<_> = half.into_iter().filter(|(_, number, _)| !given_up(number)).collect();
        self.releases.extend(half);
    }
}
