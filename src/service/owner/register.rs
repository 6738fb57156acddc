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
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use super::anchors::{AnchorEnd, Bind, ForgetAnchor};
use crate::inspector::Requester;
use crate::life::{Connection, Process};
use crate::lock::lockspace::LockspaceKind;
use crate::lock::model::loss_action::OnLost;
use crate::lock::model::owner::AnchorId;
use crate::lock::request::Work as _;
use crate::lock::table::Again;
use crate::lock::{self, Anchor, Event, Front, Lock, OwnerId, Reason};
use crate::service::core::state::{AnchorWatch, State};
use crate::service::lock::release::ReleaseSteps;
use crate::service::owner::open::Open;
use crate::service::persist::journal::Anchored;
use crate::service::{Error, LockRequest, NewAnchor, Opening, Publication, Service};

/// The backlog of events above which clients are throttled.
const BACKLOG: usize = 4096;
/// The maximum delay of a throttled client, in units of [`PAUSE`].
const PAUSES: u32 = 100;
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
    between: bool,
    /// The processes that keep it alive.
    processes: Vec<(AnchorId, Arc<Process>)>,
    /// Whether a lifeline keeps it alive, or it stays until it is closed.
    kept: bool,
}

impl Service {
    /// Returns the owner of a VM's process; opens one if there is none.
    ///
    /// # Errors
    ///
    /// [`crate::life::Error::NoSuchProcess`], and the errors of [`Self::open`].
    pub fn register(&self, machine: &Machine) -> Result<OwnerId, Error> {
        loop {
            if let Some(id) = self.find_or_open(machine)? {
                return Ok(id);
            }
        }
    }

    /// Returns the owner of a VM's process, if there is one.
    #[must_use]
    pub fn registered(&self, machine: &Machine) -> Option<OwnerId> {
        let known = self.owners_of(machine);
        let bound = |known: &&ExistingOwner| !known.ended && known.lives_as(machine.pid);
        known.iter().find(bound).map(|known| known.id)
    }

