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

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;

use crate::failpoint::failpoint;
use crate::keep::{EntryStage, FormerLock, LockRecord, OfferRecord, Record, StateEntry};
use crate::lock::model::owner::Offer;
use crate::lock::request::{Asked, Work};
use crate::lock::table::Move;
use crate::lock::{self, Event, OwnerId, Reason};
use crate::service::core::state::State;
use crate::service::report::event_log::{self, EventBatch};
use crate::service::wait::Why;
use crate::service::{Error, Publication, Service, now};

/// Returns microseconds since boot, independent of clock changes; 0 if the kernel does not report
/// them.
pub(in crate::service) fn since_boot() -> u64 {
    let now = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

impl Service {
    /// Offers all locks of an owner, for a limited time. The arguments are as in [`Self::suspend`].
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchOwner`], [`lock::Error::OfferedAlready`],
    /// [`lock::Error::NothingToOffer`], [`Error::NeedsForce`], [`Error::MoreLocks`],
    /// [`Error::Keep`].
    pub async fn offer(
        &self,
        id: OwnerId,
        known: &std::collections::BTreeSet<u64>,
        by: u32,
        force: bool,
        patience: Duration,
    ) -> Result<Uuid, Error> {
        let _turn = self.turn(id).await?;
        let offer = {
            let mut state = self.state();
            state.check_open()?;
            self.check_taking(&state, id, known, by, force)?;
            let patience = u64::try_from(patience.as_micros()).unwrap_or(u64::MAX);
            let until = since_boot().saturating_add(patience);
            let offer = Offer { token: Uuid::new_v4(), until, record: state.next_anchor() };
            state.table.offer(id, offer)?;
            offer
        };
        if let Err(error) =
            self.storage().run(RecordOffer { service: self.clone(), id, offer }).await?
        {
            self.state().table.withdraw_offer(id, Some(offer.token));
            return Err(error);
        }
        tracing::info!(owner.uuid = %id.uuid, owner.uid = id.uid, caller.uid = by, "{} offers its locks to another owner, on request of uid {by}", self.vm(id));
        self.expire_later(id, offer);
        Ok(offer.token)
    }

    /// Transfers the locks of an offer to an owner.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchOffer`] and the other errors of [`lock::Table::begin_adoption`];
    /// [`Error::Limit`], [`Error::Keep`]. The source then still holds the locks.
    pub async fn adopt(&self, to: OwnerId, token: Uuid) -> Result<Vec<u64>, Error> {
        let from = self.state().table.offered(token)?;
        if from == to {
            return Err(lock::Error::OwnOffer(to).into());
        }
        // Both command locks in a fixed order, so that two transfers cannot deadlock.
        let _first = self.turn(from.min(to)).await?;
        let _second = self.turn(from.max(to)).await?;
        let adopt = Adopt { service: self.clone(), from, to, token };
        let (locks, shown) = self.storage().run(adopt).await??;
        shown.wait().await;
        Ok(locks)
    }

    /// Withdraws an offer when it expires.
    pub(in crate::service) fn expire_later(&self, id: OwnerId, offer: Offer) {
        let service = self.clone();
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
            let withdraw = Withdraw { service: service.clone(), id, token: Some(offer.token) };
            if let Err(error) = service.storage().run_at_last(withdraw).await {
                tracing::error!(%error, "cannot withdraw an expired offer of locks");
            }
        });
    }

    /// Withdraws an owner's offer. An owner without any anchor ends with its offer.
    pub(in crate::service) async fn withdraw_offer(&self, id: OwnerId) -> Result<(), Error> {
        self.storage().run(Withdraw { service: self.clone(), id, token: None }).await
    }

    /// Ends an owner that has lost its last anchor during its offer.
    fn end_if_left(&self, id: OwnerId) {
        let left = |state: &State| {
            let owner = state.table.living(id)?;
            let left = owner.anchors.is_empty() && owner.offer.is_none();
            left.then_some(()).ok_or(lock::Error::OwnerExists(id).into())
        };
        if let Err(error) = self.end_here(id, Reason::OwnerGone, left) {
            tracing::trace!(owner.uuid = %id.uuid, %error, "not ending an owner");
        }
    }

    /// Performs steps 3 to 5 on a worker thread. An error includes the locks that now have no owner
    /// and must be released.
    pub(in crate::service) fn carry(&self, moved: &Move) -> Result<Publication, (Error, Vec<u64>)> {
        let Move { from, to, remembered, locks } = moved;
        let resumes =
            self.state().table.owner(*to).map(|owner| owner.suspended.keys().copied().collect());
        let resumes: Vec<u64> = resumes.filter(|_| !*remembered).unwrap_or_default();
        let mut lines = Vec::with_capacity(locks.len());
        for (old, lock) in locks {
            let held = self.state().held.get(old).cloned();
            let kept = held.map_or((*from, *old), |held| held.kept_as(*from, *old));
            let former = FormerLock::new(*from, *old, *remembered);
            let stashed_as = FormerLock::new(kept.0, kept.1, false);
            let record = LockRecord::from(lock).transferred(former, stashed_as, resumes.clone());
            let line = StateEntry {
                stage: EntryStage::Held,
                mode: Some(lock.want.mode),
                record: Record::Lock(Box::new(record)),
            };
            lines.push(line);
        }
        let old: Vec<u64> = locks.iter().map(|(old, _)| *old).collect();
        let new: Vec<u64> = locks.iter().map(|(_, lock)| lock.id).collect();
        failpoint("move-decided");
        let noted = self.keep().put_moved(&lines).and_then(|()| {
            failpoint("move-noted");
            let left = if *remembered { EntryStage::Suspended } else { EntryStage::Removed };
            self.keep().mark_locks(&old, left)?;
            self.keep().mark_locks(&resumes, EntryStage::Removed)
        });
        failpoint("move-marked");
        let ended = noted.and_then(|()| self.end_move(moved));
        match ended {
            Ok(shown) => {
                self.sign_anew(*to);
                failpoint("move-done");
                Ok(shown)
            }
            Err(error) => {
                // Rollback: the source's records first, so that every lock has a record at each
                // moment.
                let back = self.keep().mark_locks(&old, EntryStage::Held);
                let back = back.and(self.keep().mark_locks(&resumes, EntryStage::Suspended));
                if let Err(error) = back.and(self.keep().mark_locks(&new, EntryStage::Removed)) {
                    tracing::error!(%error, "cannot remove the record of a handover that failed");
                }
                Err((error, self.state().table.cancel_move(moved)))
            }
        }
    }

    /// Performs step 5.
    fn end_move(&self, moved: &Move) -> Result<Publication, Error> {
        let mut state = self.state();
        let (events, _) = state.table.end_move(moved)?;
        for (old, lock) in &moved.locks {
            if let Some(held) = state.held.remove(old) {
                state.held.insert(lock.id, held);
            }
        }
        if moved.remembered {
            // Like a suspended owner, the source must not acquire further locks. Under the same
            // mutex: a waiting upgrade of one of these locks is cancelled and does not fail with a
            // missing lock.
            state.withdraw(|waiter| waiter.owner == moved.from, Why::Cancelled);
        }
        let shown = state.publish(events.clone());
        self.counts().moved(&events);
        self.verify_these(moved.locks.iter().map(|(_, lock)| lock));
        let said = events.into_iter().filter(|event| matches!(event, Event::LockAcquired(_)));
        Ok(shown.and_say(EventBatch::new(state.name_of(moved.to), said.collect())))
    }
}

