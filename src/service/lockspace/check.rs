//! Lock self-tests of lockspace directories, which run before a lock in the directory is relied on.
//!
//! Each directory, by its device and inode, is tested once: at the start of the service, when the
//! configuration is reloaded, when the lockspace is created, and otherwise before the first new
//! lock in it, which waits for the result. New locks are refused in a directory that fails. Locks
//! that are held already are kept whatever a later test shows: to release them would protect
//! nothing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::lock;
use crate::lock::acquire::Goal;
use crate::lock::lockspace::directory::Directory;
use crate::lock::lockspace::{Lockspace, LockspaceKind};
use crate::lock::request::{Asked, Work};
use crate::lock::selftest::result::{Local, SelfTestResult, Untested};
use crate::lock::selftest::{PATIENCE, RunSelfTest, SelfTestReport};
use crate::lock::text::escape::shown_path;
use crate::service::io::mount_gate::UnresponsiveMount;
use crate::service::{Error, Service};
use crate::sync;

/// The results of the self-tests.
#[derive(Debug, Default)]
pub(in crate::service) struct LockspaceChecks {
    /// By device and inode. The slot is locked during the test of its directory, so that only
    /// requests for this directory wait.
    seen: Mutex<HashMap<(u64, u64), Slot>>,
    /// The last logged result for a directory, by its path.
    said: Mutex<HashMap<PathBuf, Arc<SelfTestReport>>>,
}

type Slot = Arc<Mutex<Option<Arc<SelfTestReport>>>>;

impl LockspaceChecks {
    fn slot(&self, node: (u64, u64)) -> Slot {
        Arc::clone(sync::lock(&self.seen).entry(node).or_default())
    }

    /// Drops all results, so that every directory is tested again.
    fn forget(&self) {
        sync::lock(&self.seen).clear();
    }

    fn of(&self, path: &Path) -> Option<Arc<SelfTestReport>> {
        sync::lock(&self.said).get(path).cloned()
    }
}

impl Service {
    /// Tests the directory of every lockspace again. Returns at once.
    pub(in crate::service) fn examine_all(&self) {
        self.lockspace_checks().forget();
        let (configured, named): (Vec<Lockspace>, Vec<Lockspace>) = {
            let state = self.state();
            let named = state.lockspaces.iter();
            let named = named.map(|(number, there)| Lockspace::Lease(*number, Arc::clone(there)));
            (state.settings.lockspaces.configured().collect(), named.collect())
        };
        let there: Vec<PathBuf> = configured.iter().chain(&named).filter_map(path_of).collect();
        sync::lock(&self.lockspace_checks().said).retain(|path, _| there.contains(path));
        self.disappear_but(&configured.iter().filter_map(path_of).collect::<Vec<_>>());
        for lockspace in configured.into_iter().chain(named) {
            self.examine_soon(lockspace);
        }
    }

    /// Tests a lockspace that was not tested yet, and waits for a test in progress. Call it on a
    /// worker thread.
    pub(in crate::service) fn examine_now(&self, lockspace: &Lockspace) {
        let Some(directory) = lockspace.directory() else { return };
        if let Err(error) = self.examine(lockspace.kind(), directory) {
            tracing::warn!("{error}");
        }
    }

    /// Waits for a test of the directory that is in progress. Call it on a worker thread.
    pub(in crate::service) fn examined(&self, directory: &Directory) {
        if let Ok(node) = directory.node() {
            drop(sync::lock(&self.lockspace_checks().slot(node)));
        }
    }

    fn examine_soon(&self, lockspace: Lockspace) {
        let service = self.clone();
        tokio::spawn(async move {
            let look = OpenDirectory { service: service.clone(), lockspace };
            if let Err(error) = service.storage().run_at_last(look).await {
                tracing::debug!(%error, "the lock self-test of a lockspace did not run");
            }
        });
    }

    /// Returns the result of a lockspace; `None` if it has no directory or was not tested yet.
    #[must_use]
    pub fn examination(&self, kind: LockspaceKind) -> Option<Arc<SelfTestReport>> {
        self.lockspace_checks().of(&self.directory_of(kind)?)
    }

