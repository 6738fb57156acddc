//! Opens owners.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use crate::lock::model::loss_action::OnLost;
use crate::lock::request::Asked;
use crate::lock::table::Again;
use crate::lock::{self, Front, Owner, OwnerId};
use crate::service::components::Components;
use crate::service::core::clock::now;
use crate::service::core::error::Error;
use crate::service::lock::acquire::Acquisition;
use crate::service::lock::owner_records::{self, Opened};
use crate::service::lock::request::LockRequest;
use crate::service::owner::anchors::{self, NewAnchor};
use crate::service::persist::anchor_handle::AnchorHandle;
use crate::service::persist::journal::OwnerRecords;
use crate::service::report::event_log;
use crate::service::state::events::Publication;
use crate::service::state::wait_queue::WaitState;
use crate::service::wait::name_check::CheckNames;
use crate::service::wait::{self, AttemptOutcome, Command, Granted, Wait};

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
    pub requests: Vec<LockRequest>,
}

/// Opens an owner together with the requested locks, or not at all.
pub(in crate::service) async fn open(
    components: &Arc<Components>,
    opening: Opening,
    wait: Option<Wait>,
) -> Result<Granted, Error> {
    wait_until_released(components, opening.id).await;
    wait::run(components, Open::new(components, opening), None, wait).await
}

/// Waits until no previous owner with this id is releasing its locks: a VM that is restarted
/// meanwhile is opened after it, instead of being refused because its owner exists.
pub(in crate::service) async fn wait_until_released(components: &Arc<Components>, id: OwnerId) {
    loop {
        let gone = components.owner_removed.notified();
        tokio::pin!(gone);
        gone.as_mut().enable();
        if !components.state().table.owner(id).is_some_and(|owner| owner.ended) {
            return;
        }
        gone.await;
    }
}

/// Adds the anchors of an owner that was just entered, and watches them.
fn attach(
    components: &Arc<Components>,
    id: OwnerId,
    anchors: Vec<NewAnchor>,
) -> Result<Opened, Error> {
    // Before its anchors: an anchor of an earlier owner with this id has a lower number.
    let record = components.state().next_anchor();
    let mut all = Vec::with_capacity(anchors.len());
    for anchor in anchors {
        let kind = anchor.anchor();
        let handle = anchor.handle();
        let number = anchors::watch(components, id, kind, handle.clone())?;
        // A connection is stashed only once no more messages are expected on it.
        let stashed = handle.filter(|handle| !matches!(handle, AnchorHandle::Connection(_)));
        all.extend(stashed.map(|handle| (number, handle)));
    }
    let mut state = components.state();
    state.owners.entry(id).or_default().record = record;
    let owner = state.table.owner(id).cloned().ok_or(lock::Error::NoSuchOwner(id))?;
    let anchors = all.iter().map(|(number, _)| *number).collect();
    let records =
        OwnerRecords { owner: id, record, anchors, unheld_locks: Vec::new(), offer: None };
    Ok(Opened { owner, records, anchors: all })
}

/// Enters an owner in the table, without anchors, and acquires its command lock.
fn insert_owner(
    components: &Arc<Components>,
    owner: Owner,
    anchors: &[NewAnchor],
    locks: usize,
) -> Result<OwnedMutexGuard<()>, Error> {
    let id = owner.id;
    let mut state = components.state();
    state.check_open()?;
    state.check_quota(components.exempt, id.uid, |usage| {
        usage.count_owner();
        usage.count_locks(locks);
        for anchor in anchors {
            usage.count(anchor.anchor());
        }
    })?;
    state.table.open_owner(Owner { opened: false, ..owner })?;
    let owner_state = state.owners.entry(id).or_default();
    // No other task has this mutex yet, so it is free.
    Arc::clone(&owner_state.command_lock).try_lock_owned().map_err(|_| Error::Abandoned)
}

