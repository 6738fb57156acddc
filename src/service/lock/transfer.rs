//! Transfer of locks from one owner to another on this host: a VM moves, and its disks are never
//! free and never locked by two owners.
//!
//! 1. The source offers all of its locks and gets a token. It still holds them. If the source ends
//!    before the offer is accepted, its locks stay until the offer expires.
//! 2. A caller adopts the locks for the target with the token: under the command locks of both
//!    owners, the table removes the locks from the source's list.
//! 3. The change of owner is written to the journal atomically: a crash before this write leaves
//!    the locks with the source, a crash after it with the target. No byte or descriptor is
//!    changed.
//! 4. The locks are recorded as remembered by the source.
//! 5. The table gives the locks new numbers under the target, and the events are published.
//!
//! When the target ends, the locks return to the source by steps 3 to 5, if the source exists and
//! still remembers them.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::failpoint::failpoint;
use crate::keep::OfferRecord;
use crate::lock::model::owner::Offer;
use crate::lock::request::{Asked, Work};
use crate::lock::{self, OwnerId, Reason};
use crate::service::components::Components;
use crate::service::core::clock::{now, since_boot};
use crate::service::core::error::Error;
use crate::service::lock::change_owner::change_owner;
use crate::service::lock::end;
use crate::service::lock::force::OwnerRelease;
use crate::service::lock::release::Release;
use crate::service::report::event_log;
use crate::service::state::events::Publication;

/// Offers all locks of an owner, for a limited time.
pub(in crate::service) async fn offer(
    components: &Arc<Components>,
    request: OwnerRelease<'_>,
    patience: Duration,
) -> Result<Uuid, Error> {
    let OwnerRelease { owner: id, by, .. } = request;
    let _command_lock = components.state.lock_commands(id).await?;
    let offer = {
        let mut state = components.state();
        state.check_open()?;
        request.check(&state, components.exempt)?;
        let patience = u64::try_from(patience.as_micros()).unwrap_or(u64::MAX);
        let until = since_boot().saturating_add(patience);
        let offer = Offer { token: Uuid::new_v4(), until, record: state.next_anchor() };
        state.table.offer(id, offer)?;
        offer
    };
    if let Err(error) = components
        .executor
        .run(RecordOffer { components: Arc::clone(components), id, offer })
        .await?
    {
        components.state().table.withdraw_offer(id, Some(offer.token));
        return Err(error);
    }
    tracing::info!(owner.uuid = %id.uuid, owner.uid = id.uid, caller.uid = by, "{} offers its locks to another owner, on request of uid {by}", components.state.vm(id));
    expire_later(components, id, offer);
    Ok(offer.token)
}

/// Transfers the locks of an offer to an owner.
pub(in crate::service) async fn adopt(
    components: &Arc<Components>,
    to: OwnerId,
    token: Uuid,
) -> Result<Vec<u64>, Error> {
    let from = components.state().table.offered(token)?;
    if from == to {
        return Err(lock::Error::OwnOffer(to).into());
    }
    // Both command locks in a fixed order, so that two transfers cannot deadlock.
    let _first = components.state.lock_commands(from.min(to)).await?;
    let _second = components.state.lock_commands(from.max(to)).await?;
    let adopt = Adopt { components: Arc::clone(components), from, to, token };
    let (locks, publication) = components.executor.run(adopt).await??;
    publication.wait().await;
    Ok(locks)
}

/// Withdraws an offer when it expires.
pub(in crate::service) fn expire_later(components: &Arc<Components>, id: OwnerId, offer: Offer) {
    let components = Arc::clone(components);
    tokio::spawn(async move {
        loop {
            let left = offer.until.saturating_sub(since_boot());
            if left == 0 {
                break;
            }
            // A sleep does not count the time while the host is suspended; the offer's deadline
            // does.
            let nap = Duration::from_micros(left).min(Duration::from_secs(3600));
            tokio::time::sleep(nap).await;
        }
        let withdraw =
            Withdraw { components: Arc::clone(&components), id, token: Some(offer.token) };
        if let Err(error) = components.executor.run_with_retry(withdraw).await {
            tracing::error!(%error, "cannot withdraw an expired offer of locks");
        }
    });
}

