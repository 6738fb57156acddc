//! Reports about holders, names, lockspaces and the service itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::inspector::Requester;
use crate::lock::lockspace::{Lockspace, LockspaceKind};
use crate::lock::model::host::{Host, system_name};
use crate::lock::model::refusal::Holder;
use crate::lock::selftest::SelfTestReport;
use crate::lock::{Lock, Proof};
use crate::service::facade::Service;
use crate::service::holder::lifelines::Lifelines;
use crate::service::report::metrics::{Gauges, MetricsSnapshot};
use crate::service::verify::name_states::{NameAnswer, NameQuestion, answer};

impl Service {
    /// Returns this host as holder records name it; `None` if nothing distinguishes it from other
    /// hosts.
    #[must_use]
    pub fn host(&self) -> Option<Arc<Host>> {
        self.0.state().host()
    }

    /// Returns the name of this host.
    #[must_use]
    pub fn host_name(&self) -> String {
        self.host().map_or_else(system_name, |host| host.name())
    }

    /// Describes the owners that hold these locks on a resource; `None` if there are none.
    pub async fn describe_holders(
        &self,
        requester: Requester,
        resource: &str,
        locks: &[Lock],
    ) -> Option<String> {
        self.0.refusals.describe_holders(requester, resource, locks).await
    }

    /// Returns the lifelines of the holders that `wanted` selects.
    #[must_use]
    pub fn lifelines_of(&self, holders: &[Holder], wanted: impl Fn(&Holder) -> bool) -> Lifelines {
        self.0.state().lifelines_of(holders, wanted)
    }

    /// Looks up where the names of locks lead.
    pub async fn name_states(&self, question: NameQuestion) -> NameAnswer {
        answer(&self.0.name_checks, &self.0.executor, question).await
    }

    /// Renews the stacks of locked disks in the table. Free of cost if no locked disk can lie on
    /// something else than before. Call it on a worker thread.
    pub fn renew_stacks(&self) {
        self.0.stacks.renew();
    }

    /// Renews the stacks for a query, which must not wait for hung storage: a stack that is not
    /// renewed in time stays as it was.
    pub async fn renew_stacks_for_query(&self) {
        self.0.stacks.renew_for_query().await;
    }

    /// Returns the lockspace of a directory, if there is one.
    #[must_use]
    pub fn lockspace(&self, directory: &Path) -> Option<Lockspace> {
        self.0.state().lockspace(directory)
    }

    /// Returns the directory of a lockspace; `None` if it does not exist or is no longer
    /// configured.
    #[must_use]
    pub fn directory_of(&self, kind: LockspaceKind) -> Option<PathBuf> {
        self.0.state().directory_of(kind)
    }

    /// Returns all lockspaces except the direct one, with their directories; a lockspace that is no
    /// longer configured but has locks has none.
    #[must_use]
    pub fn list_lockspaces(&self) -> Vec<(LockspaceKind, Option<PathBuf>)> {
        self.0.state().list_lockspaces()
    }

    /// Returns the last result of the self-test of a lockspace; `None` if it has no directory or
    /// was not tested yet.
    #[must_use]
    pub fn self_test_report(&self, kind: LockspaceKind) -> Option<Arc<SelfTestReport>> {
        self.0.lockspace_checks.last_result(kind)
    }

    /// Returns a snapshot of all metrics.
    #[must_use]
    pub fn metrics_snapshot(&self) -> MetricsSnapshot {
        let (owners, locks, lost, waiting) = {
            let state = self.0.state();
            let table = &state.table;
            let lost = table.locks().filter(|lock| lock.proof == Proof::Lost).count();
            (table.owners().count(), table.locks().count(), lost, table.waiters().count())
        };
        let executor = &self.0.executor;
        let gauges = Gauges {
            owners,
            locks,
            lost,
            waiting,
            mounts_unresponsive: executor.unresponsive().len(),
            requests_hung: executor.hung_count(),
            requests_refused_hung: executor.refused(),
        };
        self.0.metrics.snapshot(&gauges)
    }
}