    /// Finds or opens the owner once; `None` if the state has changed meanwhile and the caller must
    /// retry.
    fn find_or_open(&self, machine: &Machine) -> Result<Option<OwnerId>, Error> {
        let known = self.owners_of(machine);
        let mut living = known.iter().filter(|known| !known.ended);
        if let Some(known) = living.clone().find(|known| known.lives_as(machine.pid)) {
            return Ok(Some(known.id));
        }
        let process = self.findable(Requester::Libvirt, Process::from_pid(machine.pid)?);
        if living.clone().any(|known| known.between) {
            std::thread::sleep(PAUSE);
            return Ok(None);
        }
        for known in living.clone() {
            if known.has_ended() {
                self.end_predecessor(known);
                return Ok(None);
            }
        }
        // An owner without a process was opened by another frontend for the same VM, and this is
        // its process.
        if let Some(known) = living.clone().find(|known| known.is_without_process()) {
            let bind =
                Bind { service: self.clone(), id: known.id, anchor: NewAnchor::Process(process) };
            return match bind.perform() {
                Ok(_) => Ok(Some(known.id)),
                Err(Error::Lock(lock::Error::NoSuchOwner(_))) => Ok(None),
                Err(error) => Err(error),
            };
        }
        let first = OwnerId::new(machine.uid, machine.uuid);
        let taken = living.any(|known| known.id == first);
        let id = if taken { OwnerId { process: machine.pid, ..first } } else { first };
        Handle::current().block_on(self.wait_until_released(id));
        let (name, front) = (machine.name.clone(), Front::Virtlockd);
        let anchors = vec![NewAnchor::Process(process)];
        let (why, on_lost, asks) = (String::new(), OnLost::Notify, Vec::new());
        let opening = Opening { id, name, why, front, on_lost, anchors, asks };
        match Open::new(self, opening).at_once() {
            Ok(_) => Ok(Some(id)),
            Err(Error::Lock(lock::Error::OwnerExists(_) | lock::Error::NoSuchOwner(_))) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the owners of a VM.
    fn owners_of(&self, machine: &Machine) -> Vec<ExistingOwner> {
        let state = self.state();
        let owners = state.table.owners_of(machine.uid);
        let owners = owners.filter(|owner| owner.id.uuid == machine.uuid);
        let known = owners.map(|owner| {
            let watches = state.kept.get(&owner.id).into_iter().flat_map(|kept| &kept.watches);
            let processes = watches.filter_map(|(number, watch)| match &watch.anchored {
                Anchored::Process(process) => Some((*number, Arc::clone(process))),
                Anchored::Lifeline(_) | Anchored::Connection(_) => None,
            });
            let kept = |anchor: &Anchor| matches!(anchor, Anchor::Lifeline | Anchor::Manual);
            ExistingOwner {
                id: owner.id,
                ended: owner.ended,
                between: owner.anchors.is_empty(),
                processes: processes.collect(),
                kept: owner.anchors.values().any(kept),
            }
        });
        known.collect()
    }

    /// Ends an owner whose processes have all ended, before their ends are reported. A process that
    /// the VM left running may still hold its connection; it is not the VM.
    fn end_predecessor(&self, known: &ExistingOwner) {
        if known.kept {
            for (number, _) in &known.processes {
                AnchorEnd { service: self.clone(), id: known.id, number: *number }.perform();
            }
            return;
        }
        let check = |state: &State| {
            let owner = state.table.living(known.id)?;
            let same = |(number, _): &(AnchorId, _)| owner.anchors.contains_key(number);
            let none_new = owner.anchors.iter().all(|(number, anchor)| {
                *anchor == Anchor::Connection
                    || known.processes.iter().any(|(known, _)| known == number)
            });
            let stands = none_new && known.processes.iter().all(same);
            stands.then_some(()).ok_or(lock::Error::OwnerExists(known.id).into())
        };
        if let Err(error) = self.end_here(known.id, Reason::OwnerGone, check) {
            tracing::debug!(owner.uuid = %known.id.uuid, %error, "not ending the earlier owner of a VM");
        }
    }

    /// Adds an owner's own connection as an anchor, for as long as the connection is open.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchOwner`].
    pub fn connect(&self, id: OwnerId, connection: &Arc<Connection>) -> Result<AnchorId, Error> {
        let anchored = Anchored::Connection(Arc::clone(connection));
        let number = self.watch(id, Anchor::Connection, Some(anchored))?;
        drop(self.state().publish(vec![Event::AnchorsChanged(id)]));
        Ok(number)
    }

    /// Stashes a connection on which no more messages are expected; call [`Self::answered`] once
    /// the peer has got its reply.
    ///
    /// # Errors
    ///
    /// [`Error::Keep`]: the connection then ends with this instance of the service.
    pub fn keep_connection(
        &self,
        id: OwnerId,
        number: AnchorId,
        connection: &Arc<Connection>,
    ) -> Result<(), Error> {
        let kept = self.keep().begin_connection(id, number, connection);
        if kept.is_err() {
            self.drop_connection(id, number);
        }
        kept
    }

    /// Marks a stashed connection as permanent: its peer waits for no reply, so it may outlive the
    /// service.
    ///
    /// # Errors
    ///
    /// [`Error::Keep`].
    pub fn answered(&self, number: AnchorId) -> Result<(), Error> {
        self.keep().commit_connection(number)
    }

    /// Removes a connection from the stash, since a message has arrived on it. It remains an
    /// anchor.
    pub fn drop_connection(&self, id: OwnerId, number: AnchorId) {
        ForgetAnchor { service: self.clone(), id, number }.perform();
    }

    /// Ends an owner without any client, if it holds no lock, no lock is reserved for it, and it
    /// has no connection of its own: its process may be no VM at all.
    pub fn leave(&self, id: OwnerId) {
        let check = |state: &State| {
            let owner = state.table.living(id)?;
            let process = |anchor: &Anchor| matches!(anchor, Anchor::Process { .. });
            // An owner that is still being opened belongs to another client.
            let idle = owner.opened
                && owner.front == Front::Virtlockd
                && owner.locks.is_empty()
                && state.table.reclaimable_by(id).is_empty()
                && owner.anchors.values().all(process);
            idle.then_some(()).ok_or(lock::Error::OwnerExists(id).into())
        };
        if let Err(error) = self.end_here(id, Reason::OwnerGone, check) {
            tracing::trace!(owner.uuid = %id.uuid, %error, "not ending an owner");
        }
    }

    /// Handles the end of a connection.
    pub fn disconnected(&self, id: OwnerId, number: AnchorId) {
        AnchorEnd { service: self.clone(), id, number }.perform();
    }

    /// Acquires one lock, which conflicts with the owner's own locks as with the locks of other
    /// owners. The result is logged when the answer is dropped.
    ///
    /// # Errors
    ///
    /// As for [`Self::acquire`].
    pub fn acquire_counted(&self, id: OwnerId, ask: LockRequest) -> Result<Publication, Error> {
        self.let_others_see();
        self.0.suspects.pass_here();
        let _turn = self.turn_here(id)?;
        let (_, shown) = self.acquire_here(id, vec![ask], Again::Count)?;
        Ok(shown)
    }

    /// Releases the newest lock of an owner on a resource, and reserves the resource for the owner
    /// for the grace period. Returns `None` if the owner has no such lock.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchOwner`].
    pub fn release_named(
        &self,
        id: OwnerId,
        lockspace: LockspaceKind,
        resource: &str,
    ) -> Result<Option<Publication>, Error> {
        self.let_others_see();
        let _turn = self.turn_here(id)?;
        let (begun, grace) = {
            let mut state = self.state();
            let named = state.table.named(id, lockspace, resource).map(|lock| lock.id);
            let Some(number) = named else { return Ok(None) };
            state.table.begin_release(number)?;
            ((number, state.held.remove(&number)), state.settings.release_grace)
        };
        // libvirt may only have paused the VM for a moment.
        let story =
            ReleaseSteps::of_locks(self, id, vec![begun], Reason::Released).reserved_for(grace);
        let shown = story.unawaited().run();
        self.owner_went();
        Ok(Some(shown))
    }

    /// Returns a lock of any owner on a resource.
    #[must_use]
    pub fn lock_named(&self, lockspace: LockspaceKind, resource: &str) -> Option<Lock> {
        let state = self.state();
        state.table.all_named(lockspace, resource).next().cloned()
    }

    /// Throttles the client while too many events are not yet sent to the bus: the backlog takes
    /// memory. The delay is bounded, since libvirt's protocol does not depend on the bus.
    fn let_others_see(&self) {
        for _ in 0..PAUSES {
            if self.0.backlog.count() < BACKLOG {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Acquires an owner's command lock.
    fn turn_here(&self, id: OwnerId) -> Result<OwnedMutexGuard<()>, Error> {
        let turn = self.turn_of(id)?;
        Ok(Arc::clone(&turn).try_lock_owned().unwrap_or_else(|_| turn.blocking_lock_owned()))
    }
}

impl ExistingOwner {
    /// Whether this live process keeps the owner alive.
    fn lives_as(&self, pid: u32) -> bool {
        self.processes.iter().any(|(_, known)| known.pid() == pid && known.check_alive().is_ok())
    }

    /// Whether all its processes have ended, including those whose end was handled already: a
    /// connection may be all that is left of the owner.
    fn has_ended(&self) -> bool {
        let ended = |(_, process): &(AnchorId, Arc<Process>)| process.check_alive().is_err();
        self.processes.iter().all(ended) && !self.is_without_process()
    }

    /// Whether the owner is kept alive, but never was by a process.
    fn is_without_process(&self) -> bool {
        self.kept && self.processes.is_empty()
    }
}

impl AnchorWatch {
    /// Returns the connection, if the anchor is one.
    pub(in crate::service) fn connection(&self) -> Option<Arc<Connection>> {
        match &self.anchored {
            Anchored::Connection(connection) => Some(Arc::clone(connection)),
            Anchored::Lifeline(_) | Anchored::Process(_) => None,
        }
    }
}
