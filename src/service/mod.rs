//! Floor 2: the service, the only writer of the table.
//!
//! A [`Service`] is a cheap handle on one state behind one `std` mutex. The mutex is held for
//! decisions only: never across an await, a system call or a file access. The work that follows
//! from a decision is done outside of it, on worker threads ([`io::executor`]), and the result is
//! entered under the mutex again. The numbered steps are at the head of [`lock::acquire`] and
//! [`lock::release`].
//!
//! The commands of one owner run one after the other, under its *command lock*, so that no command
//! sees an unfinished one of the same owner. Commands of different owners run concurrently.

pub mod core;
pub mod io;
mod lock;
mod lockspace;
pub mod owner;
mod persist;
pub mod process;
mod recover;
pub mod report;
pub mod verify;
mod wait;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, mpsc, oneshot};

use crate::inspector::Inspector;
use crate::keep::stash::exec;
use crate::keep::{Inherited, OwnDescriptors};
use crate::lock::request::Work;
use crate::lock::{Event, Lock, Owner};
use crate::sync;

pub use crate::service::core::error::Error;
pub use crate::service::core::limits::{Exempt, Limits, Visibility};
pub use crate::service::core::settings::Settings;
use crate::service::core::state::{State, StateGuard};
use crate::service::io::executor::Storage;
pub use crate::service::lock::reclaim::wall_clock_of;
pub use crate::service::lock::request::{Disk, LockRequest};
use crate::service::lockspace::check::LockspaceChecks;
use crate::service::lockspace::presence::Presences;
pub use crate::service::owner::open::{NewAnchor, Opening};
pub use crate::service::owner::register::Machine;
use crate::service::persist::journal::Keep;
use crate::service::process::turns::Turns;
pub use crate::service::process::views::{CallerProcess, ResolveFor};
pub use crate::service::recover::restore::restore;
use crate::service::recover::suspects_gate::Gate;
use crate::service::report::event_log::EventBatch;
use crate::service::report::metrics::Counters;
use crate::service::verify::name_states::NameChecks;
use crate::service::verify::renewal::Renewals;
use crate::sync::{Counter, CounterGuard};
pub use wait::{Granted, Presence, Wait, Why};

/// A handle on the service.
#[derive(Debug, Clone)]
pub struct Service(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    storage: Arc<Storage>,
    name_checks: Arc<NameChecks>,
    renewals: Arc<Renewals>,
    exempt: Exempt,
    keep: Keep,
    counts: Counters,
    lockspace_checks: LockspaceChecks,
    presences: Presences,
    inspector: Inspector,
    turns: Turns,
    /// Notified when an owner may have been removed.
    went: Notify,
    /// The number of batches that are not published yet.
    backlog: Counter,
    /// Notified when the stash needs a cleanup.
    unclean: Notify,
    /// Notified when a released resource is reserved for its former owner.
    reserved: Notify,
    /// Closed while the targets of damaged records are locked again.
    suspects: Gate,
}

/// A batch of events that belong together, for the reader that publishes the table.
#[derive(Debug)]
pub struct Batch {
    /// The events, in order.
    pub events: Vec<Event>,
    /// Sent or dropped once all events are published: a command is answered only after that.
    pub shown: oneshot::Sender<()>,
    /// Whether a command waits for that.
    pub awaited: bool,
    /// Decrements the backlog counter on drop.
    _backlog: CounterGuard,
}

/// A snapshot of the table, and the stream of all later events.
#[derive(Debug)]
pub struct Subscription {
    /// All owners.
    pub owners: Vec<Owner>,
    /// All held locks.
    pub locks: Vec<Lock>,
    /// The events from now on.
    pub batches: mpsc::UnboundedReceiver<Batch>,
}

impl Service {
    fn new(
        state: State,
        exempt: Exempt,
        keep: Keep,
        storage: Storage,
        inspector: Inspector,
    ) -> Self {
        Self(Arc::new(Inner {
            backlog: state.backlog.clone(),
            state: Mutex::new(state),
            storage: Arc::new(storage),
            name_checks: Arc::default(),
            renewals: Arc::default(),
            exempt,
            keep,
            counts: Counters::default(),
            lockspace_checks: LockspaceChecks::default(),
            presences: Presences::default(),
            inspector,
            turns: Turns::default(),
            went: Notify::new(),
            unclean: Notify::new(),
            reserved: Notify::new(),
            suspects: Gate::default(),
        }))
    }

    fn keep(&self) -> &Keep {
        &self.0.keep
    }

    fn lockspace_checks(&self) -> &LockspaceChecks {
        &self.0.lockspace_checks
    }

    fn presences(&self) -> &Presences {
        &self.0.presences
    }

    /// Returns the inspector, which reads `/proc` of other processes.
    #[must_use]
    pub fn inspector(&self) -> &Inspector {
        &self.0.inspector
    }

