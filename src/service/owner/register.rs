//! Machines that register themselves, process by process, as libvirt's do.
//!
//! Who registers is a machine and a process. If an owner is there for both, it is that owner; else
//! one is opened. What another process of the same machine holds is not this one's: where that
//! process has ended, its owner ends first, whatever is left of it; where it lives, there are two
//! owners, and the second does not get what the first one has.
//!
//! All of this is for threads that may wait, inside the event loop's context and outside of its
//! tasks: a storage thread, or a front's own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use super::anchors::{Bind, ForgetAnchor, Gone};
use crate::inspector::Requester;
use crate::life::{Connection, Process};
use crate::lock::lockspace::LockspaceKind;
use crate::lock::model::loss_action::OnLost;
use crate::lock::model::owner::AnchorId;
use crate::lock::request::Work as _;
use crate::lock::table::Again;
use crate::lock::{self, Anchor, Event, Front, Lock, OwnerId, Reason};
use crate::service::core::state::{State, Watch};
use crate::service::lock::release::Story;
use crate::service::owner::open::Open;
use crate::service::persist::journal::Anchored;
use crate::service::{Ask, Error, NewAnchor, Opening, Service, Shown};

/// How many batches of events may pile up before clients are slowed down.
const BACKLOG: usize = 4096;
/// How long a client is held up then, in pauses.
const PAUSES: u32 = 100;
/// How long something is let be that will have changed soon.
const PAUSE: Duration = Duration::from_millis(1);

/// A machine that registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Whose it is.
    pub uid: u32,
    /// Which one.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
}

/// An owner of a machine, as it is before one of its processes registers.
struct Known {
    id: OwnerId,
    ended: bool,
    /// It has no anchor at this moment: it is just being opened, or about to end.
    between: bool,
    /// The processes that keep it.
    processes: Vec<(AnchorId, Arc<Process>)>,
    /// Whether a lifeline keeps it, or the request to keep it until it is closed.
    kept: bool,
}

impl Service {
    /// The owner of a machine's process: the one that is there, or a new one.
    ///
    /// # Errors
    ///
    /// [`crate::life::Error::NoSuchProcess`], and those of [`Self::open`].
    pub fn enrol(&self, machine: &Machine) -> Result<OwnerId, Error> {
        loop {
            if let Some(id) = self.find_or_open(machine)? {
                return Ok(id);
            }
        }
    }

    /// The owner of a machine's process, if there is one.
    #[must_use]
    pub fn enrolled(&self, machine: &Machine) -> Option<OwnerId> {
        let known = self.known(machine);
        let bound = |known: &&Known| !known.ended && known.lives_as(machine.pid);
        known.iter().find(bound).map(|known| known.id)
    }

