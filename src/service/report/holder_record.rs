//! Holder records beside locks, which name the holder to other hosts.

use std::cell::OnceCell;
use std::sync::Arc;

use crate::lock::acquire::handle::{LockHandle, RewriteRecord};
use crate::lock::holder_record::record::{HolderRecord, UnwrittenRecord};
use crate::lock::model::host::{Host, system_name};
use crate::lock::model::recording::Recording;
use crate::lock::request::Work as _;
use crate::lock::text::escape::shown_path;
use crate::lock::{Lock, Owner, OwnerId};
use crate::service::Service;
use crate::service::core::state::State;
use crate::service::report::user_names::recent_name;

impl Service {
    /// Returns this host as holder records name it; `None` if nothing distinguishes it from other
    /// hosts.
    #[must_use]
    pub fn host(&self) -> Option<Arc<Host>> {
        self.state().settings.lockspaces.host.clone()
    }

    /// Returns the name of this host.
    #[must_use]
    pub fn host_name(&self) -> String {
        self.host().map_or_else(system_name, |host| host.name())
    }

    /// Returns a function that makes the holder records of locks that an owner acquires now. The
    /// name of the owner's user is looked up if a record needs it, once for all locks; so call it
    /// on a worker thread.
    pub(in crate::service) fn signer(&self, id: OwnerId) -> impl Fn(&Lock) -> HolderRecord {
        let of_owner = of_owner(&self.state(), id, 0);
        let user = OnceCell::new();
        move |Lock { id: lock, since, want, .. }| {
            let (lock, since) = (*lock, *since);
            let in_lockspace = want.lockspace.has_files();
            let is_remote = !in_lockspace && self.storage().may_be_shared(&want.asks());
            let mut signature = HolderRecord { is_remote, lock, since, ..of_owner.clone() };
            if signature.is_written(in_lockspace) {
                signature.user.clone_from(user.get_or_init(|| self.runs(&of_owner, id)));
            }
            signature
        }
    }

    /// Logs lockspaces and disks in which holder records cannot be written.
    pub(in crate::service) fn log_unwritten_records(held: &[Arc<LockHandle>]) {
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
    pub(in crate::service) fn sign_anew(&self, id: OwnerId) {
        let held: Vec<(u64, u64, Arc<LockHandle>)> = {
            let state = self.state();
            if state.settings.lockspaces.recording == Recording::Never {
                return;
            }
            let numbers = state.table.owner(id).map(|owner| owner.locks.clone());
            let locks = numbers.iter().flatten().filter_map(|number| state.table.lock(*number));
            let held = |number| state.held.get(&number).map(Arc::clone);
            locks.filter_map(|lock| Some((lock.id, lock.since, held(lock.id)?))).collect()
        };
        for (lock, since, held) in held {
            let signature = of_owner(&self.state(), id, since);
            let user = self.runs(&signature, id);
            RewriteRecord { held, record: HolderRecord { lock, user, ..signature } }.perform();
        }
    }

    /// Returns the name of the user that runs an owner's process.
    fn runs(&self, signature: &HolderRecord, id: OwnerId) -> String {
        let users = self.users_of(self.requester(id), [(id, signature.pid)]);
        recent_name(users.get(&signature.pid).copied().unwrap_or(id.uid))
    }
}

/// Returns the holder record of an owner without the name of its user.
pub(in crate::service) fn of_owner(state: &State, id: OwnerId, since: u64) -> HolderRecord {
    let lockspaces = &state.settings.lockspaces;
    let owner = state.table.owner(id);
    HolderRecord {
        host: lockspaces.host.clone(),
        recording: lockspaces.recording,
        is_remote: false,
        lock: 0,
        name: owner.map(|owner| owner.name.clone()).unwrap_or_default(),
        why: owner.map(|owner| owner.why.clone()).unwrap_or_default(),
        uuid: id.uuid,
        pid: owner.map_or(0, Owner::pid),
        user: id.uid.to_string(),
        since,
    }
}
