//! How locks are given.
//!
//! 1. The owner's turn is taken.
//! 2. The table decides: everything asked for is reserved, or nothing is. From here on nobody
//!    else can come between, under whatever name.
//! 3. The bytes are locked in the kernel, one after the other. It knows strangers.
//! 4. Should one fail, those before it are given back, and the reservation is cancelled.
//! 5. The table commits. Should the owner have ended meanwhile, all is given back.
//! 6. The world is told, and sees the lock objects.
//! 7. The caller is answered.
//!
//! A caller that leaves in between changes nothing: the story runs to its end, and the locks are
//! its owner's.

use std::sync::Arc;

use super::describe::{DescribeRefusal, DescribeStranger};
use super::limits::within;
use super::{Error, Service, now};
use crate::lock::held::{Give, Held, Take};
use crate::lock::resolve::{Access, Target};
use crate::lock::work::InOrder;
use crate::lock::{self, Event, Mode, OwnerId, Want};

/// One resource that an owner asks for, found already.
#[derive(Debug)]
pub struct Ask {
    /// What it is.
    pub target: Target,
    /// How it shall be held.
    pub mode: Mode,
}

/// What came of step 2.
struct Reserved {
    /// The locks of the request, in its order.
    locks: Vec<u64>,
    /// Those of them that are new.
    fresh: Vec<u64>,
    /// What is to be done for the new ones, in the same order.
    takes: Vec<Take>,
}

impl Ask {
    fn want(&self) -> Want {
        let Self { target, mode } = self;
        Want {
            resource: target.name.clone(),
            canonical: target.canonical.clone(),
            path: target.path().map(ToOwned::to_owned),
            identity: target.identity,
            lockspace: target.lockspace.kind(),
            lock_files: target.lock_files(),
            mode: *mode,
            write_shown: target.shown == Some(Access::ReadWrite),
        }
    }
}

impl Service {
    /// Gives an owner all it asks for, or nothing. The answer has the order and length of the
    /// request; what the owner holds already in the same mode is answered with the lock it has.
    ///
    /// # Errors
    ///
    /// [`Error::Held`] and [`Error::HeldElsewhere`] with a sentence that names the holder,
    /// [`Error::Limit`], and those of [`crate::lock::Error`].
    pub async fn acquire(&self, id: OwnerId, asks: Vec<Ask>) -> Result<Vec<u64>, Error> {
        let _turn = self.turn(id).await?;
        self.acquire_in_turn(id, asks, Vec::new()).await
    }

    /// The story from step 2; `before` happened before the locks, and is told before them.
    pub(super) async fn acquire_in_turn(
        &self,
        id: OwnerId,
        asks: Vec<Ask>,
        before: Vec<Event>,
    ) -> Result<Vec<u64>, Error> {
        let Reserved { locks, fresh, takes } = match self.reserve(id, asks) {
            Ok(reserved) => reserved,
            Err(error) => return Err(self.tell(id, error).await),
        };
        let (held, failure) = if takes.is_empty() {
            (Vec::new(), None)
        } else {
            match self.storage().run(InOrder(takes)).await {
                Ok(done) => (done.answers, done.failure.map(Error::Lock)),
                Err(error) => (Vec::new(), Some(error)),
            }
        };
        let held: Vec<Arc<Held>> = held.into_iter().map(Arc::new).collect();
        let committed = match failure {
            None => self.commit(id, &fresh, &held, before),
            Some(failure) => Err(failure),
        };
        match committed {
            Ok(shown) => {
                shown.wait().await;
                Ok(locks)
            }
            Err(error) => {
                let error = self.undo(error, &fresh, held).await;
                Err(self.tell(id, error).await)
            }
        }
    }

    /// Step 2.
    fn reserve(&self, id: OwnerId, asks: Vec<Ask>) -> Result<Reserved, Error> {
        let mut state = self.state();
        state.check_open()?;
        let limit = state.settings.limits.resources_per_call;
        within("resources", asks.len(), limit, || "in one call".to_owned())?;
        state.check_total(asks.len())?;
        state.check_quota(self.0.exempt, id.uid, |usage| usage.count_locks(asks.len()))?;
        let wants: Vec<Want> = asks.iter().map(Ask::want).collect();
        let reserved = state.table.reserve(id, &wants, now())?;
        let mut asks: Vec<Option<Ask>> = asks.into_iter().map(Some).collect();
        let (fresh, takes) = reserved
            .fresh
            .iter()
            .filter_map(|(lock, n)| {
                let Ask { target, mode } = asks.get_mut(*n)?.take()?;
                Some((*lock, Take { target, mode }))
            })
            .unzip();
        Ok(Reserved { locks: reserved.locks, fresh, takes })
    }

    /// Step 5.
    fn commit(
        &self,
        id: OwnerId,
        fresh: &[u64],
        held: &[Arc<Held>],
        before: Vec<Event>,
    ) -> Result<super::Shown, Error> {
        let mut state = self.state();
        let mut events = before;
        events.extend(state.table.commit(id, fresh)?);
        for (lock, held) in fresh.iter().zip(held) {
            state.held.insert(*lock, Arc::clone(held));
        }
        Ok(state.publish(events))
    }

    /// Step 4: gives back what was taken. The error of the request comes with those of its undoing.
    async fn undo(&self, error: Error, fresh: &[u64], held: Vec<Arc<Held>>) -> Error {
        let gives: Vec<Give> = held.into_iter().map(Give).collect();
        let failures = match self.storage().run(gives).await {
            Ok(failures) => failures.into_iter().flatten().collect(),
            Err(_) => Vec::new(), // logged where it happened, and closing the files frees them
        };
        let mut state = self.state();
        let events = state.table.cancel(fresh);
        // An owner that went meanwhile; nobody waits for that to be seen.
        drop(state.publish(events));
        match error {
            Error::Lock(error) => Error::Lock(error.with_undo(failures)),
            error => {
                for failure in failures {
                    tracing::error!(%failure, "undoing failed");
                }
                error
            }
        }
    }

    /// Puts a refusal into a sentence, and tells those who watch the resource of it.
    pub(super) async fn tell(&self, id: OwnerId, error: Error) -> Error {
        match error {
            Error::Lock(lock::Error::Held(refusal)) => {
                let event = Event::LockContended {
                    resource: refusal.resource.clone(),
                    holders: refusal.holders.iter().map(|holder| holder.owner).collect(),
                    owner: id,
                };
                let shown = self.state().publish(vec![event]);
                let described = self.storage().run(DescribeRefusal((*refusal).clone())).await;
                let message = described.unwrap_or_else(|_| refusal.to_string());
                tracing::info!(owner = %id, "refused: {message}");
                shown.wait().await;
                Error::Held { message, refusal }
            }
            Error::Lock(lock::Error::HeldElsewhere(stranger)) => {
                let described = self.storage().run(DescribeStranger((*stranger).clone())).await;
                let message = described.unwrap_or_else(|_| stranger.to_string());
                tracing::info!(owner = %id, "refused: {message}");
                Error::HeldElsewhere(message)
            }
            error => error,
        }
    }
}