/// Opens an owner. While it waits for its locks, the owner exists but is not published.
pub(in crate::service) struct Open {
    components: Arc<Components>,
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
    request: Acquisition,
    records: OwnerRecords,
    /// Its command lock: no command of the owner runs before it is opened.
    command_lock: OwnedMutexGuard<()>,
}

impl Open {
    pub(in crate::service) fn new(components: &Arc<Components>, opening: Opening) -> Self {
        let (id, name, why) = (opening.id, opening.name.clone(), opening.why.clone());
        Self { components: Arc::clone(components), id, name, why, stage: Stage::New(opening) }
    }

    /// Opens the owner without waiting. Call it on a worker thread.
    pub(in crate::service) fn attempt_here(self) -> Result<Publication, Error> {
        match self.attempt(WaitState::NoWait) {
            AttemptOutcome::Done(_, publication) => Ok(publication),
            AttemptOutcome::Failed(error) => Err(error),
            AttemptOutcome::Queued(..) => Err(Error::Abandoned),
        }
    }

    fn insert(components: &Arc<Components>, opening: Opening) -> Result<Entered, Error> {
        let Opening { id, name, why, front, on_lost, anchors, requests } = opening;
        let owner = Owner { why, on_lost, ..Owner::new(id, name, front, now()) };
        let command_lock = insert_owner(components, owner, &anchors, requests.len())?;
        let opened = attach(components, id, anchors)?;
        let records = opened.records.clone();
        let request = Acquisition::new(components, id, requests, Again::Same).opening(opened);
        Ok(Entered { request, records, command_lock })
    }
}

impl Command for Open {
    fn owner(&self) -> OwnerId {
        self.id
    }

    fn keeps_command_lock(&self) -> bool {
        true
    }

    fn asks(&self) -> Vec<Asked<'_>> {
        match &self.stage {
            Stage::New(opening) => {
                opening.requests.iter().flat_map(|request| request.disk.asks()).collect()
            }
            Stage::Entered(entered) => entered.request.asks(),
        }
    }

    fn check_names(&self) -> Option<CheckNames> {
        match &self.stage {
            Stage::New(_) => None,
            Stage::Entered(entered) => entered.request.check_names(),
        }
    }

    fn attempt(self, wait: WaitState) -> AttemptOutcome<Self> {
        let Self { components, id, name, why, stage } = self;
        let entered = match stage {
            Stage::Entered(entered) => *entered,
            Stage::New(opening) => match Self::insert(&components, opening) {
                Ok(entered) => entered,
                Err(error) => return AttemptOutcome::Failed(error),
            },
        };
        let Entered { request, records, command_lock } = entered;
        match request.attempt(wait) {
            AttemptOutcome::Done(granted, publication) => {
                components.metrics.opened();
                event_log::opened(id, &name, &why);
                AttemptOutcome::Done(granted, publication)
            }
            AttemptOutcome::Queued(request, guard) => {
                let stage = Stage::Entered(Box::new(Entered { request, records, command_lock }));
                AttemptOutcome::Queued(Self { components, id, name, why, stage }, guard)
            }
            AttemptOutcome::Failed(error) => {
                unenter(&components, records);
                AttemptOutcome::Failed(error)
            }
        }
    }

    fn roll_back(self) {
        if let Stage::Entered(entered) = self.stage {
            unenter(&self.components, entered.records);
        }
    }
}

/// Removes an owner that was never opened (rollback). It was never published, so its end is not
/// published either; it may have ended by itself, and the id may belong to a new owner since.
fn unenter(components: &Components, records: OwnerRecords) {
    {
        let mut state = components.state();
        let id = records.owner;
        let record = state.owners.get(&id).map(|owner_state| owner_state.record);
        if record == Some(records.record) {
            // It holds nothing: its grants were rolled back.
            drop(state.end(id, false));
        }
    }
    owner_records::remove(&components.journal, &[records]);
    components.owner_removed.notify_waiters();
}
