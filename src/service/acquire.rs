//! How locks are given.
//!
//! 1. The owner's turn is taken.
//! 2. What is not found yet is found.
//! 3. The table decides: everything asked for is reserved, or nothing is. From here on nobody
//!    else can come between, under whatever name.
//! 4. What was decided is noted as begun.
//! 5. The bytes are locked in the kernel, one after the other. It knows strangers.
//! 6. Their descriptors are parked, where they outlive the service, and the locks noted as held.
//! 7. The table commits. Should the owner have ended meanwhile, all is given back.
//! 8. The world is told, and sees the lock objects.
//! 9. The caller is answered.
//!
//! Should a step fail, those before it are undone. An owner that is opened with its first locks is
//! noted and parked in the same story, before its locks and after.
//!
//! Steps 2 to 7 are one story on one storage thread, since each change of threads costs more than
//! all that is done on them. A caller that leaves in between changes nothing: the story runs to
//! its end, and the locks are its owner's.

use std::sync::Arc;

use super::describe::{DescribeRefusal, DescribeStranger};
use super::keeping::{Anchored, Names};
use super::limits::within;
use super::{Error, Service, Shown, now};
use crate::keep::line::Step;
use crate::lock::held::Held;
use crate::lock::key::Key;
use crate::lock::owner::AnchorId;
use crate::lock::record::{Proof, Stage};
use crate::lock::resolve::{Resolve, Target};
use crate::lock::signature::Signature;
use crate::lock::table::Again;
use crate::lock::take::{Goal, Take};
use crate::lock::work::{InOrder, Work};
use crate::lock::{self, Event, Lock, Mode, Owner, OwnerId, Want};
use crate::step::step;

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
    /// A key in a lockspace, whatever it stands for.
    Key(Key),
}

impl Disk {
    fn find(self) -> Result<Goal, lock::Error> {
        match self {
            Self::Wanted(resolve) => Ok(Goal::Disk(Box::new(resolve.perform()?))),
            Self::Found(target) => Ok(Goal::Disk(target)),
            Self::Key(key) => Ok(Goal::Key(key)),
        }
    }
}

/// What came of step 3.
struct Reserved {
    /// The locks of the request, in its order.
    locks: Vec<u64>,
    /// Those of them that are new.
    fresh: Vec<u64>,
    /// The same, as they will be.
    records: Vec<Lock>,
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
        let story = self.story(id, asks, Again::Same, None);
        let (locks, shown) = self.storage().run(story).await??;
        shown.wait().await;
        Ok(locks)
    }

    /// The story from step 2, for a storage thread that has the owner's turn.
    pub(super) fn acquire_here(
        &self,
        id: OwnerId,
        asks: Vec<Ask>,
        again: Again,
    ) -> Result<(Vec<u64>, Shown), Error> {
        self.story(id, asks, again, None).perform()
    }

    /// The same for an owner that is being opened: `opened` is what is to be kept of it.
    pub(super) fn acquire_opened(
        &self,
        id: OwnerId,
        asks: Vec<Ask>,
        opened: Opened,
    ) -> Result<(Vec<u64>, Shown), Error> {
        self.story(id, asks, Again::Same, Some(opened)).perform()
    }

    fn story(&self, id: OwnerId, asks: Vec<Ask>, again: Again, opened: Option<Opened>) -> Story {
        Story { service: self.clone(), id, asks, again, opened }
    }

    /// Step 3.
    fn reserve(
        &self,
        id: OwnerId,
        goals: Vec<Goal>,
        modes: &[Mode],
        again: Again,
    ) -> Result<Reserved, Error> {
        let wants: Vec<Want> =
            goals.iter().zip(modes).map(|(goal, mode)| goal.want(*mode)).collect();
        let since = now();
        let reserved = {
            let mut state = self.state();
            state.check_open()?;
            let limit = state.settings.limits.resources_per_call;
            within("resources", wants.len(), limit, || "in one call".to_owned())?;
            state.check_total(wants.len())?;
            state.check_quota(self.0.exempt, id.uid, |usage| usage.count_locks(wants.len()))?;
            state.table.reserve(id, &wants, since, again)
        };
        let reserved = reserved.map_err(|error| with_users(error, &wants, &goals))?;
        let in_lockspace = wants.iter().any(|want| want.lockspace.has_files());
        let signature = self.signature(id, since, in_lockspace);
        let mut goals: Vec<Option<Goal>> = goals.into_iter().map(Some).collect();
        let (stage, proof, owner) = (Stage::Granting, Proof::Verified, id);
        let record = |(lock, n): &(u64, usize)| {
            Some(Lock { id: *lock, owner, since, stage, proof, want: wants.get(*n)?.clone() })
        };
        let records = reserved.fresh.iter().filter_map(record).collect();
        let (fresh, takes) = reserved
            .fresh
            .iter()
            .filter_map(|(lock, n)| {
                let goal = goals.get_mut(*n)?.take()?;
                let signature = Signature { lock: *lock, ..signature.clone() };
                Some((*lock, Take { goal, mode: *modes.get(*n)?, signature, hasty: false }))
            })
            .unzip();
        Ok(Reserved { locks: reserved.locks, fresh, records, takes })
    }

    /// Step 7.
    fn commit(
        &self,
        id: OwnerId,
        fresh: &[u64],
        held: &[Arc<Held>],
        opened: bool,
        awaited: bool,
    ) -> Result<Shown, Error> {
        let (given, shown) = {
            let mut state = self.state();
            let given = state.table.commit(id, fresh)?;
            for (lock, held) in fresh.iter().zip(held) {
                state.held.insert(*lock, Arc::clone(held));
            }
            let opened = opened.then_some(Event::OwnerOpened(id));
            let events = opened.into_iter().chain(given.iter().cloned()).collect();
            (given, state.publish_for(events, awaited))
        };
        Ok(shown.and_say(given))
    }

    /// Gives back what was taken, and forgets what was noted. Tells what of that failed.
    fn undo(&self, id: OwnerId, fresh: &[u64], held: Vec<Arc<Held>>) -> Vec<lock::Error> {
        let held = held.into_iter().map(Some);
        let failures = self.give(id, fresh.iter().copied().zip(held).collect());
        if let Err(error) = self.keep().mark_locks(fresh, Step::Gone) {
            tracing::error!(%error, "a lock was not given, but its record stays");
        }
        let closed = {
            let mut state = self.state();
            let events = state.table.cancel(fresh);
            let closed = state.closed(&events);
            // An owner that went meanwhile; nobody waits for that to be seen.
            drop(state.publish(events));
            closed
        };
        self.forget(&closed);
        self.owner_went();
        failures
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
                let message = DescribeStranger((*stranger).clone()).perform();
                tracing::info!(owner = %id.uuid, uid = id.uid, "refused: {message}");
                Error::HeldElsewhere { message, stranger }
            }
            error => error,
        }
    }
}