    /// Returns the settings in force.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.state().settings.clone()
    }

    /// Returns the limits in force.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.state().settings.limits
    }

    /// Changes the settings. Held locks are not affected.
    pub async fn change_settings(&self, settings: Settings) {
        let shown = {
            let mut state = self.state();
            state.settings = settings;
            state.publish(vec![Event::LockspacesChanged])
        };
        self.storage().look_again();
        self.examine_all();
        shown.wait().await;
    }

    /// Whether this user has no quota.
    #[must_use]
    pub fn is_exempt(&self, uid: u32) -> bool {
        self.0.exempt.covers(uid)
    }

    /// Returns the executor of file-system requests.
    #[must_use]
    pub fn storage(&self) -> &Storage {
        &self.0.storage
    }

    /// Whether locks outlive the service, because their descriptors are stashed elsewhere.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.keep().stash.is_persistent()
    }

    /// Passes the state file, the stash and the program's own data (`legacy`) to the program that
    /// replaces this one; returns the value of the environment variable that describes them.
    ///
    /// # Errors
    ///
    /// [`Error::Keep`]; nothing is passed on then.
    pub fn hand_down(&self, own: OwnDescriptors<'_>) -> Result<String, Error> {
        let Keep { state, stash } = self.keep();
        state.rewrite()?;
        Ok(exec::prepare_exec(stash, own)?)
    }

    /// Rolls back [`Self::hand_down`].
    ///
    /// # Errors
    ///
    /// [`Error::Keep`].
    pub fn keep_back(&self, own: OwnDescriptors<'_>) -> Result<(), Error> {
        Ok(exec::cancel_exec(&self.keep().stash, own)?)
    }

    /// Returns what the next instance would find if this one were killed now
    /// ([`crash_snapshot`](exec::crash_snapshot)).
    ///
    /// # Errors
    ///
    /// [`Error::Keep`].
    pub fn left_behind(&self) -> Result<Inherited, Error> {
        Ok(exec::crash_snapshot(&self.keep().stash)?)
    }

    fn clean_soon(&self) {
        self.0.unclean.notify_one();
    }

    /// Closes the stashed copies of released descriptors after a short delay: they keep file
    /// systems from being unmounted.
    async fn clean(self) {
        loop {
            self.0.unclean.notified().await;
            // The delay lets one cleanup serve several releases.
            tokio::time::sleep(CLEAN_AFTER).await;
            let clean = Clean(self.clone());
            if let Err(error) = self.storage().run(clean).await.and_then(|cleaned| cleaned) {
                tracing::error!(%error, "cannot close stored copies of released descriptors");
            }
        }
    }

    /// Returns a snapshot of the table and the stream of later events. There is one reader; a new
    /// one replaces it.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        let mut state = self.state();
        Subscription {
            owners: state.table.owners().cloned().collect(),
            locks: state.table.locks().cloned().collect(),
            batches: state.subscribe(),
        }
    }

    /// Returns once all events until now are published, whatever request caused them, so that a
    /// reply may name any object of the table.
    pub async fn all_shown(&self) {
        let so_far = self.state().so_far();
        so_far.wait().await;
    }

    /// Refuses new owners, locks and waits from now on, and cancels all waits.
    pub fn shut_down(&self) {
        self.state().closing = true;
        self.close_waits(true);
    }

    /// Locks the state for a decision.
    ///
    /// A poisoned mutex is used further: every change of the table is complete before any code that
    /// could panic, and an exit would unlock all disks.
    fn state(&self) -> StateGuard<'_> {
        StateGuard(sync::lock(&self.0.state))
    }
}

/// The delay of the cleanup of the stash.
const CLEAN_AFTER: Duration = Duration::from_millis(200);

struct Clean(Service);

impl Work for Clean {
    type Answer = Result<(), Error>;

    fn perform(self) -> Self::Answer {
        Ok(self.0.keep().stash.compact()?)
    }
}

/// Returns microseconds since 1970; 0 if the clock is before that.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Events that are not published yet; they are logged on drop at the latest.
#[derive(Debug, Default)]
#[must_use = "a command is answered only after its events can be seen"]
pub struct Publication {
    seen: Option<oneshot::Receiver<()>>,
    pending: EventBatch,
}

impl Publication {
    fn new(seen: oneshot::Receiver<()>) -> Self {
        Self { seen: Some(seen), pending: EventBatch::default() }
    }

    /// Adds events to be logged.
    fn and_say(mut self, pending: EventBatch) -> Self {
        self.pending = pending;
        self
    }

    /// Logs the events that are not logged yet.
    fn log(&mut self) {
        self.pending.log();
    }

    /// Returns once the events are published, or no reader exists.
    async fn wait(mut self) {
        self.log();
        if let Some(seen) = self.seen.take() {
            // An error means that the reader no longer exists.
            let _ = seen.await;
        }
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        self.log();
    }
}
