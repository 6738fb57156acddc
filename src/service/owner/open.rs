//! Opens owners.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use crate::life::{Connection, Lifeline, Process};
use crate::lock::model::loss_action::OnLost;
use crate::lock::request::Asked;
use crate::lock::table::Again;
use crate::lock::{self, Anchor, Front, Owner, OwnerId};
use crate::service::lock::acquire::{Opened, Request};
use crate::service::persist::journal::{Anchored, Names};
use crate::service::report::event_log;
use crate::service::wait::name_recheck::CheckNames;
use crate::service::wait::ticket::Entry;
use crate::service::wait::{Attempt, Granted, Outcome, Wait};
use crate::service::{Error, LockRequest, Publication, Service, now};

/// An owner that is about to be opened.
#[derive(Debug)]
pub struct Opening {
    /// Its id.
    pub id: OwnerId,
    /// The name of the VM, validated.
    pub name: String,
    /// The purpose of its locks, validated; empty if not stated.
    pub why: String,
    /// The frontend that opens it.
    pub front: Front,
    /// The action on its processes when a lock is lost.
    pub on_lost: OnLost,
    /// The anchors that will keep it alive; never empty.
    pub anchors: Vec<NewAnchor>,
    /// The locks that it is to hold from the start.
    pub asks: Vec<LockRequest>,
}

/// An anchor that is not watched yet.
#[derive(Debug)]
pub enum NewAnchor {
    /// The service's end of the lifeline's pipe.
    Lifeline(Lifeline),
    /// A process.
    Process(Process),
    /// A connection of the VM itself.
    Connection(Arc<Connection>),
    /// Keeps the owner until it is closed.
    Manual,
}

impl NewAnchor {
    pub(in crate::service) fn anchor(&self) -> Anchor {
        match self {
            Self::Lifeline(_) => Anchor::Lifeline,
            Self::Process(process) => Anchor::Process { pid: process.pid() },
            Self::Connection(_) => Anchor::Connection,
            Self::Manual => Anchor::Manual,
        }
    }

    /// Returns the part of the anchor that is watched and stashed.
    pub(in crate::service) fn anchored(self) -> Option<Anchored> {
        match self {
            Self::Lifeline(lifeline) => Some(Anchored::Lifeline(Arc::new(lifeline))),
            Self::Process(process) => Some(Anchored::Process(Arc::new(process))),
            Self::Connection(connection) => Some(Anchored::Connection(connection)),
            Self::Manual => None,
        }
    }
}

impl Service {
    /// Opens an owner together with the requested locks, or not at all.
    ///
    /// # Errors
    ///
    /// [`lock::Error::OwnerExists`], [`Error::Limit`], and the errors of [`Self::acquire`].
    pub async fn open(&self, opening: Opening, wait: Option<Wait>) -> Result<Granted, Error> {
        self.wait_until_released(opening.id).await;
        self.persist(Open::new(self, opening), None, wait).await
    }

    /// Waits until no previous owner with this id is releasing its locks: a VM that is restarted
    /// meanwhile is opened after it, instead of being refused because its owner exists.
    pub(in crate::service) async fn wait_until_released(&self, id: OwnerId) {
        loop {
            let gone = self.0.went.notified();
            tokio::pin!(gone);
            gone.as_mut().enable();
            if !self.state().table.owner(id).is_some_and(|owner| owner.ended) {
                return;
            }
            gone.await;
        }
    }

    /// Adds the anchors of an owner that was just entered, and watches them.
    fn attach(&self, id: OwnerId, anchors: Vec<NewAnchor>) -> Result<Opened, Error> {
        // Before its anchors: an anchor of an earlier owner with this id has a lower number.
        let record = self.state().next_anchor();
        let mut all = Vec::with_capacity(anchors.len());
        for anchor in anchors {
            let kind = anchor.anchor();
            let anchored = anchor.anchored();
            let number = self.watch(id, kind, anchored.clone())?;
            // A connection is stashed only once no more messages are expected on it.
            let kept = anchored.filter(|anchored| !matches!(anchored, Anchored::Connection(_)));
            all.extend(kept.map(|anchored| (number, anchored)));
        }
        let mut state = self.state();
        state.kept.entry(id).or_default().record = record;
        let owner = state.table.owner(id).cloned().ok_or(lock::Error::NoSuchOwner(id))?;
        let anchors = all.iter().map(|(number, _)| *number).collect();
        let names = Names { owner: id, record, anchors, noted: Vec::new(), offer: None };
        Ok(Opened { owner, names, anchors: all })
    }

    /// Enters an owner in the table, without anchors, and acquires its command lock.
    fn insert_owner(
        &self,
        owner: Owner,
        anchors: &[NewAnchor],
        locks: usize,
    ) -> Result<OwnedMutexGuard<()>, Error> {
        let id = owner.id;
        let mut state = self.state();
        state.check_open()?;
        state.check_quota(self.0.exempt, id.uid, |usage| {
            usage.count_owner();
            usage.count_locks(locks);
            for anchor in anchors {
                usage.count(anchor.anchor());
            }
        })?;
        state.table.open_owner(Owner { opened: false, ..owner })?;
        let kept = state.kept.entry(id).or_default();
        // No other task has this mutex yet, so it is free.
        Arc::clone(&kept.turn).try_lock_owned().map_err(|_| Error::Abandoned)
    }

