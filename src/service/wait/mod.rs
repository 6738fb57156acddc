//! Waiting requests: how a request waits for resources that other owners or foreign holders have
//! locked.
//!
//! A command is one function that either succeeds, fails, or enters the queue
//! ([`Command::attempt`]); [`run`] is the loop around it. A request that is refused because of a
//! lock, and that may wait, enters the table's queue under the same mutex, so no release is missed
//! in between. A waiting request holds no lock, no reservation and no thread, so two waiters cannot
//! deadlock; nor does it hold its owner's command lock, except that of an owner that is being
//! opened. Only an upgrade waits while its owner shares the resource; two of these would deadlock,
//! so the table permits one (`lock/table/wait`). Owners that wait for locks from each other's
//! earlier requests are not detected; such a wait ends by its deadline or by cancellation. A
//! release lets the table choose, under the mutex too, the waiters to wake; no other request gets
//! in between. Requests for one resource are granted in order of arrival, which prevents
//! starvation. Only for the lock of a foreign holder there is no notification: the first waiter in
//! the queue retries with backoff.
//!
//! A wait ends when the locks are granted, when it times out, when its owner ends or cancels it,
//! when its caller disconnects, or when the service ends. Waiting requests never delay a
//! re-execution or restart of the service.

pub(super) mod backoff;
pub(super) mod name_check;
mod report;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedMutexGuard;
use tokio::time::{sleep, sleep_until};

use crate::lock::OwnerId;
use crate::lock::request::{Asked, Work};
use crate::lock::table::queue::Status;
use crate::service::components::Components;
use crate::service::core::error::Error;
use crate::service::core::suspect::SUSPECT;
use crate::service::holder::refusals::{Refusals, ReportRefusal};
use crate::service::state::events::Publication;
use crate::service::state::wait_queue::{Enqueued, Notification, Presence, TicketGuard, WaitState};
use crate::service::wait::backoff::BackoffDelays;
use crate::service::wait::name_check::CheckNames;
use crate::service::wait::report::WaitReport;

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

/// A command that can be retried. Runs on worker threads.
pub(super) trait Command: Send + Sized + 'static {
    /// Returns its owner.
    fn owner(&self) -> OwnerId;

    /// Whether the command keeps its owner's command lock while it waits.
    fn keeps_command_lock(&self) -> bool {
        false
    }

    /// Returns what an attempt accesses.
    fn asks(&self) -> Vec<Asked<'_>>;

    /// Attempts the command once; it keeps its ticket if it must go on waiting.
    fn attempt(self, wait: WaitState) -> AttemptOutcome<Self>;

    /// Returns a check whether the names of its disks still lead to them; `None` if it has no
    /// names.
    fn check_names(&self) -> Option<CheckNames> {
        None
    }

    /// Rolls back what was done before the wait.
    fn roll_back(self) {}
}

/// How far an attempt has come.
pub(super) enum Progress {
    Done(Granted, Publication),
    Queued(Enqueued),
}

/// The outcome of an attempt.
pub(super) enum AttemptOutcome<C> {
    Done(Granted, Publication),
    Queued(C, TicketGuard),
    Failed(Error),
}

impl<C: Command> AttemptOutcome<C> {
    /// Returns the outcome of an attempt of `command`; a refusal is described, reported and logged,
    /// and so is the holder that the command waits for.
    pub(super) fn of(command: C, refusals: &Refusals, progress: Result<Progress, Error>) -> Self {
        match progress {
            Ok(Progress::Done(granted, publication)) => Self::Done(granted, publication),
            Ok(Progress::Queued(Enqueued { guard, refusal })) => {
                if let Some(refusal) = refusal {
                    refusals.describe_wait(command.owner(), guard.ticket, refusal);
                }
                Self::Queued(command, guard)
            }
            Err(error) => Self::Failed(refusals.describe(command.owner(), error)),
        }
    }
}

/// One attempt of a command on a worker thread.
struct Attempt<C>(C, WaitState);

impl<C: Command> Work for Attempt<C> {
    type Answer = AttemptOutcome<C>;