/// Records an offer.
struct RecordOffer {
    service: Service,
    id: OwnerId,
    offer: Offer,
}

impl Work for RecordOffer {
    type Answer = Result<(), Error>;

    fn perform(self) -> Self::Answer {
        self.service.keep().put_offer(OfferRecord::new(self.id, self.offer))?;
        failpoint("offer-noted");
        Ok(())
    }
}

/// Withdraws an offer.
struct Withdraw {
    service: Service,
    id: OwnerId,
    token: Option<Uuid>,
}

impl Work for Withdraw {
    type Answer = ();

    fn asks(&self) -> Vec<Asked<'_>> {
        // An owner that only the offer keeps alive ends with it, and all of its locks are released.
        let owner = self.service.owner(self.id);
        let goes = owner.is_some_and(|owner| owner.anchors.is_empty());
        if goes { self.service.asks_of(self.id) } else { Vec::new() }
    }

    fn perform(self) {
        let Self { service, id, token } = self;
        let withdrawn = service.state().table.withdraw_offer(id, token);
        let Some(offer) = withdrawn else { return };
        service.forget_offer(offer);
        tracing::info!(owner.uuid = %id.uuid, owner.uid = id.uid, "the offer of the locks of {} has ended", service.vm(id));
        service.end_if_left(id);
    }
}

/// An adoption: steps 2 to 5.
struct Adopt {
    service: Service,
    from: OwnerId,
    to: OwnerId,
    token: Uuid,
}

impl Work for Adopt {
    type Answer = Result<(Vec<u64>, Publication), Error>;

    fn perform(self) -> Self::Answer {
        let Self { service, from, to, token } = self;
        let (moved, offer) = {
            let mut state = service.state();
            state.check_open()?;
            let offer = state.table.owner(from).and_then(|owner| owner.offer);
            let moved = state.table.begin_adoption(token, to, now())?;
            let count = moved.locks.len();
            if let Err(error) =
                state.check_quota(service.0.exempt, to.uid, |usage| usage.count_locks(count))
            {
                state.table.cancel_move(&moved);
                return Err(error);
            }
            (moved, offer)
        };
        let shown = match service.carry(&moved) {
            Ok(shown) => shown,
            Err((error, left)) => {
                service.release_left(from, left);
                return Err(error);
            }
        };
        if let Some(offer) = offer {
            service.forget_offer(offer);
        }
        let name = |id| service.state().name_of(id);
        event_log::handed_over((to, &name(to)), (from, &name(from)), moved.locks.len());
        service.end_if_left(from);
        Ok((moved.locks.iter().map(|(_, lock)| lock.id).collect(), shown))
    }
}

impl Service {
    fn forget_offer(&self, offer: Offer) {
        if let Err(error) = self.keep().forget_offer(offer.record) {
            tracing::error!(%error, "cannot remove the record of an offer that ended");
        }
    }

    /// Releases the locks of a source that ended during the transfer.
    fn release_left(&self, from: OwnerId, left: Vec<u64>) {
        if left.is_empty() {
            return;
        }
        let locks = {
            let mut state = self.state();
            left.into_iter().map(|lock| (lock, state.held.remove(&lock))).collect()
        };
        drop(super::release::ReleaseSteps::of_locks(self, from, locks, Reason::OwnerGone).run());
        self.owner_went();
    }
}
