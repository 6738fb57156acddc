//! How a command waits for what others hold.
//!
//! A command that is refused because of a lock, and may wait, gets a place in the table's queue in
//! the same moment. It holds nothing then, not even its owner's turn. Whoever frees something has
//! the table say who is to try again, under the same mutex; nobody else gets in between. Only what
//! a stranger holds is asked for again and again, by the first in line, with growing pauses.
//!
//! It ends with the locks; or when its time is over, its owner ends or cancels it, its caller leaves,
//! or the service ends. Whoever waits never keeps anything from being replaced or restarted.

pub(super) mod backoff;
pub(super) mod name_recheck;
pub(super) mod report;
pub(super) mod ticket;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::{sleep, sleep_until};

use super::{Error, Service, Shown};
use crate::lock::OwnerId;
use crate::lock::request::{Asked, Work};
use crate::lock::table::queue::Status;
use crate::service::recover::suspects::SUSPECT;
use crate::service::report::refusals::Tell;
use crate::service::wait::backoff::Pauses;
use crate::service::wait::name_recheck::CheckNames;
use crate::service::wait::report::Waits;
use crate::service::wait::ticket::{Entry, Place, Word};

/// How long one who is called may keep others off while its owner is busy with something else.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a command may wait, and for whom.
#[derive(Debug, Clone)]
pub struct Wait {
    /// When it is over; never, where there is none.
    pub until: Option<Instant>,
    /// Whoever waits for its answer.
    pub caller: Presence,
}

/// Whether a caller is still there.
#[derive(Debug, Clone)]
pub struct Presence(pub watch::Receiver<bool>);

impl Presence {
    /// Whether he has left, or with him all that could tell.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    async fn gone(&mut self) {
        // An error says that nobody is left who could tell.
        let _ = self.0.wait_for(|gone| *gone).await;
    }
}

/// What came of a command that may have waited.
#[derive(Debug)]
pub struct Granted {
    /// The locks, in the order of the request.
    pub locks: Vec<u64>,
    /// Those of them that the owner did not have before.
    pub fresh: Vec<u64>,
    /// Whether it had to wait.
    pub waited: bool,
}

/// Why a command waits no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its owner has ended.
    OwnerGone,
    /// Somebody wished so.
    Cancelled,
    /// The service ends, or another program takes its place.
    Ending,
}

/// A command that can be tried several times. For a storage thread.
pub(super) trait Attempt: Send + Sized + 'static {
    /// Whose it is.
    fn owner(&self) -> OwnerId;

    /// Whether none of its owner's other commands may run while it waits: it has the turn itself.
    fn keeps_turn(&self) -> bool {
        false
    }

    /// What has to be asked to try.
    fn asks(&self) -> Vec<Asked<'_>>;

    /// Tries; keeps its place where it has to wait on.
    fn attempt(self, entry: Entry) -> Tried<Self>;

    /// A check whether the names of what it waits for still lead there; `None` where it has no names.
    fn check_names(&self) -> Option<CheckNames> {
        None
    }

    /// Undoes what was done before it had to wait.
    fn abandon(self) {}
}

/// What came of trying.
pub(super) enum Tried<A> {
    Done(Granted, Shown),
    Waits(A, Place),
    Failed(Error),
}

/// The pauses of a command that waits.
struct Backoff {
    foreign: Pauses,
    names: Pauses,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { foreign: Pauses::for_foreign_holder(), names: Pauses::for_names() }
    }
}

/// What a storage thread does for a command.
struct Try<A>(A, Entry);

impl<A: Attempt> Work for Try<A> {
    type Answer = Tried<A>;

    fn asks(&self) -> Vec<Asked<'_>> {
        self.0.asks()
    }

    fn perform(self) -> Tried<A> {
        self.0.attempt(self.1)
    }
}

/// What a storage thread does for a command that is given up.
struct Abandon<A>(A);