    fn asks(&self) -> Vec<Asked<'_>> {
        self.0.asks()
    }

    fn perform(self) -> AttemptOutcome<C> {
        self.0.attempt(self.1)
    }
}

/// The rollback of a command on a worker thread.
struct Rollback<C>(C);

impl<C: Command> Work for Rollback<C> {
    type Answer = ();

    fn perform(self) {
        self.0.roll_back();
    }
}

/// Attempts a command until it succeeds, fails, or its wait ends. `command_lock` is its owner's
/// command lock, which is released while the command waits.
pub(super) async fn run<C: Command>(
    components: &Arc<Components>,
    command: C,
    command_lock: Option<OwnedMutexGuard<()>>,
    wait: Option<Wait>,
) -> Result<Granted, Error> {
    if command.owner() != SUSPECT {
        components.suspects_gate.pass().await;
    }
    let mut report = None;
    let result = attempt_until_done(components, command, command_lock, wait, &mut report).await;
    if let Some(report) = report {
        report.end(&components.metrics, &result);
    }
    result
}

/// Runs a command as [`run`] does, under its owner's command lock.
pub(super) async fn run_locked<C: Command>(
    components: &Arc<Components>,
    command: C,
    wait: Option<Wait>,
) -> Result<Granted, Error> {
    let command_lock = components.state.lock_commands(command.owner()).await?;
    run(components, command, Some(command_lock), wait).await
}

/// Runs a command as [`run`] does; `report` is set when the wait begins.
async fn attempt_until_done<C: Command>(
    components: &Arc<Components>,
    command: C,
    mut command_lock: Option<OwnedMutexGuard<()>>,
    wait: Option<Wait>,
    report: &mut Option<WaitReport>,
) -> Result<Granted, Error> {
    let (begun, user) = (Instant::now(), command.owner().uid);
    let mut backoff = Backoff::default();
    let first =
        wait.as_ref().map_or(WaitState::NoWait, |wait| WaitState::MayWait(wait.caller.clone()));
    let mut attempted = components.executor.run_for(user, Attempt(command, first)).await?;
    loop {
        let (command, guard) = match attempted {
            AttemptOutcome::Done(granted, publication) => {
                publication.wait().await;
                drop(command_lock);
                return Ok(Granted { waited: report.is_some(), ..granted });
            }
            AttemptOutcome::Failed(error) => return Err(error),
            AttemptOutcome::Queued(command, guard) => (command, guard),
        };
        if report.is_none() {
            *report = Some(WaitReport::begin(&components.state(), command.owner(), &guard));
        }
        drop(command_lock.take());
        let Some(wait) = wait.clone() else { return Err(Error::Abandoned) };
        let mut waiter = Waiter { components, guard: &guard, wait, begun };
        match waiter.wait_for_retry(&command, &mut backoff).await {
            Ok(acquired) => command_lock = acquired,
            Err(error) => {
                drop(guard);
                components.executor.run(Rollback(command)).await?;
                return Err(error);
            }
        }
        let retry = Attempt(command, WaitState::Queued(waiter.wait.caller, guard));
        attempted = match components.executor.run_or_return_for(Some(user), retry).await {
            Ok(attempted) => attempted,
            Err((error, not_started)) => {
                if let Some(Attempt(command, wait)) = not_started {
                    drop(wait);
                    components.executor.run(Rollback(command)).await?;
                }
                return Err(error);
            }
        };
    }
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

/// A command that waits in the queue.
struct Waiter<'w> {
    components: &'w Arc<Components>,
    guard: &'w TicketGuard,
    wait: Wait,
    begun: Instant,
}

