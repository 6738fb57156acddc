//! The executor: runs blocking file-system requests on worker threads, off the event loop.
//!
//! Every request goes through [`Executor::run`]. Two kinds of admission control bound what a hung
//! file system can occupy: before a request to a remote mount, a separate process probes the mount,
//! and that process can be abandoned ([`crate::service::io::mount_gate`]); requests to local file
//! systems get a limited share of the worker threads ([`crate::service::io::local_gate`]).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, sleep, timeout};

use crate::lock::mount::Mount;
use crate::lock::request::{Asked, Work};
use crate::service::core::error::{Error, UnresponsiveMount};
use crate::service::io::local_gate::{Entered, Local};
use crate::service::io::mount_gate::{MountGates, PATIENCE};
use crate::service::io::mount_route::{Followed, Route};
use crate::sync::{self, Counter};

/// The retry interval of [`Executor::run_with_retry`] for a file system that does not respond.
const AGAIN: Duration = Duration::from_secs(1);

/// The executor of [`Work`].
#[derive(Debug, Default)]
pub struct Executor {
    load: Arc<Load>,
    gates: Arc<MountGates>,
    local: Arc<Local>,
    hung: Counter,
}

/// The permits of admission control for one request, released on drop.
#[derive(Debug, Default)]
pub struct Permits {
    _permits: Vec<OwnedSemaphorePermit>,
    _entered: Option<Entered>,
}

/// A request for a worker thread.
struct Next<W> {
    work: W,
    /// The route of its names; `None` until the first attempt.
    route: Option<Route>,
    /// Its admission to local mounts; `None` until it is admitted.
    entered: Option<Entered>,
}

/// A request that was not performed.
struct Rejected<W> {
    work: W,
    why: RejectReason,
}

/// Why a request was not performed.
enum RejectReason {
    /// The request leads to these remote mounts, which must respond first.
    Remote(Vec<Mount>),
    /// The local mounts that come next on this route have too many requests in progress.
    Full(Route),
}

impl<W: Work> Next<W> {
    /// Performs the request if it leads to local mounts only and these admit it. Call it on a
    /// worker thread.
    fn perform(self, local: &Arc<Local>, user: Option<u32>) -> Result<W::Answer, Rejected<W>> {
        let Self { work, route, entered } = self;
        let mut route = if let Some(route) = route {
            route
        } else {
            let asks = work.asks();
            let (nothing, route) = (asks.is_empty(), Route::new(&asks));
            drop(asks);
            if nothing {
                return Ok(work.perform());
            }
            route
        };
        let Some(mut entered) = entered.or_else(|| local.try_admit(&route.local(), user)) else {
            return Err(Rejected { work, why: RejectReason::Full(route) });
        };
        match route.follow(&mut entered) {
            Followed::Local => Ok(work.perform()),
            Followed::Remote(remote) => Err(Rejected { work, why: RejectReason::Remote(remote) }),
            Followed::Full => Err(Rejected { work, why: RejectReason::Full(route) }),
        }
    }
}

/// The requests that are in progress.
#[derive(Debug, Default)]
struct Load {
    requests: Mutex<Requests>,
    /// Notified when a request ends, and when the executor is opened.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Requests {
    /// The numbers of the requests that have a thread or wait for one.
    running: Vec<u64>,
    /// The number of the next request.
    next: u64,
    /// Whether new requests of other threads are refused (see [`Executor::register_request`]).
    closed: bool,
}

impl Load {
    /// Adds a request, unless the executor is closed to it.
    fn begin(self: &Arc<Self>, is_refused: impl FnOnce(&Requests) -> bool) -> Option<Running> {
        let mut requests = sync::lock(&self.requests);
        if is_refused(&requests) {
            return None;
        }
        let number = requests.next;
        requests.next += 1;
        requests.running.push(number);
        Some(Running(Arc::clone(self), number))
    }

    /// Returns once `is_met` returns `true`.
    async fn wait_for(&self, is_met: impl Fn(&Requests) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Enabled before the check, so that no change is missed in between.
            changed.as_mut().enable();
            if is_met(&sync::lock(&self.requests)) {
                return;
            }
            changed.await;
        }
    }
}

