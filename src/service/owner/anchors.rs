//! Anchors keep owners alive; the end of its last anchor ends an owner.

use std::os::fd::OwnedFd;

use tokio::task::AbortHandle;

use crate::life::Lifeline;
use crate::lock::model::owner::AnchorId;
use crate::lock::request::{Asked, Work};
use crate::lock::{self, Anchor, Event, OwnerId, Reason};
use crate::service::core::limits::Usage;
use crate::service::core::state::{AnchorWatch, State};
use crate::service::persist::journal::{Anchored, Names};
use crate::service::{Error, NewAnchor, Publication, Service};

impl Service {
    /// Creates another lifeline of an owner.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchOwner`], [`Error::Limit`], and if the process is out of descriptors.
    pub async fn new_lifeline(&self, id: OwnerId) -> Result<OwnedFd, Error> {
        let (lifeline, theirs) = Lifeline::new()?;
        self.bind(id, NewAnchor::Lifeline(lifeline)).await?;
        Ok(theirs)
    }

    /// Adds another anchor to an owner.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchOwner`], [`Error::Limit`].
    pub async fn bind(&self, id: OwnerId, anchor: NewAnchor) -> Result<(), Error> {
        let bind = Bind { service: self.clone(), id, anchor };
        self.storage().run(bind).await??.wait().await;
        Ok(())
    }

    /// Adds an anchor, and a task that waits for its end.
    pub(in crate::service) fn watch(
        &self,
        id: OwnerId,
        kind: Anchor,
        anchored: Option<Anchored>,
    ) -> Result<AnchorId, Error> {
        let mut state = self.state();
        let number = state.next_anchor();
        state.table.add_anchor(id, number, kind)?;
        if let Some(anchored) = anchored {
            let watch = AnchorWatch { task: self.follow(id, number, &anchored), anchored };
            state.kept.entry(id).or_default().watches.insert(number, watch);
        }
        Ok(number)
    }

    /// Spawns the task that waits for an anchor's end; the server of a connection reports its end
    /// itself.
    pub(in crate::service) fn follow(
        &self,
        id: OwnerId,
        number: AnchorId,
        anchored: &Anchored,
    ) -> Option<AbortHandle> {
        let (service, anchored) = (self.clone(), anchored.clone());
        if matches!(anchored, Anchored::Connection(_)) {
            return None;
        }
        let task = async move {
            let gone = match &anchored {
                Anchored::Lifeline(lifeline) => lifeline.closed().await,
                Anchored::Process(process) => process.exited().await,
                Anchored::Connection(_) => std::future::pending().await,
            };
            let seen = match gone {
                Ok(()) => {
                    let gone = AnchorEnd { service: service.clone(), id, number };
                    service.storage().run_at_last(gone).await
                }
                // The event loop is shutting down with the service, which is no evidence that the
                // anchor has ended.
                Err(error) => {
                    let vm = service.vm(id);
                    tracing::error!(%error, owner.uuid = %id.uuid, owner.uid = id.uid, "stopped watching an anchor of {vm}");
                    return;
                }
            };
            if let Err(error) = seen {
                let vm = service.vm(id);
                tracing::error!(%error, owner.uuid = %id.uuid, owner.uid = id.uid, "failed to handle the end of an anchor of {vm}");
            }
        };
        Some(tokio::spawn(task).abort_handle())
    }
}

/// Handles the end of an anchor.
pub(in crate::service) struct AnchorEnd {
    pub(in crate::service) service: Service,
    pub(in crate::service) id: OwnerId,
    pub(in crate::service) number: AnchorId,
}

impl Work for AnchorEnd {
    type Answer = ();

