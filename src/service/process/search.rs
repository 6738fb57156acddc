//! Searches for the processes that hold or use a disk, if the inspector finds them in time.

use std::sync::Arc;
use std::time::Duration;

use crate::inspector::{Requester, timeouts};
use crate::lock;
use crate::lock::model::process::Process;
use crate::lock::model::process_search::{Found, Processes, Search};
use crate::lock::model::refusal::{ForeignHolder, Holder};
use crate::lock::request::Work;
use crate::service::core::error::Error;
use crate::service::process::Inspection;

impl Inspection {
    /// Searches for processes; returns `None` if they are not found in time. Call it on a worker
    /// thread.
    pub(in crate::service) fn search(
        &self,
        requester: Requester,
        search: Search,
        patience: Duration,
    ) -> Option<Found> {
        let found = self.inspector.search(requester, search, patience);
        found.inspect_err(|error| tracing::debug!(%error, "cannot identify the processes that have a disk open")).ok()
    }

    /// Names the processes of a foreign holder. Call it on a worker thread.
    pub(in crate::service) fn name_holder(&self, requester: Requester, error: &mut lock::Error) {
        if let lock::Error::HeldElsewhere(foreign) = error
            && let Some(search) = foreign.search().cloned()
        {
            foreign.name(self.search(requester, search, timeouts::refusal()));
        }
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
    /// The queries to an inspector.
    pub inspection: Arc<Inspection>,
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
    /// Queries an inspector once the requester has a permit. If it gets none in time, no process is
    /// named.
    ///
    /// # Errors
    ///
    /// [`Error::Abandoned`].
    pub async fn run(self) -> Result<Named, Error> {
        let inspection = Arc::clone(&self.inspection);
        match inspection.inspector_permit(self.requester, timeouts::query()).await {
            Ok(permit) => inspection.run_with_permit(permit, self).await,
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
        let Self { inspection, requester, mut foreign, users, bound, lifelines } = self;
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
            inspection.search(requester, search, patience)
        };
        if let Some(foreign) = &mut foreign {
            foreign.name(found.clone());
        }
        let Found { users: seen, lifelines, .. } = found.unwrap_or_default();
        let users = users.map(|_| seen).unwrap_or_default();
        let described = inspection.inspector().describe(requester, bound, patience);
        let bound = described.inspect_err(
            |error| tracing::debug!(%error, "cannot identify the processes that have a disk open"),
        );
        Named { foreign, users, bound: bound.unwrap_or_default(), lifelines }
    }
}
