//! How locks are given.
//!
//! 1. The owner's turn is taken.
//! 2. What is not found yet is found.
//! 3. The table decides: everything asked for is reserved, or nothing is. From here on nobody
//!    else can come between, under whatever name.
//! 4. The bytes are locked in the kernel, one after the other. It knows strangers.
//! 5. Should one fail, those before it are given back, and the reservation is cancelled.
//! 6. The table commits. Should the owner have ended meanwhile, all is given back.
//! 7. The world is told, and sees the lock objects.
//! 8. The caller is answered.
//!
//! Steps 2 to 6 are one story on one storage thread, since each change of threads costs more than
//! all that is done on them. A caller that leaves in between changes nothing: the story runs to
//! its end, and the locks are its owner's.

use std::sync::Arc;

use super::describe::{DescribeRefusal, DescribeStranger};
use super::limits::within;
use super::{Error, Service, Shown, now};
use crate::lock::held::{Give, Held, Take};
use crate::lock::printable::shown as shown_text;
use crate::lock::resolve::{Access, Resolve, Target};
use crate::lock::work::{InOrder, Work};
use crate::lock::{self, Event, Mode, OwnerId, Want};

/// One resource that an owner asks for.
#[derive(Debug)]
pub struct Ask {
    /// What it is.
    pub disk: Disk,
    /// How it shall be held.
    pub mode: Mode,
}

/// A disk, as far as it is known.
#[derive(Debug)]
pub enum Disk {
    /// To be found.
    Wanted(Resolve),
    /// Found already, because somebody had to be asked about what it is.
    Found(Box<Target>),
}

impl Disk {
    fn find(self) -> Result<Target, lock::Error> {
        match self {
            Self::Wanted(resolve) => resolve.perform(),
            Self::Found(target) => Ok(*target),
        }
    }
}

fn want(target: &Target, mode: Mode) -> Want {
    Want {
        resource: target.name.clone(),
        canonical: target.canonical.clone(),
        path: target.path().map(ToOwned::to_owned),
        identity: target.identity,
        lockspace: target.lockspace.kind(),
        lock_files: target.lock_files(),
        mode,
        write_shown: target.shown == Some(Access::ReadWrite),
    }
}

