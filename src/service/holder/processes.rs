//! Names the processes that hold or use a requested disk, if the inspector finds them in time.

use std::sync::Arc;

use crate::inspector::timeouts;
use crate::lock::acquire::goal::Goal;
use crate::lock::model::refusal::Refusal;
use crate::lock::{self, OwnerId, Want};
use crate::service::core::error::Error;
use crate::service::holder::refusals::Refusals;
use crate::service::process::search::is_known;

impl Refusals {
    /// Names the processes of a foreign holder that refused an owner. Call it on a worker thread.
    pub(in crate::service) fn name_holder(&self, id: OwnerId, error: &mut Error) {
        if let Error::Lock(error) = error {
            self.inspection.name_holder(self.state.requester(id), error);
            if let lock::Error::HeldElsewhere(foreign) = error {
                let own = self.state.lock().own_processes(id);
                foreign.users.leave_out(|user| own.has(user));
            }
        }
    }

    /// Adds processes to a refusal by the table: those that have the disk open, and those that hold
    /// a lifeline of a holder without a process, if they are found in time. Call it on a worker
    /// thread.
    pub(in crate::service) fn with_processes(
        &self,
        id: OwnerId,
        mut error: lock::Error,
        wants: &[Want],
        goals: &[Arc<Goal>],
    ) -> lock::Error {
        if let lock::Error::Held(refusal) = &mut error {
            let refused = wants.iter().position(|want| want.resource == refusal.resource);
            let goal = refused.and_then(|n| goals.get(n));
            let lifelines =
                self.state.lock().lifelines_of(&refusal.holders, |holder| holder.pid == 0);
            let mut search = goal.and_then(|goal| goal.search_users()).unwrap_or_default();
            search.lifelines = lifelines.inodes();
            if search.is_empty() {
                return error;
            }
            // The holder of a disk is worth more time than further processes that have it open.
            let patience =
                if search.lifelines.is_empty() { timeouts::remark() } else { timeouts::refusal() };
            let found = self
                .inspection
                .search(self.state.requester(id), search, patience)
                .unwrap_or_default();
            lifelines.add_to(found.lifelines, &mut refusal.holders);
            refusal.users = found.users;
            let own = self.state.lock().own_processes(id);
            let Refusal { users, holders, .. } = &mut **refusal;
            users.leave_out(|user| own.has(user) || is_known(user, holders));
        }
        error
    }
}