    fn asks(&self) -> Vec<Asked<'_>> {
        // The end of the last anchor releases all locks of the owner.
        self.service.asks_of(self.id)
    }

    fn perform(self) {
        let Self { service, id, number } = self;
        let (last, over) = {
            let mut state = service.state();
            if let Some(kept) = state.kept.get_mut(&id) {
                // This runs on behalf of the anchor's own task, which ends by itself and must not
                // be aborted.
                kept.watches.remove(&number);
            }
            let Some(last) = state.table.remove_anchor(id, number) else {
                return; // The owner was closed meanwhile.
            };
            (last, state.end_reclaims_without_process(id))
        };
        service.mark_reservations_gone(&over);
        ForgetAnchor { service: service.clone(), id, number }.perform();
        if !last {
            drop(service.state().publish(vec![Event::AnchorsChanged(id)]));
            return;
        }
        // Another anchor may have been added while this one was being removed.
        let check = |state: &State| {
            let owner = state.table.living(id)?;
            // An owner with an offer stays until the offer is accepted or expires.
            let alone = owner.anchors.is_empty() && owner.offer.is_none();
            alone.then_some(()).ok_or(lock::Error::OwnerExists(id).into())
        };
        if let Err(error) = service.end_here(id, Reason::OwnerGone, check) {
            // Or the owner was closed by a request that also releases its locks.
            let vm = service.vm(id);
            tracing::debug!(owner.uuid = %id.uuid, owner.uid = id.uid, %error, "not ending the owner of {vm}");
        }
    }
}

/// Adds an anchor to an owner: watches, records and stashes it.
pub(in crate::service) struct Bind {
    pub(in crate::service) service: Service,
    pub(in crate::service) id: OwnerId,
    pub(in crate::service) anchor: NewAnchor,
}

impl Work for Bind {
    type Answer = Result<Publication, Error>;

    fn perform(self) -> Result<Publication, Error> {
        let Self { service, id, anchor } = self;
        let kind = anchor.anchor();
        let more = |usage: &mut Usage| usage.count(kind);
        service.state().check_quota(service.0.exempt, id.uid, more)?;
        let Some(anchored) = anchor.anchored() else { return Ok(Publication::default()) };
        // Watched first: otherwise the record of an anchor that ends meanwhile would never be
        // removed.
        let number = service.watch(id, kind, Some(anchored.clone()))?;
        if let Err(error) = service.note_anchor(id, number, &anchored) {
            let mut state = service.state();
            let watch = state.kept.get_mut(&id).and_then(|kept| kept.watches.remove(&number));
            drop(state);
            watch.inspect(AnchorWatch::stop);
            AnchorEnd { service, id, number }.perform();
            return Err(error);
        }
        if matches!(kind, Anchor::Process { .. }) {
            service.sign_anew(id);
        }
        Ok(service.state().publish(vec![Event::AnchorsChanged(id)]))
    }
}

impl Service {
    /// Returns what the release of all locks of an owner accesses.
    pub(in crate::service) fn asks_of(&self, id: OwnerId) -> Vec<Asked<'static>> {
        let state = self.state();
        let locks = state.table.locks().filter(|lock| lock.owner == id);
        locks.flat_map(|lock| lock.want.asks()).filter_map(Asked::into_owned).collect()
    }

    /// Records and stashes an anchor that is watched already.
    fn note_anchor(&self, id: OwnerId, number: AnchorId, anchored: &Anchored) -> Result<(), Error> {
        let forget = || ForgetAnchor { service: self.clone(), id, number }.perform();
        if let Err(error) = self.keep().bind(id, number, anchored) {
            forget();
            return Err(error);
        }
        // If the anchor or its owner ended in between, no other code would remove the record (an
        // orphan).
        let there = {
            let state = self.state();
            state.table.living(id).is_ok_and(|owner| owner.anchors.contains_key(&number))
        };
        if there {
            return Ok(());
        }
        forget();
        Err(lock::Error::NoSuchOwner(id).into())
    }
}

/// Removes the record of an anchor.
pub(in crate::service) struct ForgetAnchor {
    pub(in crate::service) service: Service,
    pub(in crate::service) id: OwnerId,
    pub(in crate::service) number: AnchorId,
}

impl Work for ForgetAnchor {
    type Answer = ();

    fn perform(self) {
        let Self { service, id, number } = self;
        match service.keep().forget_anchor(id, number) {
            Ok(true) => service.clean_soon(),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "cannot remove the record of an anchor that ended");
            }
        }
    }
}

impl Service {
    /// Removes the records of anchors that ended while they were being written. Call it on a worker
    /// thread.
    pub(in crate::service) fn forget_ended(&self, names: &Names) {
        let gone: Vec<AnchorId> = {
            let state = self.state();
            let owner = state.table.owner(names.owner);
            let gone = |number: &AnchorId| {
                owner.is_none_or(|owner| owner.ended || !owner.anchors.contains_key(number))
            };
            names.anchors.iter().copied().filter(gone).collect()
        };
        for number in gone {
            ForgetAnchor { service: self.clone(), id: names.owner, number }.perform();
        }
    }
}
