//! Suspension of an owner: it releases its locks for a while, since its VM is paused or moves to
//! another host.
//!
//! The locks are released as usual, except that their records mark them as suspended before the
//! first of them is unlocked. A suspended owner neither waits nor acquires locks until all
//! suspended locks are acquired again at once. After a crash in between, a restart finds everything
//! suspended, or completes the suspension.

use std::sync::Arc;

use crate::lock::disk::in_use::InUse;
use crate::lock::table::Again;
use crate::lock::{self, OwnerId, Reason};
use crate::service::components::Components;
use crate::service::core::error::{CancelReason, Error};
use crate::service::lock::acquire::Acquisition;
use crate::service::lock::force::OwnerRelease;
use crate::service::lock::release::Release;
use crate::service::lock::request::{Disk, LockRequest};
use crate::service::report::event_log;
use crate::service::wait::{self, Granted, Wait};

/// Suspends an owner: releases all of its locks and remembers them. An owner that is already
/// suspended stays so.
pub(in crate::service) async fn suspend(
    components: &Arc<Components>,
    request: OwnerRelease<'_>,
) -> Result<(), Error> {
    let OwnerRelease { owner: id, by, .. } = request;
    let _command_lock = components.state.lock_commands(id).await?;
    let (held, name) = {
        let mut state = components.state();
        request.check(&state, components.exempt)?;
        if state.table.living(id)?.offer.is_some() {
            return Err(lock::Error::OfferedAlready(id).into());
        }
        let begun = state.table.begin_suspension(id)?;
        state.cancel_waits(|waiter| waiter.owner == id, CancelReason::Cancelled);
        let held = begun.into_iter().map(|lock| (lock, state.held.remove(&lock)));
        (held.collect::<Vec<_>>(), state.name_of(id))
    };
    if held.is_empty() {
        return Ok(());
    }
    event_log::suspended(id, &name, held.len(), by);
    let release = Release::of_locks(components, id, held, Reason::Suspended);
    release.run_until_done().await?.wait().await;
    Ok(())
}

/// Resumes an owner: acquires all of its suspended locks again, or none. For an owner that is
/// not suspended it does nothing and succeeds.
pub(in crate::service) async fn resume(
    components: &Arc<Components>,
    id: OwnerId,
    wait: Option<Wait>,
) -> Result<Granted, Error> {
    let command_lock = components.state.lock_commands(id).await?;
    let wants = components.state().table.remembered(id)?;
    if wants.is_empty() {
        return Ok(Granted { locks: Vec::new(), fresh: Vec::new(), waited: false });
    }
    let requests = wants.into_iter().map(|want| {
        let mode = want.mode;
        // The owner held the disk before.
        let (disk, in_use) = (Disk::Remembered(Box::new(want)), InUse::Allowed);
        LockRequest { disk, mode, in_use, with_lease: false, named_by: None }
    });
    let resumption = Acquisition::new(components, id, requests.collect(), Again::Same).resuming();
    wait::run(components, resumption, Some(command_lock), wait).await
}
