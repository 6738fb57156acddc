//! The service's side of the inspector: sends queries to a pool of workers, and abandons workers
//! that hang.
//!
//! 1. [`Inspector::request`] sends a query to an idle worker, or to a new one, and waits for the
//!    reply until a deadline. The methods in [`queries`] wrap it.
//! 2. A worker that makes no progress is killed, abandoned and replaced, and the process at which
//!    it hung is added to the skip list.
//! 3. [`thread_quota`] bounds the threads that wait here, and [`timeouts`] has the timeouts of the
//!    service's requests.
//! 4. [`worker_process`] starts a worker and talks to it.

mod queries;
mod thread_quota;
pub mod timeouts;
pub(super) mod worker_process;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use self::thread_quota::ThreadQuota;
use self::worker_process::{QueryOutcome, WorkerLauncher, WorkerProcess};
use super::error::Error;
use super::progress::Progress;
use super::protocol::{Query, Reply, Request};
use super::requester::Requester;
use super::skip_list::SkipList;
use crate::sync::lock;

/// The maximum number of workers, hung ones included.
const MAX_WORKERS: usize = 8;
/// The number of workers that are reserved for root, the libvirt frontend and the service itself.
const RESERVED_WORKERS: usize = 2;
/// The maximum number of workers that other users may occupy.
pub const MAX_ORDINARY_WORKERS: usize = MAX_WORKERS - RESERVED_WORKERS;
/// The maximum number of idle workers.
const MAX_IDLE: usize = 1;
/// A worker that makes no progress for this time counts as hung.
const HANG_TIMEOUT: Duration = Duration::from_millis(100);
/// The timeout for a worker that resolves names in file systems, which may be slow.
const LOOKUP_HANG_TIMEOUT: Duration = Duration::from_secs(1);
/// The interval at which the progress of a worker is read, and at which a waiting requester checks
/// for a free worker.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long the start of a worker may take.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a process is skipped after the worker that hung at it has died, in microseconds.
const SKIP_DURATION_US: u64 = 60_000_000;

/// A handle to the pool of workers. The default handle has no workers, and fails all queries.
#[derive(Debug, Clone, Default)]
pub struct Inspector(Arc<Shared>);

#[derive(Default)]
struct Shared {
    launcher: Option<WorkerLauncher>,
    pool: Mutex<Pool>,
    /// Notified when a worker or a requester becomes free.
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Pool {
    /// Workers that wait for a query.
    idle: Vec<WorkerProcess>,
    /// Requesters that have a query in progress.
    active: HashSet<Requester>,
    /// Threads that have a query in progress, or wait for a worker.
    threads: ThreadQuota,
    /// Workers that were abandoned and are not dead yet, with their last progress.
    abandoned: Vec<(WorkerProcess, Progress)>,
    skipped: SkipList,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("launcher", &self.launcher).finish_non_exhaustive()
    }
}

impl Inspector {
    /// Creates a pool whose workers `launcher` starts.
    #[must_use]
    pub fn new(launcher: WorkerLauncher) -> Self {
        Self(Arc::new(Shared { launcher: Some(launcher), ..Shared::default() }))
    }

    /// Starts a worker unless one is idle, so that the first query need not wait for it. Blocks
    /// until the worker is ready.
    pub fn prestart(&self) {
        let Some(launcher) = &self.0.launcher else { return };
        if !self.pool().idle.is_empty() {
            return;
        }
        let register =
            |mut worker: WorkerProcess| match worker.wait_ready(Instant::now() + START_TIMEOUT) {
                Ok(()) => {
                    self.return_to_pool(worker);
                    Ok(())
                }
                Err(error) => {
                    self.abandon(worker, Progress::default(), false);
                    Err(error)
                }
            };
        if let Err(error) = launcher.launch().and_then(register) {
            tracing::warn!(%error, "cannot start an inspector; refusals will not name foreign holders");
        }
    }