/// What came of step 3.
struct Reserved {
    /// The locks of the request, in its order.
    locks: Vec<u64>,
    /// Those of them that are new.
    fresh: Vec<u64>,
    /// What is to be done for the new ones, in the same order.
    takes: Vec<Take>,
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
        let story = Story { service: self.clone(), id, asks, before };
        // With nothing to find and nothing to lock there is nothing to leave this thread for.
        let empty = story.asks.is_empty();
        let told = if empty { story.perform() } else { self.storage().run(story).await? };
        let (locks, shown) = told?;
        shown.wait().await;
        Ok(locks)
    }

    /// Step 3.
    fn reserve(
        &self,
        id: OwnerId,
        targets: Vec<Target>,
        modes: &[Mode],
    ) -> Result<Reserved, Error> {
        let wants: Vec<Want> =
            targets.iter().zip(modes).map(|(target, mode)| want(target, *mode)).collect();
        let reserved = {
            let mut state = self.state();
            state.check_open()?;
            let limit = state.settings.limits.resources_per_call;
            within("resources", wants.len(), limit, || "in one call".to_owned())?;
            state.check_total(wants.len())?;
            state.check_quota(self.0.exempt, id.uid, |usage| usage.count_locks(wants.len()))?;
            state.table.reserve(id, &wants, now())?
        };
        let mut targets: Vec<Option<Target>> = targets.into_iter().map(Some).collect();
        let (fresh, takes) = reserved
            .fresh
            .iter()
            .filter_map(|(lock, n)| {
                let target = targets.get_mut(*n)?.take()?;
                Some((*lock, Take { target, mode: *modes.get(*n)? }))
            })
            .unzip();
        Ok(Reserved { locks: reserved.locks, fresh, takes })
    }

    /// Step 6.
    fn commit(
        &self,
        id: OwnerId,
        fresh: &[u64],
        held: &[Arc<Held>],
        before: Vec<Event>,
    ) -> Result<Shown, Error> {
        let (given, shown) = {
            let mut state = self.state();
            let given = state.table.commit(id, fresh)?;
            for (lock, held) in fresh.iter().zip(held) {
                state.held.insert(*lock, Arc::clone(held));
            }
            let events = before.into_iter().chain(given.iter().cloned()).collect();
            (given, state.publish(events))
        };
        for event in &given {
            if let Event::LockAcquired(lock) = event {
                let (resource, mode) = (shown_text(&lock.want.resource), lock.want.mode.as_str());
                tracing::info!(lock = lock.id, owner = %id.uuid, uid = id.uid, mode, "acquired {resource}");
            }
        }
        Ok(shown)
    }

    /// Step 5: gives back what was taken. The error of the request comes with those of its undoing.
    fn undo(&self, error: Error, fresh: &[u64], held: Vec<Arc<Held>>) -> Error {
        let failures: Vec<lock::Error> =
            held.into_iter().flat_map(|held| Give(held).perform()).collect();
        {
            let mut state = self.state();
            let events = state.table.cancel(fresh);
            // An owner that went meanwhile; nobody waits for that to be seen.
            drop(state.publish(events));
        }
        self.owner_went();
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

    /// Puts a refusal into a sentence, and tells those who watch the resource of it. Looks users
    /// up, so it is for a storage thread.
    pub(super) fn describe(&self, id: OwnerId, error: Error) -> Error {
        match error {
            Error::Lock(lock::Error::Held(refusal)) => {
                let event = Event::LockContended {
                    resource: refusal.resource.clone(),
                    holders: refusal.holders.iter().map(|holder| holder.owner).collect(),
                    owner: id,
                };
                // For others: the one who is refused has his answer.
                drop(self.state().publish(vec![event]));
                let message = DescribeRefusal((*refusal).clone()).perform();
                tracing::info!(owner = %id.uuid, uid = id.uid, "refused: {message}");
                Error::Held { message, refusal }
            }
            Error::Lock(lock::Error::HeldElsewhere(stranger)) => {
                let message = DescribeStranger(*stranger).perform();
                tracing::info!(owner = %id.uuid, uid = id.uid, "refused: {message}");
                Error::HeldElsewhere(message)
            }
            error => error,
        }
    }
}

/// Steps 2 to 6.
struct Story {
    service: Service,
    id: OwnerId,
    asks: Vec<Ask>,
    before: Vec<Event>,
}

impl Work for Story {
    type Answer = Result<(Vec<u64>, Shown), Error>;

    fn perform(self) -> Self::Answer {
        let Self { service, id, asks, before } = self;
        tell(&service, id, asks, before).map_err(|error| service.describe(id, error))
    }
}

fn tell(
    service: &Service,
    id: OwnerId,
    asks: Vec<Ask>,
    before: Vec<Event>,
) -> Result<(Vec<u64>, Shown), Error> {
    let modes: Vec<Mode> = asks.iter().map(|ask| ask.mode).collect();
    let targets = asks.into_iter().map(|ask| ask.disk.find()).collect::<Result<Vec<_>, _>>()?;
    let Reserved { locks, fresh, takes } = service.reserve(id, targets, &modes)?;
    let done = InOrder(takes).perform();
    let held: Vec<Arc<Held>> = done.answers.into_iter().map(Arc::new).collect();
    let committed = match done.failure {
        None => service.commit(id, &fresh, &held, before),
        Some(failure) => Err(failure.into()),
    };
    match committed {
        Ok(shown) => Ok((locks, shown)),
        Err(error) => Err(service.undo(error, &fresh, held)),
    }
}