impl Waiter<'_> {
    /// Returns when the command is to be retried, with its owner's command lock unless the command
    /// has kept it.
    async fn wait_for_retry<C: Command>(
        &mut self,
        command: &C,
        backoff: &mut Backoff,
    ) -> Result<Option<OwnedMutexGuard<()>>, Error> {
        self.wait_for_wakeup(command, backoff).await?;
        if command.keeps_command_lock() {
            return Ok(None);
        }
        self.acquire_command_lock(command.owner()).await.map(Some)
    }

    /// Returns when the table has woken the command, or when it is to be retried with backoff.
    async fn wait_for_wakeup<C: Command>(
        &mut self,
        command: &C,
        backoff: &mut Backoff,
    ) -> Result<(), Error> {
        let Backoff { foreign, names } = backoff;
        let is_blocked_by_foreign_holder = {
            let state = self.components.state();
            let waiter = state.table.waiter(self.guard.ticket);
            waiter.is_some_and(|waiter| matches!(waiter.status, Status::Elsewhere(..)))
        };
        let (components, guard) = (self.components, self.guard);
        let delay = async {
            if is_blocked_by_foreign_holder {
                // The retry looks the names up as well.
                sleep(foreign.next()).await;
            } else {
                names_change(components, command, names).await;
            }
        };
        tokio::select! {
            biased;
            woken = guard.notified(|word| *word == Notification::Retry) => woken.map(drop),
            error = self.end() => Err(error),
            () = delay => Ok(()),
        }
    }

    /// Acquires the owner's command lock for a woken waiter. If the owner is busy for long, the
    /// waiter loses its priority, so that other waiters are not delayed, and retries once the lock
    /// is free.
    async fn acquire_command_lock(&mut self, id: OwnerId) -> Result<OwnedMutexGuard<()>, Error> {
        let command_lock = self.components.state().command_lock(id)?;
        if let Ok(acquired) = Arc::clone(&command_lock).try_lock_owned() {
            return Ok(acquired);
        }
        let (components, guard) = (self.components, self.guard);
        let end = self.end();
        tokio::pin!(end);
        tokio::select! {
            acquired = Arc::clone(&command_lock).lock_owned() => return Ok(acquired),
            error = &mut end => return Err(error),
            () = sleep(PATIENCE) => {}
        }
        components.state().table.wait_busy(guard.ticket);
        tokio::select! {
            acquired = command_lock.lock_owned() => Ok(acquired),
            error = end => Err(error),
        }
    }

    /// Returns the error that ends the wait.
    async fn end(&mut self) -> Error {
        let until = self.wait.until;
        let deadline = async {
            match until {
                Some(until) => sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        let is_cancelled = |word: &Notification| matches!(word, Notification::Cancelled(_));
        tokio::select! {
            biased;
            cancelled = self.guard.notified(is_cancelled) => match cancelled {
                Ok(Notification::Cancelled(reason)) => Error::Cancelled(reason),
                Ok(_) | Err(_) => Error::Abandoned,
            },
            () = self.wait.caller.gone() => Error::CallerGone,
            () = deadline => timed_out(self.components, self.guard, self.begun.elapsed()).await,
        }
    }
}

/// Returns once a name of a waiting command leads to another disk, or to none. The kernel does not
/// report this, least of all for changes on other hosts.
async fn names_change<C: Command>(
    components: &Components,
    command: &C,
    delays: &mut BackoffDelays,
) {
    while let Some(check) = command.check_names() {
        sleep(delays.next()).await;
        // Storage that does not respond, or a name that may not be looked up, is no evidence of a
        // change.
        if let Ok(false) = components.executor.run(check).await {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// Returns the error of a wait that has timed out, with the holder that still blocks it.
async fn timed_out(components: &Components, guard: &TicketGuard, waited: Duration) -> Error {
    let refusal = {
        let state = components.state();
        let waiter = state.table.waiter(guard.ticket);
        waiter.and_then(|waiter| Some((waiter.owner, state.table.refusal_of(waiter)?)))
    };
    let Some((owner, refusal)) = refusal else {
        return Error::TimedOut { waited, last: None };
    };
    let (requester, error) = (components.state.requester(owner), refusal.into());
    let report = ReportRefusal { refusals: Arc::clone(&components.refusals), requester, error };
    match components.executor.run(report).await {
        Ok(last) => Error::TimedOut { waited, last: Some(Box::new(last)) },
        Err(error) => error,
    }
}
