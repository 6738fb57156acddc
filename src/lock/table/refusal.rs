//! Refusals: which locks and reservations conflict with a request.

use super::Table;
use crate::lock::model::error::Error;
use crate::lock::model::lock::{Lock, Want};
use crate::lock::model::owner::{Owner, OwnerId};
use crate::lock::model::process_search::Processes;
use crate::lock::model::refusal::{Holder, Refusal, Relation};

impl Table {
    /// Returns the holder of a lock, as a refusal names it.
    #[must_use]
    pub fn holder(&self, lock: &Lock) -> Holder {
        let owner = self.owners.get(&lock.owner);
        Holder {
            lock: lock.id,
            owner: lock.owner,
            name: owner.map(|owner| owner.name.clone()).unwrap_or_default(),
            why: owner.map(|owner| owner.why.clone()).unwrap_or_default(),
            pid: owner.map_or(0, Owner::pid),
            mode: lock.want.mode,
            since: lock.since,
            resource: lock.want.resource.clone(),
            relation: Relation::Same,
            kept_by: Processes::default(),
            reserved_until: None,
        }
    }

    /// Returns the holder of a lock, as a refusal of `want` names it.
    pub(super) fn holder_of(&self, lock: &Lock, want: &Want) -> Holder {
        let relation = match (want.lies_on(&lock.want), lock.want.lies_on(want)) {
            (true, _) => Relation::Beneath,
            (_, true) => Relation::Above,
            _ if want.is_same(&lock.want) => Relation::Same,
            _ => Relation::Overlapping,
        };
        Holder { relation, ..self.holder(lock) }
    }

    /// Refuses a resource to owner `id` (if any) if a lock that `counts` selects conflicts with it,
    /// or if it is reserved for another owner.
    pub(super) fn refuse_if_held(
        &self,
        want: &Want,
        id: Option<OwnerId>,
        counts: impl Fn(&Lock) -> bool,
    ) -> Result<(), Error> {
        let mut holders: Vec<Holder> = self
            .locks_overlapping(want)
            .filter(|lock| lock.want.mode.conflicts(want.mode) && counts(lock))
            .map(|lock| self.holder_of(lock, want))
            .collect();
        self.add_reserved_holders(&mut holders, want, self.reserved_for_others(want, id));
        if holders.is_empty() {
            return Ok(());
        }
        if let Some(foreign) = self.foreign_on(want, &holders) {
            return Err(Error::HeldElsewhere(Box::new(foreign)));
        }
        let resource = want.resource.clone();
        let (ahead, users) = (None, Processes::default());
        Err(Error::Held(Box::new(Refusal { resource, holders, ahead, users })))
    }
}