/// Withdraws an owner's offer. An owner without any anchor ends with its offer.
pub(in crate::service) async fn withdraw_offer(
    components: &Arc<Components>,
    id: OwnerId,
) -> Result<(), Error> {
    components.executor.run(Withdraw { components: Arc::clone(components), id, token: None }).await
}

/// Records an offer.
struct RecordOffer {
    components: Arc<Components>,
    id: OwnerId,
    offer: Offer,
}

impl Work for RecordOffer {
    type Answer = Result<(), Error>;

    fn perform(self) -> Self::Answer {
        self.components.journal.put_offer(OfferRecord::new(self.id, self.offer))?;
        failpoint("offer-noted");
        Ok(())
    }
}

/// Withdraws an offer.
struct Withdraw {
    components: Arc<Components>,
    id: OwnerId,
    token: Option<Uuid>,
}

impl Work for Withdraw {
    type Answer = ();

    fn asks(&self) -> Vec<Asked<'_>> {
        // An owner that only the offer keeps alive ends with it, and all of its locks are released.
        let owner = self.components.state().owner(self.id).cloned();
        let goes = owner.is_some_and(|owner| owner.anchors.is_empty());
        if goes { end::asks_of(&self.components, self.id) } else { Vec::new() }
    }

    fn perform(self) {
        let Self { components, id, token } = self;
        let withdrawn = components.state().table.withdraw_offer(id, token);
        let Some(offer) = withdrawn else { return };
        remove_offer_record(&components, offer);
        tracing::info!(owner.uuid = %id.uuid, owner.uid = id.uid, "the offer of the locks of {} has ended", components.state.vm(id));
        end::end_if_abandoned(&components, id);
    }
}

/// An adoption: steps 2 to 5.
struct Adopt {
    components: Arc<Components>,
    from: OwnerId,
    to: OwnerId,
    token: Uuid,
}

impl Work for Adopt {
    type Answer = Result<(Vec<u64>, Publication), Error>;

    fn perform(self) -> Self::Answer {
        let Self { components, from, to, token } = self;
        let (moved, offer) = {
            let mut state = components.state();
            state.check_open()?;
            let offer = state.table.owner(from).and_then(|owner| owner.offer);
            let moved = state.table.begin_adoption(token, to, now())?;
            let count = moved.locks.len();
            if let Err(error) =
                state.check_quota(components.exempt, to.uid, |usage| usage.count_locks(count))
            {
                state.table.cancel_move(&moved);
                return Err(error);
            }
            (moved, offer)
        };
        let publication = match change_owner(&components, &moved) {
            Ok(publication) => publication,
            Err((error, left)) => {
                release_left(&components, from, left);
                return Err(error);
            }
        };
        if let Some(offer) = offer {
            remove_offer_record(&components, offer);
        }
        let name = |id| components.state().name_of(id);
        event_log::handed_over((to, &name(to)), (from, &name(from)), moved.locks.len());
        end::end_if_abandoned(&components, from);
        Ok((moved.locks.iter().map(|(_, lock)| lock.id).collect(), publication))
    }
}

fn remove_offer_record(components: &Components, offer: Offer) {
    if let Err(error) = components.journal.forget_offer(offer.record) {
        tracing::error!(%error, "cannot remove the record of an offer that ended");
    }
}

/// Releases the locks of a source that ended during the transfer.
fn release_left(components: &Arc<Components>, from: OwnerId, left: Vec<u64>) {
    if left.is_empty() {
        return;
    }
    let locks = {
        let mut state = components.state();
        left.into_iter().map(|lock| (lock, state.held.remove(&lock))).collect()
    };
    drop(Release::of_locks(components, from, locks, Reason::OwnerGone).run());
    components.owner_removed.notify_waiters();
}