    /// Refuses a lock in a directory that has failed its test. Call it on a worker thread.
    ///
    /// # Errors
    ///
    /// [`lock::Error::Lockspace`]; [`Error::UnresponsiveMount`] if the directory does not respond.
    pub(in crate::service) fn check_fit(&self, goal: &Goal) -> Result<(), Error> {
        let lockspace = match goal {
            Goal::Disk(target) => &target.lockspace,
            Goal::Key(key) => key.lockspace(),
        };
        let Some(directory) = lockspace.directory() else { return Ok(()) };
        let examination = self.examine(lockspace.kind(), directory)?;
        match &examination.result {
            SelfTestResult::Unfit(_) => Err(lock::Error::Lockspace {
                directory: shown_path(directory.path()),
                why: examination.result.sentence_and_advice(),
            }
            .into()),
            SelfTestResult::Untested(Untested::Unresponsive(time)) => {
                let mount = examination.mount.as_ref().map(|mount| mount.point.as_path());
                let mount = shown_path(mount.unwrap_or(directory.path()));
                Err(Error::UnresponsiveMount(UnresponsiveMount { mount, time: *time }))
            }
            _ => Ok(()),
        }
    }

    fn examine(
        &self,
        kind: LockspaceKind,
        directory: &Arc<Directory>,
    ) -> Result<Arc<SelfTestReport>, lock::Error> {
        let node = directory.node()?;
        let slot = self.lockspace_checks().slot(node);
        let mut seen = sync::lock(&slot);
        if let Some(seen) = &*seen {
            return Ok(Arc::clone(seen));
        }
        let path = directory.path();
        let examine = RunSelfTest { directory: path.to_owned(), patience: PATIENCE };
        let examination = Arc::new(examine.perform());
        // A directory that did not respond is tested again, and so is one that was replaced.
        let silent =
            matches!(examination.result, SelfTestResult::Untested(Untested::Unresponsive(_)));
        if !silent && examination.node.is_none_or(|there| there == node) {
            *seen = Some(Arc::clone(&examination));
        }
        let before = sync::lock(&self.lockspace_checks().said)
            .insert(path.to_owned(), Arc::clone(&examination));
        if before.is_none_or(|before| before.result != examination.result) {
            log_result(kind, path, &examination);
        }
        drop(seen);
        if kind.is_configured() && examination.result.may_be_shared() {
            self.appear(path, node);
        }
        Ok(examination)
    }
}

struct OpenDirectory {
    service: Service,
    lockspace: Lockspace,
}

impl Work for OpenDirectory {
    type Answer = ();

    fn asks(&self) -> Vec<Asked<'_>> {
        self.lockspace.asks().into_iter().collect()
    }

    fn perform(self) {
        let Self { service, lockspace } = self;
        // It may have been removed meanwhile.
        if path_of(&lockspace).is_some_and(|path| service.lockspace(&path).is_some()) {
            service.examine_now(&lockspace);
        }
    }
}

/// Logs a result. Locks that only this host sees are worth a message in a configured directory,
/// which may have been meant to be shared, but not in one that a caller created.
fn log_result(kind: LockspaceKind, path: &Path, examination: &SelfTestReport) {
    let SelfTestReport { result, caveats, .. } = examination;
    let (shown, said) = (shown_path(path), result.sentence_and_advice());
    match result {
        SelfTestResult::Shared => tracing::info!("lockspace {shown}: {said}"),
        SelfTestResult::Local(Local::OwnDevice) if kind.is_configured() => {
            tracing::info!("lockspace {shown}: {said}");
        }
        SelfTestResult::Local(Local::OwnDevice) => tracing::debug!("lockspace {shown}: {said}"),
        SelfTestResult::Local(_) | SelfTestResult::Unknown(_) | SelfTestResult::Untested(_) => {
            tracing::warn!("lockspace {shown}: {said}");
        }
        SelfTestResult::Unfit(_) => {
            tracing::error!("refusing new locks in lockspace {shown}: {said}");
        }
    }
    for caveat in caveats {
        tracing::warn!("lockspace {shown}: {}; {}", caveat.sentence(), caveat.advice());
    }
}

fn path_of(lockspace: &Lockspace) -> Option<PathBuf> {
    lockspace.directory().map(|directory| directory.path().to_owned())
}
