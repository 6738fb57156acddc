//! Anchors keep owners alive; the end of its last anchor ends an owner.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::task::AbortHandle;

use crate::life::{Connection, Lifeline, Process};
use crate::lock::model::owner::AnchorId;
use crate::lock::request::{Asked, Work};
use crate::lock::{self, Anchor, Event, OwnerId, Reason};
use crate::service::components::Components;
use crate::service::core::error::Error;
use crate::service::core::limits::Usage;
use crate::service::lock::{end, owner_records, reservations};
use crate::service::persist::anchor_handle::AnchorHandle;
use crate::service::state::State;
use crate::service::state::events::Publication;
use crate::service::state::owner_state::AnchorWatch;

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
    pub(in crate::service) fn handle(self) -> Option<AnchorHandle> {
        match self {
            Self::Lifeline(lifeline) => Some(AnchorHandle::Lifeline(Arc::new(lifeline))),
            Self::Process(process) => Some(AnchorHandle::Process(Arc::new(process))),
            Self::Connection(connection) => Some(AnchorHandle::Connection(connection)),
            Self::Manual => None,
        }
    }
}

/// Creates another lifeline of an owner.
pub(in crate::service) async fn new_lifeline(
    components: &Arc<Components>,
    id: OwnerId,
) -> Result<OwnedFd, Error> {
    let (lifeline, theirs) = Lifeline::new()?;
    bind(components, id, NewAnchor::Lifeline(lifeline)).await?;
    Ok(theirs)
}

/// Adds another anchor to an owner.
pub(in crate::service) async fn bind(
    components: &Arc<Components>,
    id: OwnerId,
    anchor: NewAnchor,
) -> Result<(), Error> {
    let bind = Bind { components: Arc::clone(components), id, anchor };
    components.executor.run(bind).await??.wait().await;
    Ok(())
}

/// Adds an anchor, and a task that waits for its end.
pub(in crate::service) fn watch(
    components: &Arc<Components>,
    id: OwnerId,
    kind: Anchor,
    handle: Option<AnchorHandle>,
) -> Result<AnchorId, Error> {
    let mut state = components.state();
    let number = state.next_anchor();
    state.table.add_anchor(id, number, kind)?;
    if let Some(handle) = handle {
        let watch = AnchorWatch { task: follow(components, id, number, &handle), handle };
        state.owners.entry(id).or_default().watches.insert(number, watch);
    }
    Ok(number)
}

/// Spawns the task that waits for an anchor's end; the server of a connection reports its end
/// itself.
pub(in crate::service) fn follow(
    components: &Arc<Components>,
    id: OwnerId,
    number: AnchorId,
    handle: &AnchorHandle,
) -> Option<AbortHandle> {
    let (components, handle) = (Arc::clone(components), handle.clone());
    if matches!(handle, AnchorHandle::Connection(_)) {
        return None;
    }
    let task = async move {
        let gone = match &handle {
            AnchorHandle::Lifeline(lifeline) => lifeline.closed().await,
            AnchorHandle::Process(process) => process.exited().await,
            AnchorHandle::Connection(_) => std::future::pending().await,
        };
        let seen = match gone {
            Ok(()) => {
                let gone = AnchorEnd { components: Arc::clone(&components), id, number };
                components.executor.run_with_retry(gone).await
            }
            // The event loop is shutting down with the service, which is no evidence that the
            // anchor has ended.
            Err(error) => {
                let vm = components.state.vm(id);
                tracing::error!(%error, owner.uuid = %id.uuid, owner.uid = id.uid, "stopped watching an anchor of {vm}");
                return;
            }
        };
        if let Err(error) = seen {
            let vm = components.state.vm(id);
            tracing::error!(%error, owner.uuid = %id.uuid, owner.uid = id.uid, "failed to handle the end of an anchor of {vm}");
        }
    };
    Some(tokio::spawn(task).abort_handle())
}

