//! Who performs requests to the file system: threads of the service, outside the event loop.
//!
//! All of it goes through [`Storage::run`], where what may not answer is asked first by a process
//! that may be left behind ([`crate::service::io::mount_gate`]); and where a local file system that hangs gets no more
//! than some of the threads ([`crate::service::io::local_gate`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::lock::mount::Mount;
use crate::lock::request::{Asked, Work};
use crate::service::core::error::Error;
use crate::service::io::local_gate::{Entered, Local};
use crate::service::io::mount_gate::{Lanes, PATIENCE, Silent};
use crate::service::io::mount_route::{Followed, Route};

/// How long until a file system that does not answer is asked again for what has to be done there.
const AGAIN: Duration = Duration::from_secs(1);

/// The performer of [`Work`].
#[derive(Debug, Default)]
pub struct Storage {
    load: watch::Sender<Load>,
    lanes: Arc<Lanes>,
    local: Arc<Local>,
    stuck: Arc<AtomicUsize>,
}

/// The right to have a request with some file systems.
#[derive(Debug, Default)]
pub struct Passes {
    _permits: Vec<OwnedSemaphorePermit>,
    _entered: Option<Entered>,
}

/// A request that a storage thread is to perform.
struct Next<W> {
    work: W,
    /// The names that it asks for, once they are known.
    route: Option<Route>,
    /// Its place among the requests to local mounts, once it has one.
    entered: Option<Entered>,
}

/// A request that was not performed.
struct Turned<W> {
    work: W,
    why: Why,
}

/// Why a request was not performed.
enum Why {
    /// These remote mounts have to answer first.
    Remote(Vec<Mount>),
    /// There are too many requests on the local mounts that come next on this route.
    Full(Route),
}

impl<W: Work> Next<W> {
    /// Performs the request if all that it asks is local, and there is room. For a storage thread.
    fn perform(self, local: &Arc<Local>, user: Option<u32>) -> Result<W::Answer, Turned<W>> {
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
            return Err(Turned { work, why: Why::Full(route) });
        };
        match route.follow(&mut entered) {
            Followed::Local => Ok(work.perform()),
            Followed::Remote(far) => Err(Turned { work, why: Why::Remote(far) }),
            Followed::Full => Err(Turned { work, why: Why::Full(route) }),
        }
    }
}

/// What is being performed.
#[derive(Debug, Clone, Default)]
struct Load {
    /// The numbers of the requests.
    running: BTreeSet<u64>,
    /// The number of the next one.
    next: u64,
    /// Nothing more is let in.
    closed: bool,
}

impl Load {
    /// Enters one request more, and returns its number.
    fn begin(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        self.running.insert(number);
        number
    }
}

impl Storage {
    /// Has a request performed and waits for its answer. Where somebody else serves the file system
    /// that it asks, it is begun only if that one answers.
    ///
    /// # Errors
    ///
    /// [`Error::Silent`]: nothing was done. [`Error::Abandoned`] where the thread panicked or the service ends.
    pub async fn run<W: Work>(&self, work: W) -> Result<W::Answer, Error> {
        self.run_or_back(work).await.map_err(|(error, _)| error)
    }

    /// Has a request performed for a user, which has no more than its share of the threads.
    ///
    /// # Errors
    ///
    /// As for [`Self::run`].
    pub async fn run_for<W: Work>(&self, uid: u32, work: W) -> Result<W::Answer, Error> {
        self.run_or_back_for(Some(uid), work).await.map_err(|(error, _)| error)
    }

    /// The same as [`Self::run`]; what could not be begun comes back.
    ///
    /// # Errors
    ///
    /// As for [`Self::run`].
    pub async fn run_or_back<W: Work>(&self, work: W) -> Result<W::Answer, (Error, Option<W>)> {
        self.run_or_back_for(None, work).await
    }

    /// The same for a user.
    ///
    /// # Errors
    ///
    /// As for [`Self::run`].
    pub(in crate::service) async fn run_or_back_for<W: Work>(
        &self,
        uid: Option<u32>,
        work: W,
    ) -> Result<W::Answer, (Error, Option<W>)> {
        // Root, and the user whose instance this is, have no quota.
        let user = uid.filter(|uid| *uid != 0 && *uid != rustix::process::geteuid().as_raw());
        let mut until = None;
        let mut next = Next { work, route: None, entered: None };
        let (work, far) = loop {
            let local = Arc::clone(&self.local);
            let looked = self.on_thread(move || next.perform(&local, user));
            // Local file systems may hang, too: one that is frozen, or a scanner that does not answer.
            let looked = self.attended(looked, &[]).await.map_err(|error| (error, None))?;
            let (work, route) = match looked {
                Ok(answer) => return Ok(answer),
                Err(Turned { work, why: Why::Remote(far) }) => break (work, far),
                Err(Turned { work, why: Why::Full(route) }) => (work, route),
            };
            // However many links there are, it waits no longer.
            let until = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
            let entered = match self.local.admit(&route.local(), user, until).await {
                Ok(entered) => entered,
                Err(error) => return Err((error, Some(work))),
            };
            next = Next { work, route: Some(route), entered: Some(entered) };
        };
        let passes = match self.lanes.admit(&far).await {
            Ok(passes) => passes,
            Err(error) => return Err((error, Some(work))),
        };
        let performed = self.on_thread(move || {
            let answer = work.perform();
            drop(passes);
            answer
        });
        self.attended(performed, &far).await.map_err(|error| (error, None))
    }

