//! Locks that the service acquired again by itself after a restart, and their adoption by libvirt.
//!
//! Without a descriptor store, a service that was killed acquires its locks again from their
//! records ([`crate::service::verify`]). A guest may have been suspended meanwhile: libvirt could
//! not release its locks while the service was down. libvirt acquires them when the guest resumes,
//! and would be refused because of the guest's own locks. So the next request of the same owner,
//! that is the same VM and process, adopts such a lock: the existing lock is returned. A further
//! request is refused or counted as usual.
//!
//! The step of the record ([`EntryStage::Reacquired`]) marks these locks, so that the mark outlives
//! the service.

use std::sync::Arc;

use crate::keep::EntryStage;
use crate::lock::disk::in_use::InUse;
use crate::lock::text::escape::shown;
use crate::lock::{Lock, Mode, OwnerId, Proof, Want};
use crate::service::components::Components;
use crate::service::core::error::Error;
use crate::service::lock::convert::Conversion;
use crate::service::state::events::Publication;
use crate::service::verify::Verification;
use crate::service::wait::Granted;

/// Answers a request for one lock with a lock that the service acquired again by itself. The caller
/// has the owner's command lock and the permits of the file systems. Returns `None` if there is no
/// such lock or it is lost.
///
/// # Errors
///
/// The errors of a conversion, if the lock is requested in another mode.
pub(super) fn adopt(
    components: &Arc<Components>,
    id: OwnerId,
    want: &Want,
    in_use: InUse,
) -> Result<Option<(Granted, Publication)>, Error> {
    let found = components.state().reacquired_lock(id, want).cloned();
    let Some(lock) = found else { return Ok(None) };
    if lock.proof != Proof::Verified {
        // Its verification may be in progress; this waits for the thread that performs it.
        Verification::new(&components.verifier, &lock).verify();
    }
    let is_verified = |lock: &Lock| lock.proof == Proof::Verified;
    if !components.state.held_lock(lock.id).as_ref().is_some_and(is_verified) {
        return Ok(None);
    }
    let publication = match (lock.want.mode, want.mode) {
        (held, wanted) if held == wanted => Publication::default(),
        (Mode::None, _) | (_, Mode::None) => return Ok(None),
        (_, wanted) => Conversion::new(components, &lock, wanted, in_use).attempt_here()?,
    };
    mark_adopted(components, &lock);
    let granted = Granted { locks: vec![lock.id], fresh: Vec::new(), waited: false };
    Ok(Some((granted, publication)))
}

fn mark_adopted(components: &Components, lock: &Lock) {
    components.state().reacquired.remove(&lock.id);
    if let Err(error) = components.journal.mark_locks(&[lock.id], EntryStage::Held) {
        tracing::error!(%error, lock = lock.id, "cannot update the record of lock {}", lock.id);
    }
    let owner = lock.owner;
    tracing::info!(
        lock = lock.id,
        owner.uuid = %owner.uuid,
        owner.uid = owner.uid,
        "{} uses the lock on {} that vmlockd reacquired after a restart",
        components.state.vm(owner),
        shown(&lock.want.resource)
    );
}
