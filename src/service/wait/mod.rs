//! Waiting requests: how a request waits for resources that other owners or foreign holders have
//! locked.
//!
//! A request that is refused because of a lock, and that may wait, enters the table's queue under
//! the same mutex, so no release is missed in between. A waiting request holds no lock, no
//! reservation and no thread, so two waiters cannot deadlock; nor does it hold its owner's command
//! lock, except that of an owner that is being opened. Only an upgrade waits while its owner shares
//! the resource; two of these would deadlock, so the table permits one (`lock/table/wait`). Owners
//! that wait for locks from each other's earlier requests are not detected; such a wait ends by its
//! deadline or by cancellation. A release lets the table choose, under the mutex too, the waiters
//! to wake; no other request gets in between. Requests for one resource are granted in order of
//! arrival, which prevents starvation. Only for the lock of a foreign holder there is no
//! notification: the first waiter in the queue retries with backoff.
//!
//! A wait ends when the locks are granted, when it times out, when its owner ends or cancels it,
//! when its caller disconnects, or when the service ends. Waiting requests never delay a
//! re-execution or restart of the service.

pub(super) mod backoff;
pub(super) mod name_recheck;
pub(super) mod report;
pub(super) mod ticket;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::{sleep, sleep_until};

use super::{Error, Publication, Service};
use crate::lock::OwnerId;
use crate::lock::request::{Asked, Work};
use crate::lock::table::queue::Status;
use crate::service::recover::suspects::SUSPECT;
use crate::service::report::refusals::ReportRefusal;
use crate::service::wait::backoff::BackoffDelays;
use crate::service::wait::name_recheck::CheckNames;
use crate::service::wait::report::WaitReport;
use crate::service::wait::ticket::{Entry, QueuePlace, WaitReply};

/// How long a woken waiter keeps its priority while its owner is busy with another command.
const PATIENCE: Duration = Duration::from_secs(1);

/// The limit of a wait, and its caller.
#[derive(Debug, Clone)]
pub struct Wait {
    /// The deadline; `None` for no limit.
    pub until: Option<Instant>,
    /// The caller that waits for the answer.
    pub caller: Presence,
}

/// Watches whether a caller is still connected.
#[derive(Debug, Clone)]
pub struct Presence(pub watch::Receiver<bool>);

impl Presence {
    /// Whether the caller has disconnected, or its connection is no longer watched.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    async fn gone(&mut self) {
        // An error means that the connection is no longer watched.
        let _ = self.0.wait_for(|gone| *gone).await;
    }
}

/// The result of a command that may have waited.
#[derive(Debug)]
pub struct Granted {
    /// The locks, in the order of the request.
    pub locks: Vec<u64>,
    /// The locks among them that the owner did not hold before.
    pub fresh: Vec<u64>,
    /// Whether it had to wait.
    pub waited: bool,
}

/// The cause that ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its owner has ended.
    OwnerGone,
    /// It was cancelled on request.
    Cancelled,
    /// The service ends or is replaced.
    Ending,
}

/// A command that can be retried. Runs on worker threads.
pub(super) trait Attempt: Send + Sized + 'static {
    /// Returns its owner.
    fn owner(&self) -> OwnerId;

    /// Whether the command keeps its owner's command lock while it waits.
    fn keeps_turn(&self) -> bool {
        false
    }

    /// Returns what an attempt accesses.
    fn asks(&self) -> Vec<Asked<'_>>;

    /// Attempts the command once; it keeps its ticket if it must go on waiting.
    fn attempt(self, entry: Entry) -> Outcome<Self>;

    /// Returns a check whether the names of its disks still lead to them; `None` if it has no
    /// names.
    fn check_names(&self) -> Option<CheckNames> {
        None
    }

    /// Rolls back what was done before the wait.
    fn abandon(self) {}
}

/// The outcome of an attempt.
pub(super) enum Outcome<A> {
    Done(Granted, Publication),
    Queued(A, QueuePlace),
    Failed(Error),
}

/// The backoff of a waiting command.
struct Backoff {
    foreign: BackoffDelays,
    names: BackoffDelays,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { foreign: BackoffDelays::for_foreign_holder(), names: BackoffDelays::for_names() }
    }
}

/// One attempt of a command on a worker thread.
struct Try<A>(A, Entry);

impl<A: Attempt> Work for Try<A> {
    type Answer = Outcome<A>;

    fn asks(&self) -> Vec<Asked<'_>> {
        self.0.asks()
    }

    fn perform(self) -> Outcome<A> {
        self.0.attempt(self.1)
    }
}

/// The rollback of a command on a worker thread.
struct Abandon<A>(A);

impl<A: Attempt> Work for Abandon<A> {
    type Answer = ();

    fn perform(self) {
        self.0.abandon();
    }
}

impl Service {
    /// Retries a command until it succeeds, fails, or its wait ends.
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

