//! Floor 2: the only writer of the table.
//!
//! A [`Service`] is a cheap handle on one state behind one `std` mutex. The mutex is held for
//! decisions only: never across an await, a system call or a file. What a decision asks for is done
//! outside ([`io::executor`]), and its outcome entered under the mutex again; the stories are told at
//! the head of [`lock::acquire`] and [`lock::release`].
//!
//! One owner's commands run one after the other (its *turn*), so that a command never meets a
//! half-done one of the same owner. Owners do not wait for each other.

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

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, mpsc, oneshot};

use crate::inspector::Inspector;
use crate::keep::inherited::{self, Inherited, Legacy};
use crate::lock::request::Work;
use crate::lock::{Event, Lock, Owner};

pub use crate::service::core::error::Error;
pub use crate::service::core::limits::{Exempt, Limits, Visibility};
pub use crate::service::core::settings::Settings;
use crate::service::core::state::{Locked, State};
use crate::service::io::executor::Storage;
pub use crate::service::lock::reclaim::wall_clock_of;
pub use crate::service::lock::request::{Ask, Disk};
use crate::service::lockspace::check::Fitness;
use crate::service::lockspace::presence::Sightings;
pub use crate::service::owner::open::{NewAnchor, Opening};
pub use crate::service::owner::register::Machine;
use crate::service::persist::journal::Keep;
use crate::service::process::turns::Turns;
pub use crate::service::process::views::{CallerProcess, ResolveFor};
pub use crate::service::recover::restore::restore;
use crate::service::recover::suspects_gate::Gate;
use crate::service::report::event_log::Unsaid;
use crate::service::report::metrics::Counts;
use crate::service::verify::name_states::NameChecks;
use crate::service::verify::renewal::Renewals;
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
    counts: Counts,
    fitness: Fitness,
    sightings: Sightings,
    inspector: Inspector,
    turns: Turns,
    /// Told when an owner may have gone.
    went: Notify,
    /// How many batches are on their way to being seen.
    backlog: Arc<AtomicUsize>,
    /// Told when something lies dead in the parking.
    unclean: Notify,
    /// Told when a released lock is reserved for its former owner.
    reserved: Notify,
    /// Closed while what damaged records name is being locked again.
    suspects: Gate,
}

/// Events that belong together, for whoever shows the table to the world.
#[derive(Debug)]
pub struct Batch {
    /// In the order in which they happened.
    pub events: Vec<Event>,
    /// To be told, or dropped, once all of it can be seen: a command is answered only after that.
    pub shown: oneshot::Sender<()>,
    /// Whether somebody waits for that.
    pub awaited: bool,
    /// One less that is on its way, once it is dropped.
    _backlog: Backlog,
}

/// One of the batches that are on their way.
#[derive(Debug)]
struct Backlog(Arc<AtomicUsize>);