    /// Acquires an owner's command lock.
    pub(in crate::service) async fn turn(&self, id: OwnerId) -> Result<OwnedMutexGuard<()>, Error> {
        Ok(self.turn_of(id)?.lock_owned().await)
    }

    /// Returns an owner's command lock, which is held during each of its commands.
    pub(in crate::service) fn turn_of(
        &self,
        id: OwnerId,
    ) -> Result<Arc<tokio::sync::Mutex<()>>, Error> {
        let state = self.state();
        state.table.living(id)?;
        Ok(Arc::clone(&state.kept.get(&id).ok_or(lock::Error::NoSuchOwner(id))?.turn))
    }

    /// Wakes the tasks that wait for the complete removal of an owner.
    pub(in crate::service) fn owner_went(&self) {
        self.0.went.notify_waiters();
    }
}

/// Opens an owner. While it waits for its locks, the owner exists but is not published.
pub(in crate::service) struct Open {
    service: Service,
    id: OwnerId,
    name: String,
    why: String,
    stage: Stage,
}

enum Stage {
    New(Opening),
    Entered(Box<Entered>),
}

/// An owner that is in the table but not opened yet.
struct Entered {
    request: Request,
    names: Names,
    /// Its command lock: no command of the owner runs before it is opened.
    turn: OwnedMutexGuard<()>,
}

impl Open {
    pub(in crate::service) fn new(service: &Service, opening: Opening) -> Self {
        let (id, name, why) = (opening.id, opening.name.clone(), opening.why.clone());
        Self { service: service.clone(), id, name, why, stage: Stage::New(opening) }
    }

    /// Opens the owner without waiting. Call it on a worker thread.
    pub(in crate::service) fn at_once(self) -> Result<Publication, Error> {
        match self.attempt(Entry::Once) {
            Outcome::Done(_, shown) => Ok(shown),
            Outcome::Failed(error) => Err(error),
            Outcome::Queued(..) => Err(Error::Abandoned),
        }
    }

    fn insert(service: &Service, opening: Opening) -> Result<Entered, Error> {
        let Opening { id, name, why, front, on_lost, anchors, asks } = opening;
        let owner = Owner { why, on_lost, ..Owner::new(id, name, front, now()) };
        let turn = service.insert_owner(owner, &anchors, asks.len())?;
        let opened = service.attach(id, anchors)?;
        let names = opened.names.clone();
        let request = Request::new(service, id, asks, Again::Same).opening(opened);
        Ok(Entered { request, names, turn })
    }
}

impl Attempt for Open {
    fn owner(&self) -> OwnerId {
        self.id
    }

    fn keeps_turn(&self) -> bool {
        true
    }

    fn asks(&self) -> Vec<Asked<'_>> {
        match &self.stage {
            Stage::New(opening) => opening.asks.iter().flat_map(|ask| ask.disk.asks()).collect(),
            Stage::Entered(entered) => entered.request.asks(),
        }
    }

    fn check_names(&self) -> Option<CheckNames> {
        match &self.stage {
            Stage::New(_) => None,
            Stage::Entered(entered) => entered.request.check_names(),
        }
    }

    fn attempt(self, entry: Entry) -> Outcome<Self> {
        let Self { service, id, name, why, stage } = self;
        let entered = match stage {
            Stage::Entered(entered) => *entered,
            Stage::New(opening) => match Self::insert(&service, opening) {
                Ok(entered) => entered,
                Err(error) => return Outcome::Failed(error),
            },
        };
        let Entered { request, names, turn } = entered;
        match request.attempt(entry) {
            Outcome::Done(granted, shown) => {
                service.counts().opened();
                event_log::opened(id, &name, &why);
                Outcome::Done(granted, shown)
            }
            Outcome::Queued(request, place) => {
                let stage = Stage::Entered(Box::new(Entered { request, names, turn }));
                Outcome::Queued(Self { service, id, name, why, stage }, place)
            }
            Outcome::Failed(error) => {
                service.unenter(names);
                Outcome::Failed(error)
            }
        }
    }

    fn abandon(self) {
        if let Stage::Entered(entered) = self.stage {
            self.service.unenter(entered.names);
        }
    }
}

impl Service {
    /// Removes an owner that was never opened (rollback). It was never published, so its end is not
    /// published either; it may have ended by itself, and the id may belong to a new owner since.
    fn unenter(&self, names: Names) {
        {
            let mut state = self.state();
            let id = names.owner;
            let record = state.kept.get(&id).map(|kept| kept.record);
            if record == Some(names.record) {
                // It holds nothing: its grants were rolled back.
                drop(state.end(id, false));
            }
        }
        self.forget(&[names]);
        self.owner_went();
    }
}
