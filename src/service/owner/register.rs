//! Registration of running VMs, process by process, over libvirt's protocol.
//!
//! A VM registers with its UUID and its process. If an owner exists for both, the registration
//! returns it; otherwise an owner is opened. Owners of other processes of the same VM are separate:
//! if such a process has ended, its owner is ended first, whatever is left of it; if it is alive,
//! there are two owners, and the second one is refused the locks of the first.
//!
//! These functions block. Call them inside the event loop's context but outside its tasks: on a
//! worker thread, or on a frontend's own thread.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use uuid::Uuid;

use crate::inspector::Requester;
use crate::life::Process;
use crate::lock::model::loss_action::OnLost;
use crate::lock::model::owner::AnchorId;
use crate::lock::request::Work as _;
use crate::lock::{self, Anchor, Front, OwnerId, Reason};
use crate::service::components::Components;
use crate::service::core::error::Error;
use crate::service::lock::end;
use crate::service::owner::anchors::{AnchorEnd, Bind, NewAnchor};
use crate::service::owner::open::{self, Open, Opening};
use crate::service::persist::anchor_handle::AnchorHandle;
use crate::service::state::State;

/// How long to wait for a state that will change soon.
const PAUSE: Duration = Duration::from_millis(1);

/// A VM that registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its user.
    pub uid: u32,
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
}

/// A snapshot of an owner of a VM, taken when one of the VM's processes registers.
struct ExistingOwner {
    id: OwnerId,
    ended: bool,
    /// It has no anchor at this moment: it is being opened or about to end.
    has_no_anchor: bool,
    /// The processes that keep it alive.
    processes: Vec<(AnchorId, Arc<Process>)>,
    /// Whether a lifeline keeps it alive, or it stays until it is closed.
    has_other_anchor: bool,
}

/// Returns the owner of a VM's process; opens one if there is none.
pub(in crate::service) fn register(
    components: &Arc<Components>,
    machine: &Machine,
) -> Result<OwnerId, Error> {
    loop {
        if let Some(id) = find_or_open(components, machine)? {
            return Ok(id);
        }
    }
}

/// Returns the owner of a VM's process, if there is one.
pub(in crate::service) fn registered(
    components: &Arc<Components>,
    machine: &Machine,
) -> Option<OwnerId> {
    let existing = owners_of(components, machine);
    let bound = |existing: &&ExistingOwner| !existing.ended && existing.lives_as(machine.pid);
    existing.iter().find(bound).map(|existing| existing.id)
}

/// Finds or opens the owner once; `None` if the state has changed meanwhile and the caller must
/// retry.
fn find_or_open(components: &Arc<Components>, machine: &Machine) -> Result<Option<OwnerId>, Error> {
    let existing = owners_of(components, machine);
    let mut living = existing.iter().filter(|existing| !existing.ended);
    if let Some(existing) = living.clone().find(|existing| existing.lives_as(machine.pid)) {
        return Ok(Some(existing.id));
    }
    let process = components
        .inspection
        .with_start_time_of(Requester::Libvirt, Process::from_pid(machine.pid)?);
    if living.clone().any(|existing| existing.has_no_anchor) {
        std::thread::sleep(PAUSE);
        return Ok(None);
    }
    for existing in living.clone() {
        if existing.has_ended() {
            end_predecessor(components, existing);
            return Ok(None);
        }
    }
    // An owner without a process was opened by another frontend for the same VM, and this is
    // its process.
    if let Some(existing) = living.clone().find(|existing| existing.is_without_process()) {
        let bind = Bind {
            components: Arc::clone(components),
            id: existing.id,
            anchor: NewAnchor::Process(process),
        };
        return match bind.perform() {
            Ok(_) => Ok(Some(existing.id)),
            Err(Error::Lock(lock::Error::NoSuchOwner(_))) => Ok(None),
            Err(error) => Err(error),
        };
    }
    let first = OwnerId::new(machine.uid, machine.uuid);
    let taken = living.any(|existing| existing.id == first);
    let id = if taken { OwnerId { process: machine.pid, ..first } } else { first };
    Handle::current().block_on(open::wait_until_released(components, id));
    let (name, front) = (machine.name.clone(), Front::Virtlockd);
    let anchors = vec![NewAnchor::Process(process)];
    let (why, on_lost, requests) = (String::new(), OnLost::Notify, Vec::new());
    let opening = Opening { id, name, why, front, on_lost, anchors, requests };
    match Open::new(components, opening).attempt_here() {
        Ok(_) => Ok(Some(id)),
        Err(Error::Lock(lock::Error::OwnerExists(_) | lock::Error::NoSuchOwner(_))) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the owners of a VM.
fn owners_of(components: &Arc<Components>, machine: &Machine) -> Vec<ExistingOwner> {
    let state = components.state();
    let owners = state.table.owners_of(machine.uid);
    let owners = owners.filter(|owner| owner.id.uuid == machine.uuid);
    let existing = owners.map(|owner| {
        let watches =
            state.owners.get(&owner.id).into_iter().flat_map(|owner_state| &owner_state.watches);
        let processes = watches.filter_map(|(number, watch)| match &watch.handle {
            AnchorHandle::Process(process) => Some((*number, Arc::clone(process))),
            AnchorHandle::Lifeline(_) | AnchorHandle::Connection(_) => None,
        });
        let has_other_anchor =
            |anchor: &Anchor| matches!(anchor, Anchor::Lifeline | Anchor::Manual);
        ExistingOwner {
            id: owner.id,
            ended: owner.ended,
            has_no_anchor: owner.anchors.is_empty(),
            processes: processes.collect(),
            has_other_anchor: owner.anchors.values().any(has_other_anchor),
        }
    });
    existing.collect()
}

/// Ends an owner whose processes have all ended, before their ends are reported. A process that
/// the VM left running may still hold its connection; it is not the VM.
fn end_predecessor(components: &Arc<Components>, existing: &ExistingOwner) {
    if existing.has_other_anchor {
        for (number, _) in &existing.processes {
            AnchorEnd { components: Arc::clone(components), id: existing.id, number: *number }
                .perform();
        }
        return;
    }
    let check = |state: &State| {
        let owner = state.table.living(existing.id)?;
        let same = |(number, _): &(AnchorId, _)| owner.anchors.contains_key(number);
        let none_new = owner.anchors.iter().all(|(number, anchor)| {
            *anchor == Anchor::Connection
                || existing.processes.iter().any(|(existing, _)| existing == number)
        });
        let stands = none_new && existing.processes.iter().all(same);
        stands.then_some(()).ok_or(lock::Error::OwnerExists(existing.id).into())
    };
    if let Err(error) = end::end_here(components, existing.id, Reason::OwnerGone, check) {
        tracing::debug!(owner.uuid = %existing.id.uuid, %error, "not ending the earlier owner of a VM");
    }
}

impl ExistingOwner {
    /// Whether this live process keeps the owner alive.
    fn lives_as(&self, pid: u32) -> bool {
        self.processes
            .iter()
            .any(|(_, existing)| existing.pid() == pid && existing.check_alive().is_ok())
    }

    /// Whether all its processes have ended, including those whose end was handled already: a
    /// connection may be all that is left of the owner.
    fn has_ended(&self) -> bool {
        let ended = |(_, process): &(AnchorId, Arc<Process>)| process.check_alive().is_err();
        self.processes.iter().all(ended) && !self.is_without_process()
    }

    /// Whether the owner is kept alive, but never was by a process.
    fn is_without_process(&self) -> bool {
        self.has_other_anchor && self.processes.is_empty()
    }
}