impl Backlog {
    fn one_more(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The table at one moment, and everything that happens after it.
#[derive(Debug)]
pub struct Subscription {
    /// All owners.
    pub owners: Vec<Owner>,
    /// All locks that are held.
    pub locks: Vec<Lock>,
    /// What happens from now on.
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
            backlog: Arc::clone(&state.backlog),
            state: Mutex::new(state),
            storage: Arc::new(storage),
            name_checks: Arc::default(),
            renewals: Arc::default(),
            exempt,
            keep,
            counts: Counts::default(),
            fitness: Fitness::default(),
            sightings: Sightings::default(),
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

    fn fitness(&self) -> &Fitness {
        &self.0.fitness
    }

    fn sightings(&self) -> &Sightings {
        &self.0.sightings
    }

    /// What reads the `/proc` of other processes.
    #[must_use]
    pub fn inspector(&self) -> &Inspector {
        &self.0.inspector
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.state().settings.clone()
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.state().settings.limits
    }

    /// Puts other settings in force. What is held stays where it is.
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

    /// The performer of file system requests.
    #[must_use]
    pub fn storage(&self) -> &Storage {
        &self.0.storage
    }

    /// Whether locks outlive the service itself, because somebody keeps their descriptors.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.keep().parking.is_kept()
    }

    /// Lets everything that is kept live on in the program that replaces this one, with what is the
    /// program's own; tells what to tell it.
    ///
    /// # Errors
    ///
    /// [`Error::Keep`]; nothing is passed on then.
    pub fn hand_down(&self, legacy: Legacy<'_>) -> Result<String, Error> {
        let Keep { state, parking, far } = self.keep();
        state.renew()?;
        Ok(inherited::hand_down(parking, far, legacy)?)
    }

    /// Undoes [`Self::hand_down`].
    ///
    /// # Errors
    ///
    /// [`Error::Keep`].
    pub fn keep_back(&self, legacy: Legacy<'_>) -> Result<(), Error> {
        let Keep { parking, far, .. } = self.keep();
        Ok(inherited::keep_back(parking, far, legacy)?)
    }

    /// What the next service would find if this one were killed now
    /// ([`left_behind`](inherited::left_behind)).
    ///
    /// # Errors
    ///
    /// [`Error::Keep`].
    pub fn left_behind(&self) -> Result<Inherited, Error> {
        let Keep { parking, far, .. } = self.keep();
        Ok(inherited::left_behind(parking, far)?)
    }

    fn clean_soon(&self) {
        self.0.unclean.notify_one();
    }

    /// Closes the parked copies of what was released, shortly after: they pin file systems that
    /// somebody may want to unmount.
    async fn clean(self) {
        loop {
            self.0.unclean.notified().await;
            // What is released together is cleaned up together.
            tokio::time::sleep(CLEAN_AFTER).await;
            let clean = Clean(self.clone());
            if let Err(error) = self.storage().run(clean).await.and_then(|cleaned| cleaned) {
                tracing::error!(%error, "cannot close stored copies of released descriptors");
            }
        }
    }

    /// The table now and all that follows. There is one reader; a new one takes the old one's place.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        let mut state = self.state();
        Subscription {
            owners: state.table.owners().cloned().collect(),
            locks: state.table.locks().cloned().collect(),
            batches: state.subscribe(),
        }
    }

    /// Returns once all can be seen that has happened until now, whoever it was that did it: for
    /// whoever is about to name what he found in the table.
    pub async fn all_shown(&self) {
        let so_far = self.state().so_far();
        so_far.wait().await;
    }

    /// From now on nothing is opened or given any more, and nobody waits any more.
    pub fn shut_down(&self) {
        self.state().closing = true;
        self.close_waits(true);
    }

    /// The state, for a decision.
    ///
    /// A panic of somebody who held it is no reason to stop: every change of the table is complete
    /// before anything that could panic follows, and ending would free all disks.
    fn state(&self) -> Locked<'_> {
        Locked(self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How long dead descriptors may lie about.
const CLEAN_AFTER: Duration = Duration::from_millis(200);

struct Clean(Service);

impl Work for Clean {
    type Answer = Result<(), Error>;

    fn perform(self) -> Self::Answer {
        Ok(self.0.keep().parking.clean()?)
    }
}

/// Microseconds since 1970; 0 on a clock that stands before that.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Events on their way to being seen; and to the log, at the latest when this is dropped.
#[derive(Debug, Default)]
#[must_use = "a command is answered only after its events can be seen"]
pub struct Shown {
    seen: Option<oneshot::Receiver<()>>,
    unsaid: Unsaid,
}

impl Shown {
    fn new(seen: oneshot::Receiver<()>) -> Self {
        Self { seen: Some(seen), unsaid: Unsaid::default() }
    }

    /// These are to be logged, too.
    fn and_say(mut self, unsaid: Unsaid) -> Self {
        self.unsaid = unsaid;
        self
    }

    /// Logs what is not logged yet.
    fn say(&mut self) {
        self.unsaid.say();
    }

    /// Returns once they can be seen, or nobody shows them.
    async fn wait(mut self) {
        self.say();
        if let Some(seen) = self.seen.take() {
            // An error means that the reader is gone: then there is nothing to wait for.
            let _ = seen.await;
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.say();
    }
}
