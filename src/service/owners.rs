//! How owners come, and what keeps them.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;
use tokio::task::AbortHandle;

use super::acquire::Opened;
use super::keeping::{Anchored, Names};
use super::limits::Usage;
use super::state::State;
use super::{Ask, Error, Service, now};
use crate::life::{Lease, Process};
use crate::lock::owner::AnchorId;
use crate::lock::work::Work;
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

    /// What there is to watch and to park.
    fn anchored(self) -> Option<Anchored> {
        match self {
            Self::Lease(lease) => Some(Anchored::Lease(Arc::new(lease))),
            Self::Process(process) => Some(Anchored::Process(Arc::new(process))),
            Self::Manual => None,
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
        let opened = self.attach(id, anchors)?;
        let names = opened.names.clone();
        match self.acquire_in_turn(id, asks, Some(opened)).await {
            Ok(locks) => {
                tracing::info!(owner = %id.uuid, uid = id.uid, "opened VM \"{name}\"");
                drop(turn);
                Ok(locks)
            }
            Err(error) => {
                // It was never shown, so nobody is told of its end; and it may have ended by itself.
                // If it is still this one, and not another that was opened since.
                {
                    let mut state = self.state();
                    let record = state.kept.get(&id).map(|kept| kept.record);
                    if record == Some(names.record) {
                        // It holds nothing: what it was to hold was given back.
                        drop(state.end(id));
                    }
                }
                let forget = Forget { service: self.clone(), closed: vec![names] };
                self.storage().run(forget).await?;
                self.owner_went();
                Err(error)
            }
        }
    }

    /// Gives an owner that was just entered its anchors, and has them watched.
    fn attach(&self, id: OwnerId, anchors: Vec<NewAnchor>) -> Result<Opened, Error> {
        // Before its anchors: one of an older owner by that id has a lower number.
        let record = self.state().next_anchor();
        let mut all = Vec::with_capacity(anchors.len());
        for anchor in anchors {
            let kind = anchor.anchor();
            let anchored = anchor.anchored();
            let number = self.watch(id, kind, anchored.clone())?;
            all.extend(anchored.map(|anchored| (number, anchored)));
        }
        let mut state = self.state();
        state.kept.entry(id).or_default().record = record;
        let owner = state.table.owner(id).cloned().ok_or(lock::Error::NoSuchOwner(id))?;
        let anchors = all.iter().map(|(number, _)| *number).collect();
        Ok(Opened { owner, names: Names { owner: id, record, anchors }, anchors: all })
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
        let kind = anchor.anchor();
        let more = |usage: &mut Usage| usage.count(kind);
        self.state().check_quota(self.0.exempt, id.uid, more)?;
        let Some(anchored) = anchor.anchored() else { return Ok(()) };
        // Watched first: whoever ends before he is noted is not to be noted for ever.
        let number = self.watch(id, kind, Some(anchored.clone()))?;
        let bind = Bind { service: self.clone(), id, number, anchored };
        if let Err(error) = self.storage().run(bind).await? {
            let watch =
                self.state().kept.get_mut(&id).and_then(|kept| kept.watches.remove(&number));
            if let Some(watch) = watch {
                watch.abort();
            }
            self.clone().anchor_gone(id, number).await;
            return Err(error);
        }
        let shown = self.state().publish(vec![Event::AnchorsChanged(id)]);
        shown.wait().await;
        Ok(())
    }

    /// Adds an anchor, and a task that waits for its end.
    pub(super) fn watch(
        &self,
        id: OwnerId,
        kind: Anchor,
        anchored: Option<Anchored>,
    ) -> Result<AnchorId, Error> {
        let mut state = self.state();
        let number = state.next_anchor();
        state.table.add_anchor(id, number, kind)?;
        if let Some(anchored) = anchored {
            let watch = self.follow(id, number, anchored);
            state.kept.entry(id).or_default().watches.insert(number, watch);
        }
        Ok(number)
    }

    /// The task that waits for an anchor's end.
    pub(super) fn follow(&self, id: OwnerId, number: AnchorId, anchored: Anchored) -> AbortHandle {
        let service = self.clone();
        let task = async move {
            let gone = match &anchored {
                Anchored::Lease(lease) => lease.gone().await,
                Anchored::Process(process) => process.gone().await,
            };
            match gone {
                Ok(()) => service.anchor_gone(id, number).await,
                // The event loop ends, and the service with it: this is no sign of the anchor.
                Err(error) => {
                    tracing::error!(%error, owner = %id.uuid, uid = id.uid, "an anchor is watched no more");
                }
            }
        };
        tokio::spawn(task).abort_handle()
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
        let forget = ForgetAnchor { service: self.clone(), id, number };
        if let Err(error) = self.storage().run(forget).await {
            tracing::error!(%error, owner = %id.uuid, uid = id.uid, "an anchor that ended stays noted");
        }
        if last {
            // It may have been given another while this one was being forgotten.
            let check = |state: &State| {
                let alone = state.table.living(id)?.anchors.is_empty();
                alone.then_some(()).ok_or(lock::Error::OwnerExists(id).into())
            };
            if let Err(error) = self.end(id, Reason::OwnerGone, check).await {
                // Or closed, by somebody who saw to its locks.
                tracing::debug!(owner = %id.uuid, uid = id.uid, %error, "an owner is not ended");
            }
            return;
        }
        let shown = self.state().publish(vec![Event::AnchorsChanged(id)]);
        shown.wait().await;
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

/// Notes and parks an anchor.
struct Bind {
    service: Service,
    id: OwnerId,
    number: AnchorId,
    anchored: Anchored,
}

impl Work for Bind {
    type Answer = Result<(), Error>;

    fn perform(self) -> Result<(), Error> {
        let Self { service, id, number, anchored } = self;
        if let Err(error) = service.keep().bind(id, number, &anchored) {
            ForgetAnchor { service, id, number }.perform();
            return Err(error);
        }
        // Had it ended, or its owner, while it was being noted, nobody would forget it any more.
        let there = {
            let state = service.state();
            state.table.living(id).is_ok_and(|owner| owner.anchors.contains_key(&number))
        };
        if there {
            return Ok(());
        }
        ForgetAnchor { service, id, number }.perform();
        Err(lock::Error::NoSuchOwner(id).into())
    }
}

/// Keeps an anchor no more.
struct ForgetAnchor {
    service: Service,
    id: OwnerId,
    number: AnchorId,
}

impl Work for ForgetAnchor {
    type Answer = ();

    fn perform(self) {
        let Self { service, id, number } = self;
        match service.keep().forget_anchor(id, number) {
            Ok(true) => service.clean_soon(),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "an anchor is gone, but its record is not"),
        }
    }
}

impl Service {
    /// Forgets those anchors that ended while they were being noted. For a storage thread.
    pub(super) fn forget_ended(&self, names: &Names) {
        let gone: Vec<AnchorId> = {
            let state = self.state();
            let owner = state.table.owner(names.owner);
            let gone = |number: &AnchorId| {
                owner.is_none_or(|owner| owner.ended || !owner.anchors.contains_key(number))
            };
            names.anchors.iter().copied().filter(gone).collect()
        };
        for number in gone {
            ForgetAnchor { service: self.clone(), id: names.owner, number }.perform();
        }
    }
}

/// Keeps owners no more.
struct Forget {
    service: Service,
    closed: Vec<Names>,
}

impl Work for Forget {
    type Answer = ();

    fn perform(self) {
        self.service.forget(&self.closed);
    }
}
