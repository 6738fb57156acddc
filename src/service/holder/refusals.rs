//! Refusals: described for the caller and published for observers.

use std::sync::Arc;

use crate::inspector::Requester;
use crate::lock::model::lock::Proof;
use crate::lock::model::process_search::Processes;
use crate::lock::model::refusal::{Holder, Refusal};
use crate::lock::request::Work;
use crate::lock::table::queue::Ticket;
use crate::lock::{self, Event, Lock, OwnerId};
use crate::service::core::error::Error;
use crate::service::io::executor::Executor;
use crate::service::process::Inspection;
use crate::service::report::describe::{DescribeForeignHolder, DescribeRefusal, NAMED};
use crate::service::report::event_log;
use crate::service::report::metrics::Metrics;
use crate::service::state::SharedState;

/// Describes refusals for callers, and logs, counts and publishes them.
#[derive(Debug)]
pub(in crate::service) struct Refusals {
    pub(super) state: SharedState,
    executor: Arc<Executor>,
    pub(super) inspection: Arc<Inspection>,
    metrics: Arc<Metrics>,
}

impl Refusals {
    pub(in crate::service) fn new(
        state: &SharedState,
        executor: &Arc<Executor>,
        inspection: &Arc<Inspection>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let (executor, inspection) = (Arc::clone(executor), Arc::clone(inspection));
        Self { state: state.clone(), executor, inspection, metrics: Arc::clone(metrics) }
    }

    /// Describes the owners that hold these locks on a resource; `None` if there are none.
    pub(in crate::service) async fn describe_holders(
        self: &Arc<Self>,
        requester: Requester,
        resource: &str,
        locks: &[Lock],
    ) -> Option<String> {
        let (resource, holders) = (resource.to_owned(), self.state.lock().holders(locks));
        if holders.is_empty() {
            return None;
        }
        let refusal = Refusal { resource, holders, ahead: None, users: Processes::default() };
        let error = lock::Error::Held(Box::new(refusal)).into();
        let report = ReportRefusal { refusals: Arc::clone(self), requester, error };
        // Without the description the refusal has fewer details; the failure is logged where it
        // happens.
        self.executor.run(report).await.ok().map(|error| error.to_string())
    }

    /// Describes a refusal and publishes it to the observers of the resource. Looks up users: call
    /// it on a worker thread.
    pub(in crate::service) fn describe(&self, id: OwnerId, mut error: Error) -> Error {
        self.name_holder(id, &mut error);
        self.log_refusal(id, &event_log::elsewhere(&error), self.publish_contention(id, error))
    }

    /// Describes why a request waits. A foreign holder is entered in the table as well.
    pub(in crate::service) fn describe_wait(
        &self,
        id: OwnerId,
        ticket: Ticket,
        because: lock::Error,
    ) {
        let mut because = because.into();
        self.name_holder(id, &mut because);
        if let Error::Lock(lock::Error::HeldElsewhere(foreign)) = &because {
            self.state.lock().table.name_foreign_holder(ticket, foreign);
        }
        self.log_wait(id, &event_log::elsewhere(&because), &self.publish_contention(id, because));
    }

    fn publish_contention(&self, id: OwnerId, error: Error) -> Error {
        let own = own_lock(id, &error).and_then(|number| self.state.held_lock(number));
        if let Error::Lock(lock::Error::Held(refusal)) = &error {
            let event = Event::LockContended {
                resource: refusal.resource.clone(),
                holders: refusal.holders.iter().map(|holder| holder.owner).collect(),
                owner: id,
            };
            // For other observers; the refused caller has the error itself.
            drop(self.state.lock().events.publish(vec![event]));
        }
        match (self.describe_refusal(self.state.requester(id), error), own) {
            (Error::Held { message, refusal }, Some(lock)) => {
                Error::Held { message: message + &advice_on_own(&lock), refusal }
            }
            (error, _) => error,
        }
    }

    /// Describes a refusal. Looks up users: call it on a worker thread.
    pub(in crate::service) fn describe_refusal(&self, requester: Requester, error: Error) -> Error {
        match error {
            Error::Lock(lock::Error::Held(refusal)) => {
                let holders = refusal.holders.iter().take(NAMED);
                let users = self
                    .inspection
                    .users_of(requester, holders.map(|holder| (holder.owner, holder.pid)));
                let message = DescribeRefusal { refusal: (*refusal).clone(), users }.perform();
                Error::Held { message, refusal }
            }
            Error::Lock(lock::Error::HeldElsewhere(foreign)) => {
                let message = DescribeForeignHolder((*foreign).clone()).perform();
                Error::HeldElsewhere { message, foreign }
            }
            error => error,
        }
    }

    /// Logs and counts a refusal because of another holder; returns the error.
    fn log_refusal(&self, id: OwnerId, elsewhere: &str, error: Error) -> Error {
        let name = || self.state.lock().name_of(id);
        match &error {
            Error::Held { message, refusal } => {
                event_log::refused(id, &name(), refusal, message);
            }
            Error::HeldElsewhere { message, .. } => {
                event_log::refused_elsewhere(id, &name(), elsewhere, message);
            }
            _ => return error,
        }
        self.metrics.refused();
        error
    }

    /// Logs that a request waits for another holder.
    fn log_wait(&self, id: OwnerId, elsewhere: &str, error: &Error) {
        let name = || self.state.lock().name_of(id);
        match error {
            Error::Held { message, refusal } => {
                event_log::waiting(id, &name(), refusal, message);
            }
            Error::HeldElsewhere { message, .. } => {
                event_log::waiting_elsewhere(id, &name(), elsewhere, message);
            }
            _ => {}
        }
    }
}

/// Returns the lock of the refused owner itself that conflicts with its request. Over libvirt's
/// protocol every request conflicts with the owner's own locks too, since a guest that lists one
/// disk twice must not start.
fn own_lock(id: OwnerId, error: &Error) -> Option<u64> {
    let Error::Lock(lock::Error::Held(refusal)) = error else { return None };
    let own = |holder: &&Holder| holder.owner == id && holder.reserved_until.is_none();
    refusal.holders.iter().find(own).map(|holder| holder.lock)
}

/// Returns advice on an owner's own lock. libvirt 9 to 12 does not release the lock of a base image
/// after `snapshot-delete` and after `blockcommit` of an inactive image.
fn advice_on_own(lock: &Lock) -> String {
    let number = lock.id;
    let lost = match lock.proof {
        Proof::Lost => ", although this lock is lost",
        Proof::Verified | Proof::Unverified => "",
    };
    format!(
        "; this VM itself holds it (lock {number}{lost}), and libvirt may have left the lock behind: \
         once the VM does not write there, 'vmlockctl release --force {number}' frees it"
    )
}

/// Describes a refusal on a worker thread.
#[derive(Debug)]
pub(in crate::service) struct ReportRefusal {
    pub(in crate::service) refusals: Arc<Refusals>,
    pub(in crate::service) requester: Requester,
    pub(in crate::service) error: Error,
}

impl Work for ReportRefusal {
    type Answer = Error;

    fn perform(self) -> Error {
        self.refusals.describe_refusal(self.requester, self.error)
    }
}