    /// `None`: something changed meanwhile, and it is to be looked at again.
    fn find_or_open(&self, machine: &Machine) -> Result<Option<OwnerId>, Error> {
        let known = self.known(machine);
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
        // One that nothing of a process is known of, as another front opened it: it is the same
        // machine, and this is its process.
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
        Handle::current().block_on(self.let_go(id));
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

    /// The owners of a machine.
    fn known(&self, machine: &Machine) -> Vec<Known> {
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
            Known {
                id: owner.id,
                ended: owner.ended,
                between: owner.anchors.is_empty(),
                processes: processes.collect(),
                kept: owner.anchors.values().any(kept),
            }
        });
        known.collect()
    }

    /// Ends an owner whose processes have all ended, before their ends are told of. Somebody may
    /// have its connection still: a process that the machine left behind is not the machine.
    fn end_predecessor(&self, known: &Known) {
        if known.kept {
            for (number, _) in &known.processes {
                Gone { service: self.clone(), id: known.id, number: *number }.perform();
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

    /// Has an owner kept alive by its own connection, too, as long as that is open.
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

    /// Parks a connection on which nothing more is to be said; to be told that whoever has the
    /// other end was answered, by [`Self::answered`].
    ///
    /// # Errors
    ///
    /// [`Error::Keep`]: then the connection ends with this service.
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

    /// Nobody waits for an answer on a kept connection: it may outlive the service.
    ///
    /// # Errors
    ///
    /// [`Error::Keep`].
    pub fn answered(&self, number: AnchorId) -> Result<(), Error> {
        self.keep().commit_connection(number)
    }

    /// Keeps a connection no more, as something is being said on it. It is an anchor all the same.
    pub fn drop_connection(&self, id: OwnerId, number: AnchorId) {
        ForgetAnchor { service: self.clone(), id, number }.perform();
    }

    /// Ends an owner for which no client speaks any more, if it holds nothing, nothing is reserved for
    /// it, and no connection of its own is there: its process may be no VM at all.
    pub fn leave(&self, id: OwnerId) {
        let check = |state: &State| {
            let owner = state.table.living(id)?;
            let process = |anchor: &Anchor| matches!(anchor, Anchor::Process { .. });
            // One that is just being opened is somebody else's who comes.
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

    /// A connection has ended.
    pub fn disconnected(&self, id: OwnerId, number: AnchorId) {
        Gone { service: self.clone(), id, number }.perform();
    }

    /// Gives an owner one lock more; what it has already counts as another's would. What came of it
    /// is logged once the answer is dropped.
    ///
    /// # Errors
    ///
    /// As for [`Self::acquire`].
    pub fn acquire_counted(&self, id: OwnerId, ask: Ask) -> Result<Shown, Error> {
        self.let_others_see();
        self.0.suspects.pass_here();
        let _turn = self.turn_here(id)?;
        let (_, shown) = self.acquire_here(id, vec![ask], Again::Count)?;
        Ok(shown)
    }

    /// Releases the newest lock that an owner has by this name, and reserves the resource for the
    /// owner for the grace period. `None`: it has none.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchOwner`].
    pub fn release_named(
        &self,
        id: OwnerId,
        lockspace: LockspaceKind,
        resource: &str,
    ) -> Result<Option<Shown>, Error> {
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
        let story = Story::of_locks(self, id, vec![begun], Reason::Released).reserved_for(grace);
        let shown = story.unawaited().tell();
        self.owner_went();
        Ok(Some(shown))
    }

    /// A lock that anybody holds by this name.
    #[must_use]
    pub fn lock_named(&self, lockspace: LockspaceKind, resource: &str) -> Option<Lock> {
        let state = self.state();
        state.table.all_named(lockspace, resource).next().cloned()
    }

    /// Waits a while where too much has happened that the bus has not been told of: what piles up
    /// takes room. Not for ever, since the bus is not needed for what is done here.
    fn let_others_see(&self) {
        for _ in 0..PAUSES {
            if self.0.backlog.load(Ordering::Relaxed) < BACKLOG {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits for an owner's turn.
    fn turn_here(&self, id: OwnerId) -> Result<OwnedMutexGuard<()>, Error> {
        let turn = self.turn_of(id)?;
        Ok(Arc::clone(&turn).try_lock_owned().unwrap_or_else(|_| turn.blocking_lock_owned()))
    }
}

impl Known {
    /// Whether it is kept by this process, which lives.
    fn lives_as(&self, pid: u32) -> bool {
        self.processes.iter().any(|(_, known)| known.pid() == pid && known.check_alive().is_ok())
    }

    /// Whether all its processes have ended, those too whose end was seen already: then a connection
    /// may be all that is left of it.
    fn has_ended(&self) -> bool {
        let ended = |(_, process): &(AnchorId, Arc<Process>)| process.check_alive().is_err();
        self.processes.iter().all(ended) && !self.is_without_process()
    }

    /// Whether it is kept by something else, and was by nothing else.
    fn is_without_process(&self) -> bool {
        self.kept && self.processes.is_empty()
    }
}

impl Watch {
    /// The connection, where it is one.
    pub(in crate::service) fn connection(&self) -> Option<Arc<Connection>> {
        match &self.anchored {
            Anchored::Connection(connection) => Some(Arc::clone(connection)),
            Anchored::Lifeline(_) | Anchored::Process(_) => None,
        }
    }
}