/// Handles the end of an anchor.
pub(in crate::service) struct AnchorEnd {
    pub(in crate::service) components: Arc<Components>,
    pub(in crate::service) id: OwnerId,
    pub(in crate::service) number: AnchorId,
}

impl Work for AnchorEnd {
    type Answer = ();

    fn asks(&self) -> Vec<Asked<'_>> {
        // The end of the last anchor releases all locks of the owner.
        end::asks_of(&self.components, self.id)
    }

    fn perform(self) {
        let Self { components, id, number } = self;
        let (last, over) = {
            let mut state = components.state();
            if let Some(owner_state) = state.owners.get_mut(&id) {
                // This runs on behalf of the anchor's own task, which ends by itself and must not
                // be aborted.
                owner_state.watches.remove(&number);
            }
            let Some(last) = state.table.remove_anchor(id, number) else {
                return; // The owner was closed meanwhile.
            };
            (last, state.end_reclaims_without_process(id))
        };
        reservations::remove_records(&components.journal, &over);
        owner_records::remove_anchor(&components.journal, id, number);
        if !last {
            drop(components.state().events.publish(vec![Event::AnchorsChanged(id)]));
            return;
        }
        // Another anchor may have been added while this one was being removed.
        let check = |state: &State| {
            let owner = state.table.living(id)?;
            // An owner with an offer stays until the offer is accepted or expires.
            let alone = owner.anchors.is_empty() && owner.offer.is_none();
            alone.then_some(()).ok_or(lock::Error::OwnerExists(id).into())
        };
        if let Err(error) = end::end_here(&components, id, Reason::OwnerGone, check) {
            // Or the owner was closed by a request that also releases its locks.
            let vm = components.state.vm(id);
            tracing::debug!(owner.uuid = %id.uuid, owner.uid = id.uid, %error, "not ending the owner of {vm}");
        }
    }
}

/// Adds an anchor to an owner: watches, records and stashes it.
pub(in crate::service) struct Bind {
    pub(in crate::service) components: Arc<Components>,
    pub(in crate::service) id: OwnerId,
    pub(in crate::service) anchor: NewAnchor,
}

impl Work for Bind {
    type Answer = Result<Publication, Error>;

    fn perform(self) -> Result<Publication, Error> {
        let Self { components, id, anchor } = self;
        let kind = anchor.anchor();
        let more = |usage: &mut Usage| usage.count(kind);
        components.state().check_quota(components.exempt, id.uid, more)?;
        let Some(handle) = anchor.handle() else { return Ok(Publication::default()) };
        // Watched first: otherwise the record of an anchor that ends meanwhile would never be
        // removed.
        let number = watch(&components, id, kind, Some(handle.clone()))?;
        if let Err(error) = record_anchor(&components, id, number, &handle) {
            let mut state = components.state();
            let watch = state
                .owners
                .get_mut(&id)
                .and_then(|owner_state| owner_state.watches.remove(&number));
            drop(state);
            watch.inspect(AnchorWatch::stop);
            AnchorEnd { components, id, number }.perform();
            return Err(error);
        }
        if matches!(kind, Anchor::Process { .. }) {
            components.records.rewrite(id);
        }
        Ok(components.state().events.publish(vec![Event::AnchorsChanged(id)]))
    }
}

/// Records and stashes an anchor that is watched already.
fn record_anchor(
    components: &Components,
    id: OwnerId,
    number: AnchorId,
    handle: &AnchorHandle,
) -> Result<(), Error> {
    let forget = || owner_records::remove_anchor(&components.journal, id, number);
    if let Err(error) = components.journal.bind(id, number, handle) {
        forget();
        return Err(error);
    }
    // If the anchor or its owner ended in between, no other code would remove the record (an
    // orphan).
    let there = {
        let state = components.state();
        state.table.living(id).is_ok_and(|owner| owner.anchors.contains_key(&number))
    };
    if there {
        return Ok(());
    }
    forget();
    Err(lock::Error::NoSuchOwner(id).into())
}
