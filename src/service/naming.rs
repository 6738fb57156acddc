//! Names the processes that hold or use what a caller asks for, as far as the inspector finds them in
//! time.

use std::sync::Arc;
use std::time::Duration;

use super::{Error, Service};
use crate::inspector::{Asker, patience};
use crate::lock::fdinfo::{Found, Processes, Search};
use crate::lock::holder::Stranger;
use crate::lock::process::Process;
use crate::lock::take::Goal;
use crate::lock::work::Work;
use crate::lock::{self, Front, OwnerId, Want};

impl Service {
    /// The one on whose behalf an owner's questions are asked.
    fn asker(&self, id: OwnerId) -> Asker {
        let front = self.state().table.owner(id).map(|owner| owner.front);
        if front == Some(Front::Virtlockd) { Asker::Front } else { Asker::User(id.uid) }
    }

    /// Names the processes of a foreign holder that an owner has met. For a storage thread.
    pub(super) fn name_holder(&self, id: OwnerId, error: &mut Error) {
        if let Error::Lock(error) = error {
            self.name_holder_for(self.asker(id), error);
        }
    }

    /// Names the processes of a foreign holder. For a storage thread.
    pub(super) fn name_holder_for(&self, asker: Asker, error: &mut lock::Error) {
        if let lock::Error::HeldElsewhere(stranger) = error
            && let Some(search) = stranger.search().cloned()
        {
            stranger.name(self.search(asker, search, patience::refusal()));
        }
    }

    /// Adds the processes that have the disk open to a refusal of the table's, which knows nothing of
    /// them: only if they are found at once. For a storage thread.
    pub(super) fn with_users(
        &self,
        id: OwnerId,
        mut error: lock::Error,
        wants: &[Want],
        goals: &[Arc<Goal>],
    ) -> lock::Error {
        if let lock::Error::Held(refusal) = &mut error {
            let refused = wants.iter().position(|want| want.resource == refusal.resource);
            let goal = refused.and_then(|n| goals.get(n));
            if let Some(search) = goal.and_then(|goal| goal.search_users()) {
                let found = self.search(self.asker(id), search, patience::remark());
                refusal.users = found.unwrap_or_default().users;
                refusal
                    .users
                    .leave_out(|user| refusal.holders.iter().any(|holder| holder.pid == user.pid));
            }
        }
        error
    }

    fn search(&self, asker: Asker, search: Search, patience: Duration) -> Option<Found> {
        let found = self.inspector().search(asker, search, patience);
        found.inspect_err(|error| tracing::debug!(%error, "processes are not named")).ok()
    }
}

/// Names the processes that have to do with a disk, for a caller that asks for just that.
#[derive(Debug)]
pub struct NameProcesses {
    /// The service.
    pub service: Service,
    /// On whose behalf.
    pub asker: Asker,
    /// The foreign holder.
    pub stranger: Option<Stranger>,
    /// What to look for in order to find the users.
    pub users: Option<Search>,
    /// The processes of owners.
    pub bound: Vec<u32>,
}

/// What was found.
#[derive(Debug)]
pub struct Named {
    /// The foreign holder, with its processes.
    pub stranger: Option<Stranger>,
    /// The users of the disk.
    pub users: Processes,
    /// The processes of owners, in the order of the question.
    pub bound: Vec<Option<Process>>,
}

impl Work for NameProcesses {
    type Answer = Named;

    fn perform(self) -> Named {
        let Self { service, asker, mut stranger, users, bound } = self;
        let patience = patience::question();
        let mut search = users.clone().unwrap_or_default();
        if let Some(wanted) = stranger.as_ref().and_then(Stranger::search) {
            let disk = wanted.disk.clone().or(search.disk);
            search = Search { disk, ..wanted.clone() };
        }
        let found = if search.is_empty() {
            Some(Found::default())
        } else {
            service.search(asker, search, patience)
        };
        if let Some(stranger) = &mut stranger {
            stranger.name(found.clone());
        }
        let users = found.filter(|_| users.is_some()).unwrap_or_default().users;
        let described = service.inspector().describe(asker, bound, patience);
        let bound =
            described.inspect_err(|error| tracing::debug!(%error, "processes are not named"));
        Named { stranger, users, bound: bound.unwrap_or_default() }
    }
}
