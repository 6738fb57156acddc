//! What owners remember, offer, and have from one another.

use std::collections::HashSet;

use super::Finding;
use crate::keep::line::{Line, Step};
use crate::keep::record::{LockRecord, Record};
use crate::keep::state::Name;
use crate::lock::owner::{AnchorId, Offer};
use crate::lock::record::Stage;
use crate::lock::{Mode, OwnerId, Reason, Table};
use crate::service::handover::since_boot;

/// Which locks are other owners' by now.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// Their former owners remember these.
    remembered: HashSet<u64>,
    /// And these not; or have them again, by another number.
    forgotten: HashSet<u64>,
    /// Who had what that who has by which number now.
    relations: Vec<(OwnerId, u64, OwnerId, u64)>,
}

/// What the record of a lock is.
pub(super) enum What {
    /// A lock.
    Lock,
    /// One that its owner remembers.
    Remembered,
    /// One that is noted elsewhere.
    Nothing,
}

impl Moved {
    /// A lock that was handed over is noted before the one that it was is noted as gone.
    pub(super) fn of(locks: &[(LockRecord, Mode, Step)]) -> Self {
        let mut moved = Self::default();
        for (record, ..) in locks.iter().filter(|(.., step)| *step != Step::Granting) {
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
        if self.forgotten.contains(&number) {
            What::Nothing
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

    /// Has an owner remember a lock. Should it not have been unlocked yet, nobody has a record of its
    /// descriptors any more, and they are closed as what nobody was told of.
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
