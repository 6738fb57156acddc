//! The on-lost action on the processes of an owner that has lost a lock: from then on another VM
//! may write to the same disk, and only the end of one of the two keeps that disk intact.
//!
//! The action is chosen when the owner is opened ([`OnLost`]). It affects only processes that the
//! owner's user may signal: its own, and processes of other users that it was permitted to bind. A
//! process may have changed its user since, by running a set-user-id program; so this is checked
//! again.

use std::sync::Arc;

use rustix::process::Signal;

use crate::inspector::Requester;
use crate::life::{self, Process};
use crate::lock::OwnerId;
use crate::lock::model::loss_action::OnLost;
use crate::service::core::error::Error;
use crate::service::persist::anchor_handle::AnchorHandle;
use crate::service::report::event_log::Vm;
use crate::service::verify::Verifier;

impl Verifier {
    /// Performs the on-lost action of an owner. Call it on a worker thread.
    pub(super) fn apply_loss_action(&self, id: OwnerId) {
        let (name, on_lost, processes) = {
            let state = self.state.lock();
            let Some(owner) = state.table.owner(id) else { return };
            let watches = state
                .owners
                .get(&id)
                .into_iter()
                .flat_map(|owner_state| owner_state.watches.values());
            let process = |handle: &AnchorHandle| match handle {
                AnchorHandle::Process(process) => Some(Arc::clone(process)),
                AnchorHandle::Lifeline(_) | AnchorHandle::Connection(_) => None,
            };
            let processes: Vec<_> = watches.filter_map(|watch| process(&watch.handle)).collect();
            (owner.name.clone(), owner.on_lost, processes)
        };
        let (signal, done) = match on_lost {
            OnLost::Notify => return,
            OnLost::Pause => (Signal::STOP, "paused"),
            OnLost::Kill => (Signal::KILL, "killed"),
        };
        let log = |process: Option<&Process>, outcome: &str| {
            tracing::error!(
                owner.uuid = %id.uuid,
                owner.name = name.as_str(),
                owner.uid = id.uid,
                pid = process.map(Process::pid),
                "{} has lost a lock: {outcome}",
                Vm(id, &name)
            );
        };
        if processes.is_empty() {
            log(None, &format!("not {done}, because its owner is not bound to a process"));
        }
        for process in &processes {
            match self.apply(process, signal, id.uid) {
                Ok(true) => log(Some(process), &format!("{done} process {}", process.pid())),
                Ok(false) => {
                    let pid = process.pid();
                    log(
                        Some(process),
                        &format!(
                            "process {pid} not {done}, because it does not belong to uid {}",
                            id.uid
                        ),
                    );
                }
                Err(Error::Life(life::Error::NoSuchProcess(_))) => {}
                Err(error) => {
                    let pid = process.pid();
                    log(Some(process), &format!("process {pid} not {done}: {error}"));
                }
            }
        }
    }

    /// Applies the action to a process. Returns `false` if the process belongs to another user.
    fn apply(&self, process: &Process, signal: Signal, uid: u32) -> Result<bool, Error> {
        let belongs = || {
            Ok::<_, Error>(self.inspection.identity(Requester::Service, process)?.belongs_to(uid))
        };
        // Root may signal all processes.
        let may = uid == 0 || process.is_permitted() || belongs()?;
        if may {
            process.send_signal(signal)?;
        }
        Ok(may)
    }
}