impl Executor {
    /// Performs a request and returns its answer. A request to a remote mount starts only if the
    /// mount responds.
    ///
    /// # Errors
    ///
    /// [`Error::UnresponsiveMount`]: the request was not performed. [`Error::Abandoned`]: the
    /// worker thread panicked or the service is shutting down.
    pub async fn run<W: Work>(&self, work: W) -> Result<W::Answer, Error> {
        self.run_or_return(work).await.map_err(|(error, _)| error)
    }

    /// Performs a request on behalf of a user, within that user's share of the worker threads.
    ///
    /// # Errors
    ///
    /// As for [`Self::run`].
    pub async fn run_for<W: Work>(&self, uid: u32, work: W) -> Result<W::Answer, Error> {
        self.run_or_return_for(Some(uid), work).await.map_err(|(error, _)| error)
    }

    /// Performs a request as [`Self::run`] does; returns the request itself if it could not start.
    ///
    /// # Errors
    ///
    /// As for [`Self::run`].
    pub async fn run_or_return<W: Work>(&self, work: W) -> Result<W::Answer, (Error, Option<W>)> {
        self.run_or_return_for(None, work).await
    }

    /// Performs a request on behalf of a user, if any; returns the request itself if it could not
    /// start.
    ///
    /// # Errors
    ///
    /// As for [`Self::run`].
    pub(in crate::service) async fn run_or_return_for<W: Work>(
        &self,
        uid: Option<u32>,
        work: W,
    ) -> Result<W::Answer, (Error, Option<W>)> {
        // Root and the user that this instance runs as have no quota.
        let user = uid.filter(|uid| *uid != 0 && *uid != rustix::process::geteuid().as_raw());
        let mut until = None;
        let mut next = Next { work, route: None, entered: None };
        let (work, remote) = loop {
            let local = Arc::clone(&self.local);
            let performed = self.on_thread(move || next.perform(&local, user));
            // A local file system may hang too: it is frozen, or a malware scanner does not
            // respond.
            let performed =
                self.wait_for_answer(performed, &[]).await.map_err(|error| (error, None))?;
            let (work, route) = match performed {
                Ok(answer) => return Ok(answer),
                Err(Rejected { work, why: RejectReason::Remote(remote) }) => break (work, remote),
                Err(Rejected { work, why: RejectReason::Full(route) }) => (work, route),
            };
            // The deadline covers the whole request, however many links its names go through.
            let until = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
            let entered = match self.local.admit(&route.local(), user, until).await {
                Ok(entered) => entered,
                Err(error) => return Err((error, Some(work))),
            };
            next = Next { work, route: Some(route), entered: Some(entered) };
        };
        let permits = match self.gates.admit(&remote).await {
            Ok(permits) => permits,
            Err(error) => return Err((error, Some(work))),
        };
        let performed = self.on_thread(move || {
            let answer = work.perform();
            drop(permits);
            answer
        });
        self.wait_for_answer(performed, &remote).await.map_err(|error| (error, None))
    }

    /// Waits for a request that is in progress on these file systems. A request that takes longer
    /// than [`PATIENCE`] cannot be cancelled, and its outcome is unknown; until it returns it is
    /// counted as hung, and these mounts are marked as unresponsive.
    async fn wait_for_answer<T>(
        &self,
        performed: impl Future<Output = Result<T, Error>>,
        remote: &[Mount],
    ) -> Result<T, Error> {
        tokio::pin!(performed);
        if let Ok(done) = timeout(PATIENCE, &mut performed).await {
            return done;
        }
        let _hung = self.hung.increment();
        self.gates.mark_unresponsive(remote);
        performed.await
    }

    /// Returns how many requests are hung.
    #[must_use]
    pub fn hung_count(&self) -> usize {
        self.hung.count()
    }

