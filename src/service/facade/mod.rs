//! The facade: the methods of [`Service`], which the frontends call.
//!
//! [`commands`] has the commands of D-Bus callers, [`libvirt`] those of clients of virtlockd's
//! protocol, [`query`] and [`list`] the queries, [`reports`] what is reported about holders, names
//! and the service itself. Each is a line or two: the work is in the rooms below.

mod commands;
mod libvirt;
pub mod list;
mod query;
mod reports;

use std::sync::Arc;

use crate::inspector::Inspector;
use crate::keep::stash::exec;
use crate::keep::{Inherited, OwnDescriptors};
use crate::lock::Event;
use crate::service::components::Components;
use crate::service::core::error::Error;
use crate::service::core::limits::Limits;
use crate::service::core::settings::Settings;
use crate::service::io::executor::Executor;
use crate::service::lockspace::lockspaces::Lockspaces;
use crate::service::process::Inspection;
use crate::service::recover::restore::Restored;
use crate::service::report::metrics::Metrics;
use crate::service::state::events::Subscription;

/// A handle on the service.
#[derive(Debug, Clone)]
pub struct Service(Arc<Components>);

impl Restored {
    /// Returns the service.
    #[must_use]
    pub fn service(&self) -> Service {
        Service(Arc::clone(&self.components))
    }
}

impl Service {
    /// Returns the inspector, which reads `/proc` of other processes.
    #[must_use]
    pub fn inspector(&self) -> &Inspector {
        self.0.inspection.inspector()
    }

    /// Returns the queries to the inspector.
    #[must_use]
    pub fn inspection(&self) -> &Arc<Inspection> {
        &self.0.inspection
    }

    /// Returns the executor of file-system requests.
    #[must_use]
    pub fn executor(&self) -> &Executor {
        &self.0.executor
    }

    /// Returns the lockspaces.
    #[must_use]
    pub fn lockspaces(&self) -> &Arc<Lockspaces> {
        &self.0.lockspaces
    }

    /// Returns the counters of the service.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Returns the settings in force.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.0.state().settings.clone()
    }

    /// Returns the limits in force.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.0.state().settings.limits
    }

    /// Changes the settings. Held locks are not affected.
    pub async fn change_settings(&self, settings: Settings) {
        let publication = {
            let mut state = self.0.state();
            state.settings = settings;
            state.events.publish(vec![Event::LockspacesChanged])
        };
        self.0.executor.verify_soon();
        self.0.lockspace_checks.test_all();
        publication.wait().await;
    }

    /// Whether this user has no quota.
    #[must_use]
    pub fn is_exempt(&self, uid: u32) -> bool {
        self.0.exempt.covers(uid)
    }

    /// Whether locks outlive the service, because their descriptors are stashed elsewhere.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.0.journal.stash.is_persistent()
    }

    /// Passes the state file, the stash and the program's own data (`own`) to the program that
    /// replaces this one; returns the value of the environment variable that describes them.
    ///
    /// # Errors
    ///
    /// [`Error::Keep`]; nothing is passed on then.
    pub fn prepare_exec(&self, own: OwnDescriptors<'_>) -> Result<String, Error> {
        self.0.journal.state.rewrite()?;
        Ok(exec::prepare_exec(&self.0.journal.stash, own)?)
    }

    /// Rolls back [`Self::prepare_exec`].
    ///
    /// # Errors
    ///
    /// [`Error::Keep`].
    pub fn cancel_exec(&self, own: OwnDescriptors<'_>) -> Result<(), Error> {
        Ok(exec::cancel_exec(&self.0.journal.stash, own)?)
    }

    /// Returns what the next instance would find if this one were killed now
    /// ([`crash_snapshot`](exec::crash_snapshot)).
    ///
    /// # Errors
    ///
    /// [`Error::Keep`].
    pub fn crash_snapshot(&self) -> Result<Inherited, Error> {
        Ok(exec::crash_snapshot(&self.0.journal.stash)?)
    }

    /// Returns a snapshot of the table and the stream of later events. There is one reader; a new
    /// one replaces it.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        let mut state = self.0.state();
        Subscription {
            owners: state.table.owners().cloned().collect(),
            locks: state.table.locks().cloned().collect(),
            batches: state.events.subscribe(),
        }
    }

    /// Returns once all events until now are published, whatever request caused them, so that a
    /// reply may name any object of the table.
    pub async fn all_shown(&self) {
        let so_far = self.0.state().events.so_far();
        so_far.wait().await;
    }

    /// Cancels all waits, since the service ends or is replaced, and refuses new ones until it is
    /// called with `false`.
    pub fn close_waits(&self, is_closed: bool) {
        self.0.state().close_waits(is_closed);
    }

    /// Refuses new owners, locks and waits from now on, and cancels all waits.
    pub fn shut_down(&self) {
        let mut state = self.0.state();
        state.closing = true;
        state.close_waits(true);
    }
}
