//! Looks again at what locked disks lie on, before another lock is granted.

use super::Service;
use crate::lock::mount::Mounts;
use crate::lock::printable::shown;
use crate::lock::renewal::renewed;

impl Service {
    /// Enters into the table what locked disks lie on by now. Costs nothing where no disk is locked that
    /// may lie on something else than before. For a storage thread.
    pub(super) fn renew_stacks(&self) {
        let locks = self.state().table.changeable();
        if locks.is_empty() {
            return;
        }
        let Ok(mounts) = Mounts::now() else { return };
        for lock in locks {
            let Some(renewed) = renewed(&lock.want, &mounts) else { continue };
            let others = self.state().table.enter_renewed(&lock, renewed);
            let resource = shown(&lock.want.resource);
            tracing::info!(
                lock = lock.id,
                "{resource} lies on something else than when it was locked"
            );
            for other in others {
                let other = shown(&other.want.resource);
                tracing::error!(
                    lock = lock.id,
                    "{resource} now shares data with {other}, and different owners hold a lock on each"
                );
            }
        }
    }
}
