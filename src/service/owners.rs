//! How owners come, and what keeps them.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::limits::Usage;
use super::{Ask, Error, Service, now};
use crate::life::{Lease, Process};
use crate::lock::owner::AnchorId;
use crate::lock::{self, Anchor, Event, Front, Owner, OwnerId, Reason};

/// An owner that is about to be opened.
#[derive(Debug)]
pub struct Opening {
    /// Which one.
    pub id: OwnerId,
    /// The machine's name, checked.
    pub name: String,
    /// How it comes in.
    pub front: Front,
    /// What will keep it alive; never empty.
    pub anchors: Vec<NewAnchor>,
    /// What it shall hold from the first moment.
    pub asks: Vec<Ask>,
}

/// An anchor before somebody watches it.
#[derive(Debug)]
pub enum NewAnchor {
    /// Our end of a pipe.
    Lease(Lease),
    /// A process.
    Process(Process),
    /// Stays until closed.
    Manual,
}

impl NewAnchor {
    fn anchor(&self) -> Anchor {
        match self {
            Self::Lease(_) => Anchor::Lease,
            Self::Process(process) => Anchor::Process { pid: process.pid() },
            Self::Manual => Anchor::Manual,
        }
    }
}

impl Service {
    /// Opens an owner, with what it asks for, or not at all.
    ///
    /// # Errors
    ///
    /// [`lock::Error::OwnerExists`], [`Error::Limit`], and those of [`Self::acquire`].
    pub async fn open(&self, opening: Opening) -> Result<Vec<u64>, Error> {
        let Opening { id, name, front, anchors, asks } = opening;
        let turn = loop {
            // A machine that is started again while its old owner is still giving up its locks
            // is not told that it exists, but let in after it.
            let gone = self.0.went.notified();
            tokio::pin!(gone);
            gone.as_mut().enable();
            if self.state().table.owner(id).is_some_and(|owner| owner.ended) {
                gone.await;
                continue;
            }
            break self.enter(id, &name, front, &anchors, asks.len())?;
        };
        for anchor in anchors {
            self.watch(id, anchor)?;
        }
        let opened = vec![Event::OwnerOpened(id)];
        match self.acquire_in_turn(id, asks, opened).await {
            Ok(locks) => {
                tracing::info!(owner = %id.uuid, uid = id.uid, "opened VM \"{name}\"");
                drop(turn);
                Ok(locks)
            }
            Err(error) => {
                // It was never shown, so nobody is told of its end; and it may have ended by itself.
                let mut state = self.state();
                if state.table.end_owner(id).is_ok() {
                    drop(state.kept.remove(&id));
                }
                drop(state);
                self.owner_went();
                Err(error)
            }
        }
    }

    /// Enters an owner into the table, without anchors, its first turn taken.
    fn enter(
        &self,
        id: OwnerId,
        name: &str,
        front: Front,
        anchors: &[NewAnchor],
        locks: usize,
    ) -> Result<OwnedMutexGuard<()>, Error> {
        let mut state = self.state();
        state.check_open()?;
        state.check_quota(self.0.exempt, id.uid, |usage| {
            usage.count_owner();
            usage.count_locks(locks);
            for anchor in anchors {
                usage.count(anchor.anchor());
            }
        })?;
        state.table.open_owner(Owner::new(id, name.to_owned(), front, now()))?;
        let kept = state.kept.entry(id).or_default();
        // Nobody else has this mutex yet, so it is free.
        Arc::clone(&kept.turn).try_lock_owned().map_err(|_| Error::Abandoned)
    }

    /// Gives an owner another lease.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchOwner`], [`Error::Limit`], and where descriptors have run out.
    pub async fn hold(&self, id: OwnerId) -> Result<OwnedFd, Error> {
        let (lease, theirs) = Lease::new()?;
        self.bind(id, NewAnchor::Lease(lease)).await?;
        Ok(theirs)
    }

    /// Gives an owner another anchor.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchOwner`], [`Error::Limit`].
    pub async fn bind(&self, id: OwnerId, anchor: NewAnchor) -> Result<(), Error> {
        let count = |usage: &mut Usage| usage.count(anchor.anchor());
        self.state().check_quota(self.0.exempt, id.uid, count)?;
        self.watch(id, anchor)?;
        let shown = self.state().publish(vec![Event::AnchorsChanged(id)]);
        shown.wait().await;
        Ok(())
    }

    /// Adds an anchor, and a task that waits for its end.
    fn watch(&self, id: OwnerId, new: NewAnchor) -> Result<(), Error> {
        let mut state = self.state();
        let number = state.next_anchor();
        state.table.add_anchor(id, number, new.anchor())?;
        let service = self.clone();
        let task = async move {
            let gone = match &new {
                NewAnchor::Lease(lease) => lease.gone().await,
                NewAnchor::Process(process) => process.gone().await,
                NewAnchor::Manual => return,
            };
            match gone {
                Ok(()) => service.anchor_gone(id, number).await,
                // The event loop ends, and the service with it: this is no sign of the anchor.
                Err(error) => {
                    tracing::error!(%error, owner = %id.uuid, uid = id.uid, "an anchor is watched no more");
                }
            }
        };
        let watch = tokio::spawn(task).abort_handle();
        state.kept.entry(id).or_default().watches.insert(number, watch);
        Ok(())
    }

    async fn anchor_gone(self, id: OwnerId, number: AnchorId) {
        let last = {
            let mut state = self.state();
            if let Some(kept) = state.kept.get_mut(&id) {
                // This task itself: it ends by itself, and must not be aborted in its work.
                kept.watches.remove(&number);
            }
            match state.table.remove_anchor(id, number) {
                Some(last) => last,
                None => return, // closed meanwhile
            }
        };
        if !last {
            let shown = self.state().publish(vec![Event::AnchorsChanged(id)]);
            shown.wait().await;
        } else if let Err(error) = self.end(id, Reason::OwnerGone, |_| Ok(())).await {
            // Somebody closed it in between, and saw to its locks.
            tracing::debug!(owner = %id.uuid, uid = id.uid, %error, "an owner had ended already");
        }
    }

    /// Waits for an owner's turn.
    pub(super) async fn turn(&self, id: OwnerId) -> Result<OwnedMutexGuard<()>, Error> {
        let turn = {
            let state = self.state();
            state.table.living(id)?;
            Arc::clone(&state.kept.get(&id).ok_or(lock::Error::NoSuchOwner(id))?.turn)
        };
        Ok(turn.lock_owned().await)
    }

    /// Wakes those who wait for an owner to be gone altogether.
    pub(super) fn owner_went(&self) {
        self.0.went.notify_waiters();
    }
}