impl<A: Attempt> Work for Abandon<A> {
    type Answer = ();

    fn perform(self) {
        self.0.abandon();
    }
}

impl Service {
    /// Tries a command until it succeeds, fails, or may not wait any longer.
    pub(super) async fn persist<A: Attempt>(
        &self,
        command: A,
        turn: Option<OwnedMutexGuard<()>>,
        wait: Option<Wait>,
    ) -> Result<Granted, Error> {
        if command.owner() != SUSPECT {
            self.0.suspects.pass().await;
        }
        let mut waits = None;
        let came = self.try_on(command, turn, wait, &mut waits).await;
        if let Some(waits) = waits {
            waits.end(self, &came);
        }
        came
    }

    /// The same; `waits` is set from when it waits.
    async fn try_on<A: Attempt>(
        &self,
        command: A,
        mut turn: Option<OwnedMutexGuard<()>>,
        wait: Option<Wait>,
        waits: &mut Option<Waits>,
    ) -> Result<Granted, Error> {
        let entry = wait.as_ref().map_or(Entry::Once, |wait| Entry::First(wait.caller.clone()));
        let begun = Instant::now();
        let user = command.owner().uid;
        let mut tried = self.storage().run_for(user, Try(command, entry)).await?;
        let mut backoff = Backoff::default();
        loop {
            let (command, place) = match tried {
                Tried::Done(granted, shown) => {
                    shown.wait().await;
                    drop(turn);
                    return Ok(Granted { waited: waits.is_some(), ..granted });
                }
                Tried::Failed(error) => return Err(error),
                Tried::Waits(command, place) => (command, place),
            };
            waits.get_or_insert_with(|| Waits::begin(self, command.owner(), &place));
            drop(turn.take());
            let Some(mut wait) = wait.clone() else { return Err(Error::Abandoned) };
            let called = self.called(&command, &place, &mut wait, &mut backoff, begun).await;
            let ready = match called {
                Ok(()) if command.keeps_turn() => Ok(None),
                Ok(()) => {
                    let id = command.owner();
                    self.turn_of_called(id, &place, &mut wait, begun).await.map(Some)
                }
                Err(error) => Err(error),
            };
            match ready {
                Ok(taken) => turn = taken,
                Err(error) => {
                    drop(place);
                    self.storage().run(Abandon(command)).await?;
                    return Err(error);
                }
            }
            let again = Try(command, Entry::Again(wait.caller, place));
            tried = match self.storage().run_or_back_for(Some(user), again).await {
                Ok(tried) => tried,
                Err((error, again)) => {
                    if let Some(Try(command, entry)) = again {
                        drop(entry);
                        self.storage().run(Abandon(command)).await?;
                    }
                    return Err(error);
                }
            };
        }
    }

    /// Returns once there is reason to try again.
    async fn called<A: Attempt>(
        &self,
        command: &A,
        place: &Place,
        wait: &mut Wait,
        backoff: &mut Backoff,
        begun: Instant,
    ) -> Result<(), Error> {
        let Backoff { foreign, names } = backoff;
        let elsewhere = {
            let state = self.state();
            let waiter = state.table.waiter(place.ticket);
            waiter.is_some_and(|waiter| matches!(waiter.status, Status::Elsewhere(..)))
        };
        let pause = async {
            if elsewhere {
                // That looks the names up as well.
                sleep(foreign.next()).await;
            } else {
                self.names_change(command, names).await;
            }
        };
        tokio::select! {
            biased;
            called = place.hear(|word| *word == Word::Called) => called.map(drop),
            error = self.over(place, wait, begun) => Err(error),
            () = pause => Ok(()),
        }
    }