    /// Waits for what is with these file systems by now. What takes too long there can't be taken
    /// back, and whether it is done nobody knows; but it is counted, and they are silent meanwhile.
    async fn attended<T>(
        &self,
        performed: impl Future<Output = Result<T, Error>>,
        far: &[Mount],
    ) -> Result<T, Error> {
        tokio::pin!(performed);
        if let Ok(done) = timeout(PATIENCE, &mut performed).await {
            return done;
        }
        let _stuck = Stuck::one_more(&self.stuck);
        self.lanes.doubt(far);
        performed.await
    }

    /// How many requests are with file systems that have left them without an answer.
    #[must_use]
    pub fn stuck(&self) -> usize {
        self.stuck.load(Ordering::Relaxed)
    }

    /// How many requests were refused since a local file system had left too many without an answer.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.local.refused()
    }

    /// The same for what has to be done, sooner or later.
    ///
    /// # Errors
    ///
    /// As for [`Self::run`], but for a file system that does not answer: that is waited for.
    pub async fn run_at_last<W: Work>(&self, mut work: W) -> Result<W::Answer, Error> {
        loop {
            work = match self.run_or_back(work).await {
                Err((Error::Silent(_), Some(work))) => work,
                done => return done.map_err(|(error, _)| error),
            };
            sleep(AGAIN).await;
        }
    }

    /// Lets a storage thread do by itself what asks these, until what it gets is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Silent`].
    pub fn admit_here(&self, asked: &[Asked<'_>]) -> Result<Passes, Error> {
        if asked.is_empty() {
            return Ok(Passes::default());
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
                    return Ok(Passes { _entered: Some(here), ..Passes::default() });
                }
                Followed::Remote(far) => {
                    drop(here);
                    let permits = handle.block_on(self.lanes.admit(&far))?;
                    return Ok(Passes { _permits: permits, ..Passes::default() });
                }
                Followed::Full => entered = None,
            }
        }
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let running = Running::one_more(&self.load);
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

    /// Whether any of these leads to a file system that another host or process serves. For a storage
    /// thread.
    #[allow(clippy::unused_self, reason = "callers ask the storage, whatever knows it")]
    pub(in crate::service) fn is_far(&self, asked: &[Asked<'_>]) -> bool {
        !Lanes::far(asked).is_empty()
    }

    /// Whether another host may have any of these as well. An overlay is this host's own, whatever its
    /// layers are on.
    #[allow(clippy::unused_self, reason = "callers ask the storage, whatever knows it")]
    pub(in crate::service) fn may_be_shared(&self, asked: &[Asked<'_>]) -> bool {
        Lanes::far(asked).iter().any(|mount| mount.kind != "overlay")
    }

    /// Returns when a file system answers again that did not, or [`Self::look_again`] is called.
    pub(in crate::service) async fn heard(&self) {
        self.lanes.heard().notified().await;
    }

    /// Has locks looked at before their time.
    pub(in crate::service) fn look_again(&self) {
        self.lanes.heard().notify_one();
    }

    /// The file systems that do not answer.
    #[must_use]
    pub fn silent(&self) -> Vec<Silent> {
        self.lanes.silent()
    }

    /// Lets a thread perform requests by itself, until what it gets is dropped. `None`: not now.
    #[must_use]
    pub fn enter(&self) -> Option<Running> {
        let mut number = 0;
        let entered = self.load.send_if_modified(|load| {
            if !load.closed {
                number = load.begin();
            }
            !load.closed
        });
        entered.then(|| Running(self.load.clone(), number))
    }

    /// Lets threads in no more, or again.
    pub fn close(&self, closed: bool) {
        self.load.send_modify(|load| load.closed = closed);
    }

    /// Blocks until threads may come in again.
    pub fn wait_open(&self) {
        let mut load = self.load.subscribe();
        // Its sender is ours, so it never ends.
        let _ = tokio::runtime::Handle::current().block_on(load.wait_for(|load| !load.closed));
    }

    /// Returns once no request is being performed.
    pub async fn idle(&self) {
        let _ = self.load.subscribe().wait_for(|load| load.running.is_empty()).await;
    }

    /// Waits for all requests that have begun, and not for those that begin meanwhile. Returns whether
    /// they have ended in time; the others hang.
    pub async fn is_responsive(&self) -> bool {
        if self.stuck() > 0 {
            return false;
        }
        let mut load = self.load.subscribe();
        let next = load.borrow().next;
        let over = |load: &Load| load.running.first().is_none_or(|first| *first >= next);
        timeout(PATIENCE, load.wait_for(over)).await.is_ok()
    }
}

/// One request more, until it is dropped.
#[derive(Debug)]
pub struct Running(watch::Sender<Load>, u64);

impl Running {
    fn one_more(load: &watch::Sender<Load>) -> Self {
        let mut number = 0;
        load.send_modify(|load| number = load.begin());
        Self(load.clone(), number)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|load| {
            load.running.remove(&self.1);
        });
    }
}

/// One request more without an answer, until it is dropped.
struct Stuck(Arc<AtomicUsize>);

impl Stuck {
    fn one_more(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