    /// Sends a query and waits for its reply, until the timeout at most. Blocks the calling thread.
    ///
    /// A worker that hangs is replaced while there is time: the next worker skips the process at
    /// which it hung.
    ///
    /// # Errors
    ///
    /// [`Error`].
    fn request(
        &self,
        requester: Requester,
        query: Query,
        timeout: Duration,
    ) -> Result<Reply, Error> {
        let deadline = Instant::now() + timeout;
        let Some(launcher) = &self.0.launcher else {
            return Err(Error::Start(io::ErrorKind::Unsupported.into()));
        };
        let _thread = self.reserve_thread(requester)?;
        let _slot = self.acquire_slot(requester, deadline)?;
        let mut request =
            Request { query, service_pid: std::process::id(), skipped: SkipList::default() };
        // With a long timeout, a worker that only waits for a processor is not taken for hung.
        let hang_timeout = HANG_TIMEOUT.max(timeout / 8);
        let mut reused = 0;
        loop {
            let idle = {
                let mut pool = self.pool();
                request.skipped.clone_from(&pool.skipped);
                pool.idle.pop()
            };
            // An idle worker may have exited, or may run a program that was replaced. The query is
            // retried with another worker.
            reused += usize::from(idle.is_some());
            let retry = idle.is_some() && reused <= MAX_IDLE;
            let launched = match idle {
                Some(worker) => Ok(worker),
                None => launcher.launch().map_err(Error::Start),
            };
            let mut worker = launched?;
            let hang_timeout = match request.query {
                Query::Look(_) => LOOKUP_HANG_TIMEOUT,
                _ => hang_timeout,
            };
            match worker.query(&request, deadline, hang_timeout, POLL_INTERVAL) {
                QueryOutcome::Reply(reply) => {
                    self.return_to_pool(worker);
                    return Ok(reply);
                }
                QueryOutcome::Ended(why) => {
                    self.abandon(worker, Progress::default(), false);
                    if !retry {
                        return Err(Error::Worker(why));
                    }
                }
                QueryOutcome::Hung(progress) => {
                    self.abandon(worker, progress, true);
                    if Instant::now() >= deadline {
                        return Err(Error::Late);
                    }
                    self.check_capacity(requester)?;
                }
                QueryOutcome::TimedOut(progress) => {
                    self.abandon(worker, progress, false);
                    return Err(Error::Late);
                }
            }
        }
    }

    /// Counts the calling thread.
    fn reserve_thread(&self, requester: Requester) -> Result<ThreadGuard<'_>, Error> {
        let reserved = self.pool().threads.reserve(requester);
        if reserved { Ok(ThreadGuard { inspector: self, requester }) } else { Err(Error::Busy) }
    }

    /// Waits until the requester has no query in progress, and a worker is available.
    fn acquire_slot(
        &self,
        requester: Requester,
        deadline: Instant,
    ) -> Result<SlotGuard<'_>, Error> {
        let mut pool = self.pool();
        loop {
            pool.reap();
            let busy = pool.active.contains(&requester);
            if !busy && pool.has_capacity(requester) {
                pool.active.insert(requester);
                return Ok(SlotGuard { inspector: self, requester });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(if busy { Error::Late } else { Error::Busy });
            }
            let waited = self.0.freed.wait_timeout(pool, left.min(POLL_INTERVAL));
            pool = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Checks that an abandoned worker may be replaced.
    fn check_capacity(&self, requester: Requester) -> Result<(), Error> {
        let mut pool = self.pool();
        pool.reap();
        // The requester itself is counted already.
        pool.active.remove(&requester);
        let has_capacity = pool.has_capacity(requester);
        pool.active.insert(requester);
        if has_capacity { Ok(()) } else { Err(Error::Busy) }
    }

    fn return_to_pool(&self, worker: WorkerProcess) {
        let mut pool = self.pool();
        if pool.idle.len() < MAX_IDLE {
            pool.idle.push(worker);
            return;
        }
        drop(pool);
        self.abandon(worker, Progress::default(), false);
    }

    /// Abandons a worker: it is killed, and counted until it is dead.
    fn abandon(&self, mut worker: WorkerProcess, progress: Progress, hung: bool) {
        worker.kill();
        let mut pool = self.pool();
        if hung && progress.pid != 0 {
            pool.skipped.add(progress, since_boot());
            tracing::debug!(
                pid = progress.pid,
                uid = progress.uid,
                "an inspector hangs while it reads process {}",
                progress.pid
            );
        }
        pool.abandoned.push((worker, progress));
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        lock(&self.0.pool)
    }
}

impl Pool {
    fn has_capacity(&self, requester: Requester) -> bool {
        let most = if requester.is_privileged() { MAX_WORKERS } else { MAX_ORDINARY_WORKERS };
        self.active.len() + self.abandoned.len() < most
    }

    /// Removes workers that have died, and processes that need not be skipped any more.
    fn reap(&mut self) {
        self.abandoned.retain_mut(|(worker, _)| !worker.has_exited());
        let now = since_boot();
        let Self { abandoned, skipped, .. } = self;
        skipped.retain(|hang| {
            let hangs = abandoned.iter().any(|(_, progress)| progress.pid == hang.pid);
            hangs || now.saturating_sub(hang.at) < SKIP_DURATION_US
        });
    }
}

/// A thread that has a query in progress or waits. Uncounts the thread on drop.
struct ThreadGuard<'i> {
    inspector: &'i Inspector,
    requester: Requester,
}

impl Drop for ThreadGuard<'_> {
    fn drop(&mut self) {
        self.inspector.pool().threads.release(self.requester);
    }
}

/// The right of a requester to have a query in progress. Released on drop.
struct SlotGuard<'i> {
    inspector: &'i Inspector,
    requester: Requester,
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        self.inspector.pool().active.remove(&self.requester);
        self.inspector.0.freed.notify_all();
    }
}

/// Returns the time since boot in microseconds, which is the clock of process start times.
fn since_boot() -> u64 {
    let now = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