    /// Returns once a name of a waiting command leads to another disk than the one that it waits for,
    /// or to none. No event reports that, least of all from other hosts.
    async fn names_change<A: Attempt>(&self, command: &A, pauses: &mut Pauses) {
        while let Some(check) = command.check_names() {
            sleep(pauses.next()).await;
            // Storage that does not answer, and a name that may not be looked up, say nothing of it.
            if let Ok(false) = self.storage().run(check).await {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    /// The turn of one who was called. Where its owner is busy for long, others need not wait for
    /// that: he tries when the owner is ready.
    async fn turn_of_called(
        &self,
        id: OwnerId,
        place: &Place,
        wait: &mut Wait,
        begun: Instant,
    ) -> Result<OwnedMutexGuard<()>, Error> {
        let turn = self.turn_of(id)?;
        if let Ok(taken) = Arc::clone(&turn).try_lock_owned() {
            return Ok(taken);
        }
        let over = self.over(place, wait, begun);
        tokio::pin!(over);
        tokio::select! {
            taken = Arc::clone(&turn).lock_owned() => return Ok(taken),
            error = &mut over => return Err(error),
            () = sleep(PATIENCE) => {}
        }
        self.state().table.wait_busy(place.ticket);
        tokio::select! {
            taken = turn.lock_owned() => Ok(taken),
            error = over => Err(error),
        }
    }

    /// Returns once a command may wait no longer: why.
    async fn over(&self, place: &Place, wait: &mut Wait, begun: Instant) -> Error {
        let deadline = async {
            match wait.until {
                Some(until) => sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            withdrawn = place.hear(|word| matches!(word, Word::Withdrawn(_))) => match withdrawn {
                Ok(Word::Withdrawn(why)) => Error::Cancelled(why),
                Ok(_) | Err(_) => Error::Abandoned,
            },
            () = wait.caller.gone() => Error::CallerGone,
            () = deadline => self.timed_out(place, begun.elapsed()).await,
        }
    }

    async fn timed_out(&self, place: &Place, waited: Duration) -> Error {
        let refusal = {
            let state = self.state();
            let waiter = state.table.waiter(place.ticket);
            waiter.and_then(|waiter| Some((waiter.owner, state.table.refusal_of(waiter)?)))
        };
        let Some((owner, refusal)) = refusal else {
            return Error::TimedOut { waited, last: None };
        };
        let (requester, error) = (self.requester(owner), refusal.into());
        match self.storage().run(Tell { service: self.clone(), requester, error }).await {
            Ok(last) => Error::TimedOut { waited, last: Some(Box::new(last)) },
            Err(error) => error,
        }
    }

    /// Withdraws all that an owner waits for, and what it offers; tells for how much it waited.
    ///
    /// # Errors
    ///
    /// [`crate::lock::Error::NoSuchOwner`].
    pub async fn cancel(&self, id: OwnerId) -> Result<usize, Error> {
        let withdrawn = {
            let mut state = self.state();
            state.table.living(id)?;
            state.withdraw(|waiter| waiter.owner == id, Why::Cancelled)
        };
        self.withdraw_offer(id).await?;
        Ok(withdrawn)
    }

    /// Withdraws all that anybody waits for, since the service ends or is replaced, and has nobody
    /// begin to wait until this is told the opposite.
    pub fn close_waits(&self, closed: bool) {
        let mut state = self.state();
        state.waits_closed = closed;
        if closed {
            state.withdraw(|_| true, Why::Ending);
        }
    }

    /// How many requests wait.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.count_waiters(|_| true)
    }

    /// How many requests of the users that `counts` selects wait.
    #[must_use]
    pub fn count_waiters(&self, counts: impl Fn(u32) -> bool) -> usize {
        self.state().table.waiters().filter(|waiter| counts(waiter.owner.uid)).count()
    }

    /// How many requests of the users that `counts` selects wait for what a lock is on.
    #[must_use]
    pub fn waiting_for(&self, number: u64, counts: impl Fn(u32) -> bool) -> usize {
        let state = self.state();
        let counts = |owner: OwnerId| counts(owner.uid);
        state.table.lock(number).map_or(0, |lock| state.table.waiting_for(lock, counts))
    }
}
