//! What owners remember, offer, and have from one another.

use std::collections::HashSet;
use std::sync::Arc;

use super::Finding;
use crate::keep::line::{Line, Step};
use crate::keep::record::{LockRecord, Record};
use crate::keep::state::Name;
use crate::keep::{Key, Part};
use crate::lock::acquire::handle::Held;
use crate::lock::holder_record::record::Signature;
use crate::lock::model::lock::Stage;
use crate::lock::model::owner::{AnchorId, Offer};
use crate::lock::{Mode, OwnerId, Reason, Table};
use crate::service::lock::reclaim::end_of;
use crate::service::lock::transfer::since_boot;
use crate::service::report::holder_record::of_owner;

/// Which locks are other owners' by now.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// Their former owners remember these.
    remembered: HashSet<u64>,
    /// And these not; or have them again, by another number.
    forgotten: HashSet<u64>,
    /// Who had what that who has by which number now.
    relations: Vec<(OwnerId, u64, OwnerId, u64)>,
    /// These were on their way to somebody who had gone before they came.
    returned: HashSet<u64>,
    /// And are their former owners', by these numbers.
    kept: HashSet<u64>,
}

/// What the record of a lock is.
pub(super) enum What {
    /// A lock.
    Lock,
    /// One that was to be handed over, and was not.
    Kept,
    /// One that its owner remembers.
    Remembered,
    /// One that is noted elsewhere.
    Nothing,
}

impl Moved {
    /// A lock that was handed over is noted before the one that it was is noted as gone; and the
    /// record of an owner goes after those of its locks, unless it went while one was on its way.
    pub(super) fn of(
        locks: &[(LockRecord, Mode, Step)],
        is_known: impl Fn(OwnerId) -> bool,
    ) -> Self {
        let mut moved = Self::default();
        for (record, ..) in locks.iter().filter(|(.., step)| *step != Step::Granting) {
            if let Some(before) = record.before()
                && !record.owner().is_some_and(&is_known)
            {
                moved.returned.insert(record.number());
                moved.kept.insert(before.number());
                continue;
            }
            moved.forgotten.extend(record.resumes());
            let Some(before) = record.before() else { continue };
            if !before.is_remembered() {
                moved.forgotten.insert(before.number());
                continue;
            }
            moved.remembered.insert(before.number());
            if let (Some((from, old)), Some(to)) = (before.name(), record.owner()) {
                moved.relations.push((from, old, to, record.number()));
            }
        }
        moved
    }

    pub(super) fn what_of(&self, record: &LockRecord, step: Step) -> What {
        let number = record.number();
        if self.forgotten.contains(&number) || self.returned.contains(&number) {
            What::Nothing
        } else if self.kept.contains(&number) {
            What::Kept
        } else if step == Step::Suspended || self.remembered.contains(&number) {
            What::Remembered
        } else {
            What::Lock
        }
    }

    /// Who gives back to whom.
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

impl Finding {
    /// What an owner offers, if that has not expired.
    pub(super) fn offer_of(&self, id: OwnerId, record: AnchorId) -> Option<Offer> {
        let now = since_boot();
        let offers = self.offers.iter();
        let of_owner = offers.filter(|(owner, offer)| *owner == id && offer.record > record);
        of_owner.map(|(_, offer)| *offer).find(|offer| offer.until > now)
    }

    /// Has an owner remember a lock.
    pub(super) fn enter_remembered(&mut self, record: LockRecord, mode: Mode) {
        let number = record.number();
        let line = Line {
            step: Step::Suspended,
            mode: Some(mode),
            record: Record::Lock(Box::new(record.clone())),
        };
        let Some(lock) = record.lock(mode, Stage::Held) else { return };
        // With an owner that has ended goes what it remembers.
        if self.state.table.living(lock.owner).is_ok() && !self.endings.contains(&lock.owner) {
            self.state.table.remember(lock.owner, number, lock.want);
            self.lines.push((Name::Lock(number), line));
        }
    }

    /// Reserves a released lock for its owner, for a whole grace period again: when the reservation
    /// began is not noted.
    pub(super) fn enter_reserved(&mut self, record: LockRecord, mode: Mode) {
        let number = record.number();
        let Some(grace) = self.state.settings.release_grace else { return };
        let line = Line {
            step: Step::Reserved,
            mode: Some(mode),
            record: Record::Lock(Box::new(record.clone())),
        };
        let Some(lock) = record.lock(mode, Stage::Held) else { return };
        if self.state.table.living(lock.owner).is_ok() && !self.endings.contains(&lock.owner) {
            self.state.table.restore_reclaimable(lock, end_of(grace));
            self.lines.push((Name::Lock(number), line));
        }
    }

    /// What is remembered may not have been unlocked yet: then it is in everybody's way until it is.
    /// All that is held is known by now.
    pub(super) fn enter_half_given_up(&mut self, record: LockRecord, mode: Mode) {
        let Some((parked_owner, parked_number)) = record.parked() else { return };
        let part = Part::Byte(parked_number, 0);
        let key = Key { owner: parked_owner, part };
        if !self.fds.contains_key(&key) && !self.away.contains(&key) {
            return;
        }
        let Some(lock) = record.lock(mode, Stage::Held) else { return };
        let (id, number, since, want) = (lock.owner, lock.id, lock.since, lock.want.clone());
        if self.state.table.restore(lock).is_err() {
            // Somebody has it, so it was unlocked; the copy is only not cleared away yet.
            return;
        }
        let found = self.descriptions(parked_owner, parked_number);
        let signature = Signature { lock: number, ..of_owner(&self.state, id, since) };
        let held = Held::restored(found, &want, &signature, &mut self.directories);
        if let Some(held) = held.map(Arc::new) {
            held.kept_as(parked_owner, parked_number);
            if let Err(error) = self.keep_parked(id, number, &held) {
                tracing::error!(%error, lock = number, "cannot record that suspended lock {number} is being released");
            }
            self.state.held.insert(number, held);
        }
        self.releases.push((id, number, Reason::Suspended));
    }

    /// Who is suspended has handed over what he offered, and nobody is to come for it again.
    pub(super) fn finish_offers(&mut self) {
        let owners = self.state.table.owners();
        let used = owners.filter(|owner| owner.is_suspended() && owner.offer.is_some());
        for id in used.map(|owner| owner.id).collect::<Vec<_>>() {
            let Some(offer) = self.state.table.withdraw_offer(id, None) else { continue };
            self.lines.retain(|(name, _)| *name != Name::Offer(offer.record));
            if self.state.table.owner(id).is_some_and(|owner| owner.anchors.is_empty()) {
                self.endings.push(id);
            }
        }
    }

    /// Who was being suspended, or resumed, was not told of either; so he is suspended.
    pub(super) fn finish_suspensions(&mut self) {
        let table = &self.state.table;
        let half = table.locks().filter_map(|lock| {
            let owner = table.living(lock.owner).ok().filter(|owner| owner.is_suspended())?;
            let known = owner.suspended.values().any(|want| want.meets(&lock.want));
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
