//! Commands of D-Bus callers.

use std::os::fd::OwnedFd;
use std::time::Duration;

use uuid::Uuid;

use crate::lock::disk::in_use::InUse;
use crate::lock::table::Again;
use crate::lock::{self, Mode, OwnerId};
use crate::service::core::error::{CancelReason, Error};
use crate::service::facade::Service;
use crate::service::lock::acquire::Acquisition;
use crate::service::lock::convert::Conversion;
use crate::service::lock::force::OwnerRelease;
use crate::service::lock::request::LockRequest;
use crate::service::lock::{end, release, suspend, transfer};
use crate::service::owner::anchors::{self, NewAnchor};
use crate::service::owner::open::{self, Opening};
use crate::service::wait::{self, Granted, Wait};

impl Service {
    /// Acquires all requested locks for an owner, or none. The answer has the order of the request,
    /// with the existing lock for a resource that the owner already holds in the same mode.
    ///
    /// # Errors
    ///
    /// [`Error::Held`] and [`Error::HeldElsewhere`] with a sentence that names the holder; if the
    /// request may wait, [`Error::TimedOut`], [`Error::Cancelled`], [`Error::CallerGone`];
    /// [`Error::Limit`], and the errors in [`crate::lock::Error`].
    pub async fn acquire(
        &self,
        id: OwnerId,
        requests: Vec<LockRequest>,
        wait: Option<Wait>,
    ) -> Result<Granted, Error> {
        let acquisition = Acquisition::new(&self.0, id, requests, Again::Same);
        wait::run_locked(&self.0, acquisition, wait).await
    }

    /// Changes the mode of a held lock. The current mode is accepted and changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Held`] and [`Error::HeldElsewhere`] if others share the lock, the errors of
    /// waiting, and the errors in [`crate::lock::Error`]; the lock is then unchanged.
    pub async fn convert(
        &self,
        number: u64,
        mode: Mode,
        in_use: InUse,
        wait: Option<Wait>,
    ) -> Result<Granted, Error> {
        let lock = self.0.state.held_lock(number).ok_or(lock::Error::NoSuchLock(number))?;
        let conversion = Conversion::new(&self.0, &lock, mode, in_use);
        wait::run_locked(&self.0, conversion, wait).await
    }

    /// Releases locks of one owner, all of them or none.
    ///
    /// `by` is the user of the caller on the bus: the locks of a live owner of another user or
    /// frontend are released only with `force`.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchLock`] for a lock that this owner does not hold, [`Error::NeedsForce`].
    pub async fn release(
        &self,
        id: OwnerId,
        locks: &[u64],
        by: u32,
        force: bool,
    ) -> Result<(), Error> {
        release::release(&self.0, id, locks, by, force).await
    }

    /// Closes an owner: releases all of its locks, whatever keeps the owner alive.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchOwner`], [`Error::NeedsForce`] as for [`Self::release`],
    /// [`Error::MoreLocks`].
    pub async fn close(&self, request: OwnerRelease<'_>) -> Result<(), Error> {
        end::close(&self.0, request).await
    }

    /// Suspends an owner: releases all of its locks and remembers them. An owner that is already
    /// suspended stays so.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchOwner`], [`lock::Error::OfferedAlready`], [`lock::Error::NotLockable`]
    /// for a resource that could not be looked up again; [`Error::NeedsForce`],
    /// [`Error::MoreLocks`].
    pub async fn suspend(&self, request: OwnerRelease<'_>) -> Result<(), Error> {
        suspend::suspend(&self.0, request).await
    }

    /// Resumes an owner: acquires all of its suspended locks again, or none. For an owner that is
    /// not suspended it does nothing and succeeds.
    ///
    /// # Errors
    ///
    /// As for [`Self::acquire`]; the owner then remains suspended.
    pub async fn resume(&self, id: OwnerId, wait: Option<Wait>) -> Result<Granted, Error> {
        suspend::resume(&self.0, id, wait).await
    }

    /// Offers all locks of an owner, for a limited time.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchOwner`], [`lock::Error::OfferedAlready`],
    /// [`lock::Error::NothingToOffer`], [`Error::NeedsForce`], [`Error::MoreLocks`],
    /// [`Error::Keep`].
    pub async fn offer(
        &self,
        request: OwnerRelease<'_>,
        patience: Duration,
    ) -> Result<Uuid, Error> {
        transfer::offer(&self.0, request, patience).await
    }

    /// Transfers the locks of an offer to an owner.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchOffer`] and the other errors of [`lock::Table::begin_adoption`];
    /// [`Error::Limit`], [`Error::Keep`]. The source then still holds the locks.
    pub async fn adopt(&self, to: OwnerId, token: Uuid) -> Result<Vec<u64>, Error> {
        transfer::adopt(&self.0, to, token).await
    }

    /// Opens an owner together with the requested locks, or not at all.
    ///
    /// # Errors
    ///
    /// [`lock::Error::OwnerExists`], [`Error::Limit`], and the errors of [`Self::acquire`].
    pub async fn open(&self, opening: Opening, wait: Option<Wait>) -> Result<Granted, Error> {
        open::open(&self.0, opening, wait).await
    }

    /// Creates another lifeline of an owner.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchOwner`], [`Error::Limit`], and if the process is out of descriptors.
    pub async fn new_lifeline(&self, id: OwnerId) -> Result<OwnedFd, Error> {
        anchors::new_lifeline(&self.0, id).await
    }

    /// Adds another anchor to an owner.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchOwner`], [`Error::Limit`].
    pub async fn bind(&self, id: OwnerId, anchor: NewAnchor) -> Result<(), Error> {
        anchors::bind(&self.0, id, anchor).await
    }

    /// Cancels all waits of an owner, and withdraws its offer; returns how many waits were
    /// cancelled.
    ///
    /// # Errors
    ///
    /// [`crate::lock::Error::NoSuchOwner`].
    pub async fn cancel(&self, id: OwnerId) -> Result<usize, Error> {
        let cancelled = {
            let mut state = self.0.state();
            state.table.living(id)?;
            state.cancel_waits(|waiter| waiter.owner == id, CancelReason::Cancelled)
        };
        transfer::withdraw_offer(&self.0, id).await?;
        Ok(cancelled)
    }
}
