//! Suspension of an owner: it releases its locks for a while, since its VM is paused or moves to
//! another host.
//!
//! The locks are released as usual, except that their records mark them as suspended before the
//! first of them is unlocked. A suspended owner neither waits nor acquires locks until all
//! suspended locks are acquired again at once. After a crash in between, a restart finds everything
//! suspended, or completes the suspension.

use std::collections::BTreeSet;

use super::acquire::Request;
use super::release::ReleaseSteps;
use crate::lock::disk::in_use::InUse;
use crate::lock::table::Again;
use crate::lock::{self, OwnerId, Reason};
use crate::service::lock::request::{Disk, LockRequest};
use crate::service::report::event_log;
use crate::service::wait::{Granted, Wait, Why};
use crate::service::{Error, Service};

impl Service {
    /// Suspends an owner: releases all of its locks and remembers them. An owner that is already
    /// suspended stays so. The arguments are as in [`Self::close`].
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchOwner`], [`lock::Error::OfferedAlready`], [`lock::Error::NotLockable`]
    /// for a resource that could not be looked up again; [`Error::NeedsForce`],
    /// [`Error::MoreLocks`].
    pub async fn suspend(
        &self,
        id: OwnerId,
        known: &BTreeSet<u64>,
        by: u32,
        force: bool,
    ) -> Result<(), Error> {
        let _turn = self.turn(id).await?;
        let (held, name) = {
            let mut state = self.state();
            self.check_taking(&state, id, known, by, force)?;
            if state.table.living(id)?.offer.is_some() {
                return Err(lock::Error::OfferedAlready(id).into());
            }
            let begun = state.table.begin_suspension(id)?;
            state.withdraw(|waiter| waiter.owner == id, Why::Cancelled);
            let held = begun.into_iter().map(|lock| (lock, state.held.remove(&lock)));
            (held.collect::<Vec<_>>(), state.name_of(id))
        };
        if held.is_empty() {
            return Ok(());
        }
        event_log::suspended(id, &name, held.len(), by);
        let story = ReleaseSteps::of_locks(self, id, held, Reason::Suspended);
        self.run_release(story).await?.wait().await;
        Ok(())
    }

    /// Resumes an owner: acquires all of its suspended locks again, or none. For an owner that is
    /// not suspended it does nothing and succeeds.
    ///
    /// # Errors
    ///
    /// As for [`Self::acquire`]; the owner then remains suspended.
    pub async fn resume(&self, id: OwnerId, wait: Option<Wait>) -> Result<Granted, Error> {
        let turn = self.turn(id).await?;
        let wants = self.state().table.remembered(id)?;
        if wants.is_empty() {
            return Ok(Granted { locks: Vec::new(), fresh: Vec::new(), waited: false });
        }
        let asks = wants.into_iter().map(|want| {
            let mode = want.mode;
            // The owner held the disk before.
            let (disk, in_use) = (Disk::Remembered(Box::new(want)), InUse::Allowed);
            LockRequest { disk, mode, in_use, with_lease: false, named_by: None }
        });
        let request = Request::new(self, id, asks.collect(), Again::Same).resuming();
        self.persist(request, Some(turn), wait).await
    }
}