    /// Retries a command as [`Self::persist`] does; `waits` is set when the wait begins.
    async fn try_on<A: Attempt>(
        &self,
        command: A,
        mut turn: Option<OwnedMutexGuard<()>>,
        wait: Option<Wait>,
        waits: &mut Option<WaitReport>,
    ) -> Result<Granted, Error> {
        let entry = wait.as_ref().map_or(Entry::Once, |wait| Entry::First(wait.caller.clone()));
        let begun = Instant::now();
        let user = command.owner().uid;
        let mut tried = self.storage().run_for(user, Try(command, entry)).await?;
        let mut backoff = Backoff::default();
        loop {
            let (command, place) = match tried {
                Outcome::Done(granted, shown) => {
                    shown.wait().await;
                    drop(turn);
                    return Ok(Granted { waited: waits.is_some(), ..granted });
                }
                Outcome::Failed(error) => return Err(error),
                Outcome::Queued(command, place) => (command, place),
            };
            waits.get_or_insert_with(|| WaitReport::begin(self, command.owner(), &place));
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

    /// Returns when the command is to be retried.
    async fn called<A: Attempt>(
        &self,
        command: &A,
        place: &QueuePlace,
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
                // The retry looks the names up as well.
                sleep(foreign.next()).await;
            } else {
                self.names_change(command, names).await;
            }
        };
        tokio::select! {
            biased;
            called = place.hear(|word| *word == WaitReply::Called) => called.map(drop),
            error = self.over(place, wait, begun) => Err(error),
            () = pause => Ok(()),
        }
    }

    /// Returns once a name of a waiting command leads to another disk, or to none. The kernel does
    /// not report this, least of all for changes on other hosts.
    async fn names_change<A: Attempt>(&self, command: &A, pauses: &mut BackoffDelays) {
        while let Some(check) = command.check_names() {
            sleep(pauses.next()).await;
            // Storage that does not respond, or a name that may not be looked up, is no evidence of
            // a change.
            if let Ok(false) = self.storage().run(check).await {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    /// Acquires the owner's command lock for a woken waiter. If the owner is busy for long, the
    /// waiter loses its priority, so that other waiters are not delayed, and retries once the lock
    /// is free.
    async fn turn_of_called(
        &self,
        id: OwnerId,
        place: &QueuePlace,
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

    /// Returns the error that ends the wait.
    async fn over(&self, place: &QueuePlace, wait: &mut Wait, begun: Instant) -> Error {
        let deadline = async {
            match wait.until {
                Some(until) => sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            withdrawn = place.hear(|word| matches!(word, WaitReply::Withdrawn(_))) => match withdrawn {
                Ok(WaitReply::Withdrawn(why)) => Error::Cancelled(why),
                Ok(_) | Err(_) => Error::Abandoned,
            },
            () = wait.caller.gone() => Error::CallerGone,
            () = deadline => self.timed_out(place, begun.elapsed()).await,
        }
    }

    async fn timed_out(&self, place: &QueuePlace, waited: Duration) -> Error {
        let refusal = {
            let state = self.state();
            let waiter = state.table.waiter(place.ticket);
            waiter.and_then(|waiter| Some((waiter.owner, state.table.refusal_of(waiter)?)))
        };
        let Some((owner, refusal)) = refusal else {
            return Error::TimedOut { waited, last: None };
        };
        let (requester, error) = (self.requester(owner), refusal.into());
        match self.storage().run(ReportRefusal { service: self.clone(), requester, error }).await {
            Ok(last) => Error::TimedOut { waited, last: Some(Box::new(last)) },
            Err(error) => error,
        }
    }

    /// Cancels all waits of an owner, and withdraws its offer; returns how many waits were
    /// cancelled.
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

    /// Cancels all waits, since the service ends or is replaced, and refuses new ones until it is
    /// called with `false`.
    pub fn close_waits(&self, closed: bool) {
        let mut state = self.state();
        state.waits_closed = closed;
        if closed {
            state.withdraw(|_| true, Why::Ending);
        }
    }

    /// Returns the number of waiting requests.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.count_waiters(|_| true)
    }

    /// Returns the number of waiting requests of the users that `counts` selects.
    #[must_use]
    pub fn count_waiters(&self, counts: impl Fn(u32) -> bool) -> usize {
        self.state().table.waiters().filter(|waiter| counts(waiter.owner.uid)).count()
    }

    /// Returns the number of requests of the users that `counts` selects which wait for the target
    /// of a lock.
    #[must_use]
    pub fn waiting_for(&self, number: u64, counts: impl Fn(u32) -> bool) -> usize {
        let state = self.state();
        let counts = |owner: OwnerId| counts(owner.uid);
        state.table.lock(number).map_or(0, |lock| state.table.waiting_for(lock, counts))
    }
}
