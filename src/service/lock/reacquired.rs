//! Locks that the service acquired again by itself after a restart, and their adoption by libvirt.
//!
//! Without a descriptor store, a service that was killed acquires its locks again from their
//! records ([`crate::service::verify`]). A guest may have been suspended meanwhile: libvirt could
//! not release its locks while the service was down. libvirt acquires them when the guest resumes,
//! and would be refused because of the guest's own locks. So the next request of the same owner,
//! that is the same VM and process, adopts such a lock: the existing lock is returned. A further
//! request is refused or counted as usual.
//!
//! The step of the record ([`EntryStage::Reacquired`]) marks these locks, so that the mark outlives the
//! service.

use super::acquire::Request;
use crate::keep::EntryStage;
use crate::lock::table::Again;
use crate::lock::{Lock, Mode, OwnerId, Proof, Want};
use crate::service::core::state::State;
use crate::service::wait::Granted;
use crate::service::{Error, Publication, Service, verify};

impl State {
    /// Returns the lock on this resource that was acquired again for this owner and is not adopted
    /// yet.
    fn reacquired_lock(&self, id: OwnerId, want: &Want) -> Option<&Lock> {
        let locks = self.reacquired.iter().filter_map(|number| self.table.lock(*number));
        let mut matching = locks.filter(|lock| {
            lock.owner == id && lock.want.is_same(want) && lock.want.lockspace == want.lockspace
        });
        matching.next()
    }
}

impl Request {
    /// Answers the request with a lock that the service acquired again by itself. The caller has
    /// the owner's command lock and the permits of the file systems. Returns `None` if there is no
    /// such lock or it is lost.
    ///
    /// # Errors
    ///
    /// The errors of a conversion, if the lock is requested in another mode.
    pub(in crate::service) fn adopt(&self) -> Result<Option<(Granted, Publication)>, Error> {
        let (service, wants) = (&self.service, self.wants());
        let ([want], [in_use], Again::Count) = (&*wants, &*self.in_use, self.again) else {
            return Ok(None);
        };
        let found = service.state().reacquired_lock(self.id, want).cloned();
        let Some(lock) = found else { return Ok(None) };
        if lock.proof != Proof::Verified {
            // Its verification may be in progress; this waits for the thread that performs it.
            verify::Verification::new(service, &lock).look();
        }
        let is_verified = |lock: &Lock| lock.proof == Proof::Verified;
        if !service.lock(lock.id).as_ref().is_some_and(is_verified) {
            return Ok(None);
        }
        let shown = match (lock.want.mode, want.mode) {
            (held, wanted) if held == wanted => Publication::default(),
            (Mode::None, _) | (_, Mode::None) => return Ok(None),
            (_, wanted) => service.convert_here(&lock, wanted, *in_use)?,
        };
        service.mark_adopted(&lock);
        let granted = Granted { locks: vec![lock.id], fresh: Vec::new(), waited: false };
        Ok(Some((granted, shown)))
    }
}

impl Service {
    fn mark_adopted(&self, lock: &Lock) {
        self.state().reacquired.remove(&lock.id);
        if let Err(error) = self.keep().mark_locks(&[lock.id], EntryStage::Held) {
            tracing::error!(%error, lock = lock.id, "cannot update the record of lock {}", lock.id);
        }
        let owner = lock.owner;
        tracing::info!(
            lock = lock.id,
            owner.uuid = %owner.uuid,
            owner.uid = owner.uid,
            "{} uses the lock on {} that vmlockd reacquired after a restart",
            self.vm(owner),
            crate::lock::text::escape::shown(&lock.want.resource)
        );
    }
}
