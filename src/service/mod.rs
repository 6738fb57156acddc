//! Floor 2: the only writer of the table.
//!
//! A [`Service`] is a cheap handle on one state behind one `std` mutex. The mutex is held for
//! decisions only: never across an await, a system call or a file. What a decision asks for is done
//! outside ([`storage`]), and its outcome entered under the mutex again; the stories are told at
//! the head of [`acquire`] and [`release`].
//!
//! One owner's commands run one after the other (its *turn*), so that a command never meets a
//! half-done one of the same owner. Owners do not wait for each other.

mod acquire;
mod convert;
pub mod describe;
mod error;
pub mod limits;
mod owners;
mod query;
mod release;
mod state;
pub mod storage;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, mpsc, oneshot};

use crate::lock::lockspace::Lockspaces;
use crate::lock::{Event, Lock, Owner};

pub use acquire::{Ask, Disk};
pub use error::Error;
pub use limits::{Exempt, Limits};
pub use owners::{NewAnchor, Opening};
use state::State;
use storage::Storage;

/// What may change while the service runs.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Which lock files stand for which resources.
    pub lockspaces: Lockspaces,
    /// How much one user may ask for.
    pub limits: Limits,
    /// Whether disks on FUSE may be locked by descriptor by others than root.
    pub allow_fuse: bool,
}

/// A handle on the service.
#[derive(Debug, Clone)]
pub struct Service(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    storage: Storage,
    exempt: Exempt,
    /// Told when an owner may have gone.
    went: Notify,
}

/// Events that belong together, for whoever shows the table to the world.
#[derive(Debug)]
pub struct Batch {
    /// In the order in which they happened.
    pub events: Vec<Event>,
    /// To be told, or dropped, once all of it can be seen: a command is answered only after that.
    pub shown: oneshot::Sender<()>,
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
    /// A service that holds nothing yet.
    #[must_use]
    pub fn new(settings: Settings, exempt: Exempt) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::new(State::new(settings)),
            storage: Storage,
            exempt,
            went: Notify::new(),
        }))
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.state().settings.clone()
    }

    /// Puts other settings in force. What is held stays where it is.
    pub async fn change_settings(&self, settings: Settings) {
        let shown = {
            let mut state = self.state();
            state.settings = settings;
            state.publish(vec![Event::LockspacesChanged])
        };
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

    /// From now on nothing is opened or given any more.
    pub fn shut_down(&self) {
        self.state().closing = true;
    }

    /// The state, for a decision.
    ///
    /// A panic of somebody who held it is no reason to stop: every change of the table is complete
    /// before anything that could panic follows, and ending would free all disks.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Microseconds since 1970; 0 on a clock that stands before that.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Events on their way to being seen.
#[must_use = "a command is answered only after its events can be seen"]
struct Shown(Option<oneshot::Receiver<()>>);

impl Shown {
    /// Returns once they can be seen, or nobody shows them.
    async fn wait(self) {
        if let Some(shown) = self.0 {
            // An error means that the reader is gone: then there is nothing to wait for.
            let _ = shown.await;
        }
    }
}
