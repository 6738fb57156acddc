//! Names the processes that hold or use a requested disk, if the inspector finds them in time.

use std::sync::Arc;
use std::time::Duration;

use crate::inspector::{Requester, timeouts};
use crate::lock::acquire::Goal;
use crate::lock::model::process::Process;
use crate::lock::model::process_search::{Found, Processes, Search};
use crate::lock::model::refusal::{ForeignHolder, Holder, Refusal};
use crate::lock::request::Work;
use crate::lock::{self, Front, OwnerId, Want};
use crate::service::{Error, Service};

impl Service {
    /// Returns the requester on whose behalf an owner's questions are put to an inspector.
    pub(in crate::service) fn requester(&self, id: OwnerId) -> Requester {
        let front = self.state().table.owner(id).map(|owner| owner.front);
        if front == Some(Front::Virtlockd) { Requester::Libvirt } else { Requester::User(id.uid) }
    }

    /// Names the processes of a foreign holder that refused an owner. Call it on a worker thread.
    pub(in crate::service) fn name_holder(&self, id: OwnerId, error: &mut Error) {
        if let Error::Lock(error) = error {
            self.name_holder_for(self.requester(id), error);
            if let lock::Error::HeldElsewhere(foreign) = error {
                let own = self.own_processes(id);
                foreign.users.leave_out(|user| own.has(user));
            }
        }
    }

    /// Names the processes of a foreign holder. Call it on a worker thread.
    pub(in crate::service) fn name_holder_for(
        &self,
        requester: Requester,
        error: &mut lock::Error,
    ) {
        if let lock::Error::HeldElsewhere(foreign) = error
            && let Some(search) = foreign.search().cloned()
        {
            foreign.name(self.search(requester, search, timeouts::refusal()));
        }
    }

    /// Adds processes to a refusal by the table: those that have the disk open, and those that hold
    /// a lifeline of a holder without a process, if they are found in time. Call it on a worker
    /// thread.
    pub(in crate::service) fn with_users(
        &self,
        id: OwnerId,
        mut error: lock::Error,
        wants: &[Want],
        goals: &[Arc<Goal>],
    ) -> lock::Error {
        if let lock::Error::Held(refusal) = &mut error {
            let refused = wants.iter().position(|want| want.resource == refusal.resource);
            let goal = refused.and_then(|n| goals.get(n));
            let lifelines = self.lifelines_of(&refusal.holders, |holder| holder.pid == 0);
            let mut search = goal.and_then(|goal| goal.search_users()).unwrap_or_default();
            search.lifelines = lifelines.inodes();
            if search.is_empty() {
                return error;
            }
            // The holder of a disk is worth more time than further processes that have it open.
            let patience =
                if search.lifelines.is_empty() { timeouts::remark() } else { timeouts::refusal() };
            let found = self.search(self.requester(id), search, patience).unwrap_or_default();
            lifelines.add_to(found.lifelines, &mut refusal.holders);
            refusal.users = found.users;
            let own = self.own_processes(id);
            let Refusal { users, holders, .. } = &mut **refusal;
            users.leave_out(|user| own.has(user) || is_known(user, holders));
        }
        error
    }

    fn search(&self, requester: Requester, search: Search, patience: Duration) -> Option<Found> {
        let found = self.inspector().search(requester, search, patience);
        found.inspect_err(|error| tracing::debug!(%error, "cannot identify the processes that have a disk open")).ok()
    }
}

/// Whether a process is the process of one of these holders, or keeps one of them alive.
#[must_use]
pub fn is_known(process: &Process, holders: &[Holder]) -> bool {
    holders.iter().any(|holder| holder.pid == process.pid || holder.kept_by.has(process.pid))
}

/// Names the processes that are related to a disk, for a caller that queries just this.
#[derive(Debug)]
pub struct NameProcesses {
    /// The service.
    pub service: Service,
    /// The requester.
    pub requester: Requester,
    /// The foreign holder.
    pub foreign: Option<ForeignHolder>,
    /// The search for the users of the disk.
    pub users: Option<Search>,
    /// The processes of owners.
    pub bound: Vec<u32>,
    /// Lifelines of owners, by the inodes of their pipes.
    pub lifelines: Vec<u64>,
}

/// The processes that were found.
#[derive(Debug)]
pub struct Named {
    /// The foreign holder, with its processes.
    pub foreign: Option<ForeignHolder>,
    /// The users of the disk.
    pub users: Processes,
    /// The processes of owners, in the order of the question.
    pub bound: Vec<Option<Process>>,
    /// The processes that hold the lifelines, in the order of the question.
    pub lifelines: Vec<Processes>,
}

impl NameProcesses {
    /// Queries an inspector in the requester's turn. If the turn does not come in time, no process
    /// is named.
    ///
    /// # Errors
    ///
    /// [`Error::Abandoned`].
    pub async fn run(self) -> Result<Named, Error> {
        let service = self.service.clone();
        match service.inspector_turn(self.requester, timeouts::query()).await {
            Ok(turn) => service.run_in_turn(turn, self).await,
            Err(error) => {
                tracing::debug!(%error, "cannot identify the processes that have a disk open");
                Ok(self.unnamed())
            }
        }
    }

    /// Returns the answer without any process, for a query that no inspector answers.
    fn unnamed(self) -> Named {
        let mut foreign = self.foreign;
        if let Some(foreign) = &mut foreign {
            foreign.name(None);
        }
        let (users, bound, lifelines) = (Processes::default(), Vec::new(), Vec::new());
        Named { foreign, users, bound, lifelines }
    }
}

impl Work for NameProcesses {
    type Answer = Named;

    fn perform(self) -> Named {
        let Self { service, requester, mut foreign, users, bound, lifelines } = self;
        let patience = timeouts::query();
        let mut search = users.clone().unwrap_or_default();
        if let Some(wanted) = foreign.as_ref().and_then(ForeignHolder::search) {
            let disk = wanted.disk.clone().or(search.disk);
            search = Search { disk, ..wanted.clone() };
        }
        search.lifelines = lifelines;
        let found = if search.is_empty() {
            Some(Found::default())
        } else {
            service.search(requester, search, patience)
        };
        if let Some(foreign) = &mut foreign {
            foreign.name(found.clone());
        }
        let Found { users: seen, lifelines, .. } = found.unwrap_or_default();
        let users = users.map(|_| seen).unwrap_or_default();
        let described = service.inspector().describe(requester, bound, patience);
        let bound = described.inspect_err(
            |error| tracing::debug!(%error, "cannot identify the processes that have a disk open"),
        );
        Named { foreign, users, bound: bound.unwrap_or_default(), lifelines }
    }
}
