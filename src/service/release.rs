//! How locks end: by command, by force, with their owner.
//!
//! 1. The table takes the lock off the list, but keeps it in the way of others.
//! 2. Its lock file is removed, its byte unlocked, its descriptor closed.
//! 3. The table forgets it: from here on others may have it.
//! 4. The world is told, with the reason.
//!
//! An owner that ends takes the same steps with all it holds. It does not wait for its turn: a
//! command that is under way finds out at its commit, and gives back what it took.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::state::State;
use super::{Error, Service, Shown};
use crate::lock::held::{Give, Held};
use crate::lock::printable::shown;
use crate::lock::{self, OwnerId, Reason};

impl Service {
    /// Releases locks of one owner, all of them or none.
    ///
    /// `by` is who asks: what a living owner of another user holds is broken only with `force`.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchLock`] for one that this owner does not hold, [`Error::NeedsForce`].
    pub async fn release(
        &self,
        id: OwnerId,
        locks: &[u64],
        by: u32,
        force: bool,
    ) -> Result<(), Error> {
        let _turn = self.turn(id).await?;
        let foreign = by != id.uid;
        let held = {
            let mut state = self.state();
            for number in locks {
                match state.table.lock(*number) {
                    Some(lock) if lock.owner == id => {}
                    _ => return Err(lock::Error::NoSuchLock(*number).into()),
                }
            }
            if foreign && !force {
                self.refuse_to_break(&state, id, locks)?;
            }
            let mut begun = Vec::with_capacity(locks.len());
            for number in locks {
                // A number that stands twice in the request is released by its first.
                if state.table.begin_release(*number).is_ok() {
                    begun.push((*number, state.held.remove(number)));
                }
            }
            begun
        };
        let reason = if foreign { Reason::Forced } else { Reason::Released };
        if foreign {
            tracing::warn!(owner = %id.uuid, uid = id.uid, by, locks = ?locks, "locks broken by force");
        }
        self.give_up(held, reason).await.wait().await;
        Ok(())
    }

    /// Closes an owner: whatever it holds is released, whatever keeps it alive.
    ///
    /// For another user's owner, `known` are the locks that the caller may break: had the owner
    /// got more since he was asked, nothing is done.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchOwner`], [`Error::NeedsForce`] as for [`Self::release`],
    /// [`Error::MoreLocks`].
    pub async fn close(
        &self,
        id: OwnerId,
        known: &BTreeSet<u64>,
        by: u32,
        force: bool,
    ) -> Result<(), Error> {
        if by == id.uid {
            return self.end(id, Reason::OwnerClosed, |_| Ok(())).await;
        }
        let check = |state: &State| {
            let locks = &state.table.living(id)?.locks;
            if !locks.is_subset(known) {
                return Err(Error::MoreLocks);
            }
            if !force {
                let locks: Vec<u64> = locks.iter().copied().collect();
                self.refuse_to_break(state, id, &locks)?;
            }
            Ok(())
        };
        self.end(id, Reason::Forced, check).await?;
        tracing::warn!(owner = %id.uuid, uid = id.uid, by, "owner closed by another user");
        Ok(())
    }

    /// Ends an owner, if `check` agrees at that very moment.
    pub(super) async fn end(
        &self,
        id: OwnerId,
        reason: Reason,
        check: impl FnOnce(&State) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (held, gone) = {
            let mut state = self.state();
            check(&state)?;
            let (locks, events) = state.table.end_owner(id)?;
            // Closes our ends of its leases, and its turn to all who come after.
            drop(state.kept.remove(&id));
            let held: Vec<_> =
                locks.into_iter().map(|lock| (lock, state.held.remove(&lock))).collect();
            (held, state.publish(events))
        };
        tracing::info!(owner = %id.uuid, uid = id.uid, locks = held.len(), reason = reason.as_str(), "owner ended");
        self.give_up(held, reason).await.wait().await;
        gone.wait().await;
        Ok(())
    }

    /// Steps 2 to 4.
    async fn give_up(&self, locks: Vec<(u64, Option<Arc<Held>>)>, reason: Reason) -> Shown {
        let (numbers, held): (Vec<u64>, Vec<Option<Arc<Held>>>) = locks.into_iter().unzip();
        let gives: Vec<Give> = held.into_iter().flatten().map(Give).collect();
        if !gives.is_empty() {
            // One that ended without an answer closed its files, which frees them; it is logged.
            let failures = self.storage().run(gives).await.unwrap_or_default();
            for failure in failures.into_iter().flatten() {
                tracing::error!(%failure, "a lock is released, but not all of it could be undone");
            }
        }
        let (events, told) = {
            let mut state = self.state();
            let events = state.table.finish_release(&numbers, reason);
            let told = state.publish(events.clone());
            (events, told)
        };
        for event in &events {
            if let lock::Event::LockReleased(lock, reason) = event {
                let (resource, id) = (shown(&lock.want.resource), lock.owner);
                let reason = reason.as_str();
                tracing::info!(lock = lock.id, owner = %id.uuid, uid = id.uid, reason, "released {resource}");
            }
        }
        self.owner_went();
        told
    }

    fn refuse_to_break(&self, state: &State, id: OwnerId, locks: &[u64]) -> Result<(), Error> {
        let owner = state.table.living(id)?;
        match locks.first() {
            // The instance of one user, whatever uid he calls himself, is all his.
            Some(lock) if self.0.exempt != super::Exempt::Everybody => {
                Err(Error::NeedsForce { lock: *lock, name: owner.name.clone(), uid: id.uid })
            }
            _ => Ok(()),
        }
    }
}