/// A refusal of the table's, with those who have the disk open: of them it knows nothing.
fn with_users(mut error: lock::Error, wants: &[Want], goals: &[Goal]) -> lock::Error {
    if let lock::Error::Held(refusal) = &mut error {
        let refused = wants.iter().position(|want| want.resource == refusal.resource);
        if let Some(goal) = refused.and_then(|n| goals.get(n)) {
            refusal.users = goal.users();
            refusal
                .users
                .leave_out(|user| refusal.holders.iter().any(|holder| holder.pid == user.pid));
        }
    }
    error
}

/// An owner that is being opened, as it is kept.
pub(super) struct Opened {
    pub(super) owner: Owner,
    pub(super) names: Names,
    pub(super) anchors: Vec<(AnchorId, Anchored)>,
}

/// Steps 2 to 7.
struct Story {
    service: Service,
    id: OwnerId,
    asks: Vec<Ask>,
    again: Again,
    opened: Option<Opened>,
}

impl Work for Story {
    type Answer = Result<(Vec<u64>, Shown), Error>;

    fn perform(self) -> Self::Answer {
        let (service, id, again) = (self.service.clone(), self.id, self.again);
        let mut told = self.tell();
        if let Ok((_, shown)) = &mut told
            && again == Again::Same
        {
            // Here, where nobody else waits for it; whoever counts says it once he has answered.
            shown.say();
        }
        told.map_err(|error| service.describe(id, error))
    }
}

impl Story {
    fn tell(self) -> Result<(Vec<u64>, Shown), Error> {
        let Self { service, id, asks, again, opened } = self;
        let modes: Vec<Mode> = asks.iter().map(|ask| ask.mode).collect();
        let goals = asks.into_iter().map(|ask| ask.disk.find()).collect::<Result<Vec<_>, _>>()?;
        if let Some(Opened { owner, names, anchors }) = &opened {
            service.keep().open(names, owner, anchors)?;
            service.forget_ended(names);
        }
        let Reserved { locks, fresh, records, takes } =
            service.reserve(id, goals, &modes, again)?;
        step("grant-reserved");
        let mut held = Vec::new();
        let given = (|| {
            service.keep().begin(&records)?;
            let done = InOrder(takes).perform();
            held.extend(done.answers.into_iter().map(Arc::new));
            Service::say_unrecorded(&held);
            done.failure.map_or(Ok(()), Err)?;
            step("grant-locked");
            service.keep().park(id, &fresh, &held)?;
            service.keep().commit(opened.as_ref().map(|opened| &opened.names), &fresh)?;
            service.commit(id, &fresh, &held, opened.is_some(), again == Again::Same)
        })();
        match given {
            Ok(shown) => {
                step("grant-committed");
                Ok((locks, shown))
            }
            Err(error) => {
                let failures = service.undo(id, &fresh, held);
                Err(error.with_undo(failures))
            }
        }
    }
}
