//! The state and the components, which the operations on locks and owners use.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::inspector::Inspector;
use crate::service::core::limits::Exempt;
use crate::service::core::suspect::SuspectsGate;
use crate::service::holder::records::HolderRecords;
use crate::service::holder::refusals::Refusals;
use crate::service::io::executor::Executor;
use crate::service::lockspace::check::LockspaceChecks;
use crate::service::lockspace::lockspaces::Lockspaces;
use crate::service::persist::journal::Journal;
use crate::service::process::Inspection;
use crate::service::report::metrics::Metrics;
use crate::service::state::{SharedState, State, StateGuard};
use crate::service::verify::Verifier;
use crate::service::verify::name_states::NameChecks;
use crate::service::verify::renewal::Stacks;
use crate::sync::Counter;

/// The state and the components. It has no operations of its own.
#[derive(Debug)]
pub(in crate::service) struct Components {
    pub(in crate::service) state: SharedState,
    /// The users that have no quota.
    pub(in crate::service) exempt: Exempt,
    pub(in crate::service) executor: Arc<Executor>,
    pub(in crate::service) journal: Arc<Journal>,
    pub(in crate::service) metrics: Arc<Metrics>,
    pub(in crate::service) inspection: Arc<Inspection>,
    pub(in crate::service) refusals: Arc<Refusals>,
    pub(in crate::service) records: Arc<HolderRecords>,
    pub(in crate::service) verifier: Arc<Verifier>,
    pub(in crate::service) stacks: Arc<Stacks>,
    pub(in crate::service) name_checks: Arc<NameChecks>,
    pub(in crate::service) lockspace_checks: Arc<LockspaceChecks>,
    pub(in crate::service) lockspaces: Arc<Lockspaces>,
    /// The number of batches of events that are not published yet.
    pub(in crate::service) backlog: Counter,
    /// Notified when an owner may have been removed.
    pub(in crate::service) owner_removed: Notify,
    /// Notified when a released resource is reserved for its former owner.
    pub(in crate::service) reservation_added: Notify,
    /// Closed while the targets of damaged records are locked again.
    pub(in crate::service) suspects_gate: SuspectsGate,
}

impl Components {
    pub(in crate::service) fn new(
        state: State,
        exempt: Exempt,
        journal: Journal,
        executor: Executor,
        inspector: Inspector,
    ) -> Self {
        let backlog = state.events.backlog();
        let (state, executor) = (SharedState::new(state), Arc::new(executor));
        let (journal, metrics) = (Arc::new(journal), Arc::new(Metrics::default()));
        let inspection = Arc::new(Inspection::new(inspector, &executor));
        let refusals = Arc::new(Refusals::new(&state, &executor, &inspection, &metrics));
        let records = Arc::new(HolderRecords::new(&state, &inspection));
        let verifier = Verifier::new(&state, &journal, &executor, &inspection, &records, &metrics);
        let lockspace_checks = Arc::new(LockspaceChecks::new(&state, &executor));
        let lockspaces = Lockspaces {
            state: state.clone(),
            journal: Arc::clone(&journal),
            executor: Arc::clone(&executor),
            inspection: Arc::clone(&inspection),
            refusals: Arc::clone(&refusals),
            checks: Arc::clone(&lockspace_checks),
        };
        Self {
            stacks: Arc::new(Stacks::new(&state, &executor)),
            name_checks: Arc::default(),
            verifier: Arc::new(verifier),
            lockspaces: Arc::new(lockspaces),
            owner_removed: Notify::new(),
            reservation_added: Notify::new(),
            suspects_gate: SuspectsGate::default(),
            backlog,
            state,
            exempt,
            executor,
            journal,
            metrics,
            inspection,
            refusals,
            records,
            lockspace_checks,
        }
    }

    /// Locks the state for a decision.
    pub(in crate::service) fn state(&self) -> StateGuard<'_> {
        self.state.lock()
    }
}
