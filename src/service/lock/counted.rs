//! Commands of libvirt's protocol, which counts the locks of an owner: a request conflicts with the
//! owner's own locks too, and a release is for the newest lock on a resource.
//!
//! These functions block. Call them on a frontend's own thread.

use std::sync::Arc;
use std::time::Duration;

use crate::lock::lockspace::LockspaceKind;
use crate::lock::table::Again;
use crate::lock::{OwnerId, Reason};
use crate::service::components::Components;
use crate::service::core::error::Error;
use crate::service::lock::acquire::Acquisition;
use crate::service::lock::release::Release;
use crate::service::lock::request::LockRequest;
use crate::service::state::events::Publication;

/// The backlog of events above which clients are throttled.
const BACKLOG: usize = 4096;
/// The maximum delay of a throttled client, in units of [`PAUSE`].
const PAUSES: u32 = 100;
/// The unit of the delay.
const PAUSE: Duration = Duration::from_millis(1);

/// Acquires one lock, which conflicts with the owner's own locks as with the locks of other
/// owners. The result is logged when the answer is dropped.
pub(in crate::service) fn acquire(
    components: &Arc<Components>,
    id: OwnerId,
    request: LockRequest,
) -> Result<Publication, Error> {
    throttle(components);
    components.suspects_gate.pass_here();
    let _command_lock = components.state.lock_commands_here(id)?;
    let acquisition = Acquisition::new(components, id, vec![request], Again::Count);
    let (_, publication) = acquisition.attempt_here()?;
    Ok(publication)
}

/// Releases the newest lock of an owner on a resource, and reserves the resource for the owner
/// for the grace period. Returns `None` if the owner has no such lock.
pub(in crate::service) fn release(
    components: &Arc<Components>,
    id: OwnerId,
    lockspace: LockspaceKind,
    resource: &str,
) -> Result<Option<Publication>, Error> {
    throttle(components);
    let _command_lock = components.state.lock_commands_here(id)?;
    let (begun, grace) = {
        let mut state = components.state();
        let named = state.table.named(id, lockspace, resource).map(|lock| lock.id);
        let Some(number) = named else { return Ok(None) };
        state.table.begin_release(number)?;
        ((number, state.held.remove(&number)), state.settings.release_grace)
    };
    // libvirt may only have paused the VM for a moment.
    let release =
        Release::of_locks(components, id, vec![begun], Reason::Released).reserved_for(grace);
    let publication = release.unawaited().run();
    components.owner_removed.notify_waiters();
    Ok(Some(publication))
}

/// Throttles the client while too many events are not yet sent to the bus: the backlog takes
/// memory. The delay is bounded, since libvirt's protocol does not depend on the bus.
fn throttle(components: &Components) {
    for _ in 0..PAUSES {
        if components.backlog.count() < BACKLOG {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}