    /// Returns how many requests were refused because a local file system had too many hung
    /// requests.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.local.refused()
    }

    /// Performs a request that must be performed eventually: retries it at a fixed interval while
    /// the file system does not respond.
    ///
    /// # Errors
    ///
    /// As for [`Self::run`], except [`Error::UnresponsiveMount`], which is retried.
    pub async fn run_with_retry<W: Work>(&self, mut work: W) -> Result<W::Answer, Error> {
        loop {
            work = match self.run_or_return(work).await {
                Err((Error::UnresponsiveMount(_), Some(work))) => work,
                done => return done.map_err(|(error, _)| error),
            };
            sleep(AGAIN).await;
        }
    }

    /// Admits the calling worker thread to the mounts that `asked` leads to, until the result is
    /// dropped.
    ///
    /// # Errors
    ///
    /// [`Error::UnresponsiveMount`].
    pub fn admit_here(&self, asked: &[Asked<'_>]) -> Result<Permits, Error> {
        if asked.is_empty() {
            return Ok(Permits::default());
        }
        let (handle, until) = (tokio::runtime::Handle::current(), Instant::now() + PATIENCE);
        let mut route = Route::new(asked);
        let mut entered = self.local.try_admit(&route.local(), None);
        loop {
            let mut here = match entered {
                Some(entered) => entered,
                None => handle.block_on(self.local.admit(&route.local(), None, until))?,
            };
            match route.follow(&mut here) {
                Followed::Local => {
                    return Ok(Permits { _entered: Some(here), ..Permits::default() });
                }
                Followed::Remote(remote) => {
                    drop(here);
                    let permits = handle.block_on(self.gates.admit(&remote))?;
                    return Ok(Permits { _permits: permits, ..Permits::default() });
                }
                Followed::Full => entered = None,
            }
        }
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let running = self.load.begin(|_| false);
        let done = tokio::task::spawn_blocking(move || {
            let done = what();
            drop(running);
            done
        });
        done.await.map_err(|error| {
            tracing::error!(%error, "a file system request panicked");
            Error::Abandoned
        })
    }

    /// Returns when an unresponsive file system responds again, or when [`Self::verify_soon`] is
    /// called.
    pub(in crate::service) async fn responds_again(&self) {
        self.gates.responds_again().notified().await;
    }

    /// Triggers the verification of locks before its scheduled time.
    pub(in crate::service) fn verify_soon(&self) {
        self.gates.responds_again().notify_one();
    }

    /// Returns the file systems that do not respond.
    #[must_use]
    pub fn unresponsive(&self) -> Vec<UnresponsiveMount> {
        self.gates.unresponsive()
    }

    /// Registers the calling thread, which performs requests by itself, until the result is
    /// dropped. Returns `None` while the executor is closed.
    #[must_use]
    pub fn register_request(&self) -> Option<Running> {
        self.load.begin(|requests| requests.closed)
    }

    /// Closes the executor to new threads, or opens it again.
    pub fn close(&self, closed: bool) {
        sync::lock(&self.load.requests).closed = closed;
        self.load.changed.notify_waiters();
    }

    /// Blocks until the executor is open.
    pub fn wait_open(&self) {
        let is_open = self.load.wait_for(|requests| !requests.closed);
        tokio::runtime::Handle::current().block_on(is_open);
    }

    /// Returns once no request is in progress.
    pub async fn idle(&self) {
        self.load.wait_for(|requests| requests.running.is_empty()).await;
    }

    /// Waits for the requests that are in progress now, not for those that start meanwhile. Returns
    /// whether all of them ended in time; otherwise at least one of them hangs.
    pub async fn is_responsive(&self) -> bool {
        if self.hung_count() > 0 {
            return false;
        }
        let next = sync::lock(&self.load.requests).next;
        let over = |requests: &Requests| requests.running.iter().all(|number| *number >= next);
        timeout(PATIENCE, self.load.wait_for(over)).await.is_ok()
    }
}

/// A request in progress, counted until it is dropped.
#[derive(Debug)]
pub struct Running(Arc<Load>, u64);

impl Drop for Running {
    fn drop(&mut self) {
        sync::lock(&self.0.requests).running.retain(|number| *number != self.1);
        self.0.changed.notify_waiters();
    }
}
