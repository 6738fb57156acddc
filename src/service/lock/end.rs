//! The end of an owner: all of its locks are released ([`super::release`]).

use std::sync::Arc;

use crate::lock::request::{Asked, Work as _};
use crate::lock::{self, Anchor, Front, OwnerId, Reason};
use crate::service::components::Components;
use crate::service::core::error::Error;
use crate::service::lock::force::OwnerRelease;
use crate::service::lock::release::Release;
use crate::service::report::event_log;
use crate::service::state::State;
use crate::service::state::events::Publication;

/// Closes an owner: releases all of its locks, whatever keeps the owner alive.
pub(in crate::service) async fn close(
    components: &Arc<Components>,
    request: OwnerRelease<'_>,
) -> Result<(), Error> {
    let OwnerRelease { owner: id, by, .. } = request;
    let is_own = request.is_own(&components.state())?;
    if is_own {
        return end(components, id, Reason::OwnerClosed, |_| Ok(())).await;
    }
    let mut broken = (String::new(), Vec::new());
    let check = |state: &State| {
        let locks = &state.table.living(id)?.locks;
        broken = (state.name_of(id), locks.iter().copied().collect());
        request.check(state, components.exempt)
    };
    end(components, id, Reason::Forced, check).await?;
    let (name, locks) = broken;
    components.metrics.broken(locks.len());
    event_log::broken(id, &name, &locks, by);
    Ok(())
}

/// Ends an owner, if `check` passes under the same mutex.
pub(in crate::service) async fn end(
    components: &Arc<Components>,
    id: OwnerId,
    reason: Reason,
    check: impl FnOnce(&State) -> Result<(), Error>,
) -> Result<(), Error> {
    let (release, ended) = begin_end(components, id, reason, check)?;
    release.run_until_done().await?.wait().await;
    ended.wait().await;
    Ok(())
}

/// Ends an owner as [`end`] does, on a worker thread; does not wait for the events to be
/// published.
pub(in crate::service) fn end_here(
    components: &Arc<Components>,
    id: OwnerId,
    reason: Reason,
    check: impl FnOnce(&State) -> Result<(), Error>,
) -> Result<(), Error> {
    let (release, _) = begin_end(components, id, reason, check)?;
    drop(release.perform());
    components.owner_removed.notify_waiters();
    Ok(())
}

fn begin_end(
    components: &Arc<Components>,
    id: OwnerId,
    reason: Reason,
    check: impl FnOnce(&State) -> Result<(), Error>,
) -> Result<(Release, Publication), Error> {
    let (ending, name) = {
        let mut state = components.state();
        check(&state)?;
        let name = state.name_of(id);
        // Forced releases make the resources free: no lock returns to a former owner.
        (state.end(id, reason != Reason::Forced)?, name)
    };
    components.metrics.ended();
    event_log::ended(id, &name, ending.held.len(), reason);
    Ok(Release::of_owner(components, ending, reason))
}

/// Ends an owner that has lost its last anchor during its offer.
pub(super) fn end_if_abandoned(components: &Arc<Components>, id: OwnerId) {
    let check = |state: &State| {
        let owner = state.table.living(id)?;
        let is_abandoned = owner.anchors.is_empty() && owner.offer.is_none();
        is_abandoned.then_some(()).ok_or(lock::Error::OwnerExists(id).into())
    };
    if let Err(error) = end_here(components, id, Reason::OwnerGone, check) {
        tracing::trace!(owner.uuid = %id.uuid, %error, "not ending an owner");
    }
}

/// Ends an owner without any client, if it holds no lock, no lock is reserved for it, and it
/// has no connection of its own: its process may be no VM at all.
pub(in crate::service) fn end_if_idle(components: &Arc<Components>, id: OwnerId) {
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
    if let Err(error) = end_here(components, id, Reason::OwnerGone, check) {
        tracing::trace!(owner.uuid = %id.uuid, %error, "not ending an owner");
    }
}

/// Returns what the release of all locks of an owner accesses.
pub(in crate::service) fn asks_of(components: &Components, id: OwnerId) -> Vec<Asked<'static>> {
    let state = components.state();
    let locks = state.table.locks().filter(|lock| lock.owner == id);
    locks.flat_map(|lock| lock.want.asks()).filter_map(Asked::into_owned).collect()
}
