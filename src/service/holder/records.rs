//! Holder records beside locks, which name the holder to other hosts.

use std::cell::OnceCell;
use std::sync::Arc;

use crate::lock::acquire::handle::{LockHandle, RewriteRecord};
use crate::lock::holder_record::record::{HolderRecord, UnwrittenRecord};
use crate::lock::model::recording::Recording;
use crate::lock::request::Work as _;
use crate::lock::text::escape::shown_path;
use crate::lock::{Lock, Owner, OwnerId};
use crate::service::process::Inspection;
use crate::service::report::user_names::recent_name;
use crate::service::state::{SharedState, State};

/// Writes holder records.
#[derive(Debug)]
pub(in crate::service) struct HolderRecords {
    state: SharedState,
    inspection: Arc<Inspection>,
}

impl HolderRecords {
    pub(in crate::service) fn new(state: &SharedState, inspection: &Arc<Inspection>) -> Self {
        Self { state: state.clone(), inspection: Arc::clone(inspection) }
    }

    /// Returns a function that makes the holder records of locks that an owner acquires now, from a
    /// lock and whether other hosts may access its lock file. The name of the owner's user is looked
    /// up if a record needs it, once for all locks; so call it on a worker thread.
    pub(in crate::service) fn record_maker(
        &self,
        id: OwnerId,
    ) -> impl Fn(&Lock, bool) -> HolderRecord {
        let of_owner = of_owner(&self.state.lock(), id, 0);
        let user = OnceCell::new();
        move |Lock { id: lock, since, want, .. }, may_be_shared| {
            let (lock, since) = (*lock, *since);
            let in_lockspace = want.lockspace.has_files();
            let mut record = HolderRecord { may_be_shared, lock, since, ..of_owner.clone() };
            if record.is_written(in_lockspace) {
                record.user.clone_from(user.get_or_init(|| self.user_of(&of_owner, id)));
            }
            record
        }
    }

    /// Logs lockspaces and disks in which holder records cannot be written.
    pub(in crate::service) fn log_unwritten(held: &[Arc<LockHandle>]) {
        for UnwrittenRecord { directory, cause } in held.iter().filter_map(|held| held.unrecorded())
        {
            let directory = shown_path(&directory);
            tracing::warn!(
                "cannot write holder records in {directory}: {cause}; other hosts will not see \
                 which VM holds a lock"
            );
        }
    }

    /// Rewrites the holder records of an owner's locks with the owner's current state. Call it on a
    /// worker thread.
    pub(in crate::service) fn rewrite(&self, id: OwnerId) {
        let held: Vec<(u64, u64, Arc<LockHandle>)> = {
            let state = self.state.lock();
            if state.settings.lockspaces.recording == Recording::Never {
                return;
            }
            let numbers = state.table.owner(id).map(|owner| owner.locks.clone());
            let locks = numbers.iter().flatten().filter_map(|number| state.table.lock(*number));
            let held = |number| state.held.get(&number).map(Arc::clone);
            locks.filter_map(|lock| Some((lock.id, lock.since, held(lock.id)?))).collect()
        };
        for (lock, since, held) in held {
            let record = of_owner(&self.state.lock(), id, since);
            let user = self.user_of(&record, id);
            RewriteRecord { held, record: HolderRecord { lock, user, ..record } }.perform();
        }
    }

    /// Returns the name of the user that runs an owner's process.
    fn user_of(&self, record: &HolderRecord, id: OwnerId) -> String {
        let users = self.inspection.users_of(self.state.requester(id), [(id, record.pid)]);
        recent_name(users.get(&record.pid).copied().unwrap_or(id.uid))
    }
}

/// Returns the holder record of an owner without the name of its user.
pub(in crate::service) fn of_owner(state: &State, id: OwnerId, since: u64) -> HolderRecord {
    let lockspaces = &state.settings.lockspaces;
    let owner = state.table.owner(id);
    HolderRecord {
        host: lockspaces.host.clone(),
        recording: lockspaces.recording,
        may_be_shared: false,
        lock: 0,
        name: owner.map(|owner| owner.name.clone()).unwrap_or_default(),
        why: owner.map(|owner| owner.why.clone()).unwrap_or_default(),
        uuid: id.uuid,
        pid: owner.map_or(0, Owner::pid),
        user: id.uid.to_string(),
        since,
    }
}
