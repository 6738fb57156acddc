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
use crate::lock::acquire::goal::Goal;
use crate::lock::lockspace::directory::Directory;
use crate::lock::lockspace::{Lockspace, LockspaceKind};
use crate::lock::request::{Asked, Work};
use crate::lock::selftest::result::{Local, SelfTestResult, Untested};
use crate::lock::selftest::{PATIENCE, RunSelfTest, SelfTestReport};
use crate::lock::text::escape::shown_path;
use crate::service::core::error::{Error, UnresponsiveMount};
use crate::service::io::executor::Executor;
use crate::service::lockspace::presence::Presences;
use crate::service::state::SharedState;
use crate::sync;

/// The results of the self-tests.
#[derive(Debug)]
pub(in crate::service) struct LockspaceChecks {
    state: SharedState,
    executor: Arc<Executor>,
    presences: Presences,
    /// By device and inode. The slot is locked during the test of its directory, so that only
    /// requests for this directory wait.
    results: Mutex<HashMap<(u64, u64), Slot>>,
    /// The last logged result for a directory, by its path.
    logged: Mutex<HashMap<PathBuf, Arc<SelfTestReport>>>,
}

type Slot = Arc<Mutex<Option<Arc<SelfTestReport>>>>;

impl LockspaceChecks {
    pub(in crate::service) fn new(state: &SharedState, executor: &Arc<Executor>) -> Self {
        Self {
            state: state.clone(),
            executor: Arc::clone(executor),
            presences: Presences::default(),
            results: Mutex::default(),
            logged: Mutex::default(),
        }
    }

    fn slot(&self, node: (u64, u64)) -> Slot {
        Arc::clone(sync::lock(&self.results).entry(node).or_default())
    }

    /// Drops all results, so that every directory is tested again.
    fn forget(&self) {
        sync::lock(&self.results).clear();
    }

    fn of(&self, path: &Path) -> Option<Arc<SelfTestReport>> {
        sync::lock(&self.logged).get(path).cloned()
    }
}

impl LockspaceChecks {
    /// Tests the directory of every lockspace again. Returns at once.
    pub(in crate::service) fn test_all(self: &Arc<Self>) {
        self.forget();
        let (configured, named): (Vec<Lockspace>, Vec<Lockspace>) = {
            let state = self.state.lock();
            let named = state.lockspaces.iter();
            let named = named.map(|(number, there)| Lockspace::Lease(*number, Arc::clone(there)));
            (state.settings.lockspaces.configured().collect(), named.collect())
        };
        let there: Vec<PathBuf> = configured.iter().chain(&named).filter_map(path_of).collect();
        sync::lock(&self.logged).retain(|path, _| there.contains(path));
        self.presences.retain(&configured.iter().filter_map(path_of).collect::<Vec<_>>());
        for lockspace in configured.into_iter().chain(named) {
            self.test_later(lockspace);
        }
    }

    /// Tests a lockspace that was not tested yet, and waits for a test in progress. Call it on a
    /// worker thread.
    pub(in crate::service) fn test_now(&self, lockspace: &Lockspace) {
        let Some(directory) = lockspace.directory() else { return };
        if let Err(error) = self.test(lockspace.kind(), directory) {
            tracing::warn!("{error}");
        }
    }

    /// Waits for a test of the directory that is in progress. Call it on a worker thread.
    pub(in crate::service) fn wait_for_test(&self, directory: &Directory) {
        if let Ok(node) = directory.node() {
            drop(sync::lock(&self.slot(node)));
        }
    }

    fn test_later(self: &Arc<Self>, lockspace: Lockspace) {
        let checks = Arc::clone(self);
        tokio::spawn(async move {
            let test = TestLater { checks: Arc::clone(&checks), lockspace };
            if let Err(error) = checks.executor.run_with_retry(test).await {
                tracing::debug!(%error, "the lock self-test of a lockspace did not run");
            }
        });
    }

    /// Returns the result of a lockspace; `None` if it has no directory or was not tested yet.
    pub(in crate::service) fn last_result(
        &self,
        kind: LockspaceKind,
    ) -> Option<Arc<SelfTestReport>> {
        let directory = self.state.lock().directory_of(kind)?;
        self.of(&directory)
    }

    /// Refuses a lock in a directory that has failed its test. Call it on a worker thread.
    ///
    /// # Errors
    ///
    /// [`lock::Error::Lockspace`]; [`Error::UnresponsiveMount`] if the directory does not respond.
    pub(in crate::service) fn check_usable(&self, goal: &Goal) -> Result<(), Error> {
        let lockspace = match goal {
            Goal::Disk(target) => &target.lockspace,
            Goal::Key(key) => key.lockspace(),
        };
        let Some(directory) = lockspace.directory() else { return Ok(()) };
        let report = self.test(lockspace.kind(), directory)?;
        match &report.result {
            SelfTestResult::Unfit(_) => Err(lock::Error::Lockspace {
                directory: shown_path(directory.path()),
                why: report.result.sentence_and_advice(),
            }
            .into()),
            SelfTestResult::Untested(Untested::Unresponsive(time)) => {
                let mount = report.mount.as_ref().map(|mount| mount.point.as_path());
                let mount = shown_path(mount.unwrap_or(directory.path()));
                Err(Error::UnresponsiveMount(UnresponsiveMount { mount, time: *time }))
            }
            _ => Ok(()),
        }
    }

    fn test(
        &self,
        kind: LockspaceKind,
        directory: &Arc<Directory>,
    ) -> Result<Arc<SelfTestReport>, lock::Error> {
        let node = directory.node()?;
        let slot = self.slot(node);
        let mut result = sync::lock(&slot);
        if let Some(report) = &*result {
            return Ok(Arc::clone(report));
        }
        let path = directory.path();
        let self_test = RunSelfTest { directory: path.to_owned(), patience: PATIENCE };
        let report = Arc::new(self_test.perform());
        // A directory that did not respond is tested again, and so is one that was replaced.
        let unresponsive =
            matches!(report.result, SelfTestResult::Untested(Untested::Unresponsive(_)));
        if !unresponsive && report.node.is_none_or(|there| there == node) {
            *result = Some(Arc::clone(&report));
        }
        let before = sync::lock(&self.logged).insert(path.to_owned(), Arc::clone(&report));
        if before.is_none_or(|before| before.result != report.result) {
            log_result(kind, path, &report);
        }
        drop(result);
        if kind.is_configured() && report.result.may_be_shared() {
            let settings = self.state.lock().settings.clone();
            self.presences.announce(&settings, path, node);
        }
        Ok(report)
    }
}

struct TestLater {
    checks: Arc<LockspaceChecks>,
    lockspace: Lockspace,
}

impl Work for TestLater {
    type Answer = ();

    fn asks(&self) -> Vec<Asked<'_>> {
        self.lockspace.asks().into_iter().collect()
    }

    fn perform(self) {
        let Self { checks, lockspace } = self;
        // It may have been removed meanwhile.
        if path_of(&lockspace).is_some_and(|path| checks.state.lock().lockspace(&path).is_some()) {
            checks.test_now(&lockspace);
        }
    }
}

/// Logs a result. Locks that only this host sees are worth a message in a configured directory,
/// which may have been meant to be shared, but not in one that a caller created.
fn log_result(kind: LockspaceKind, path: &Path, report: &SelfTestReport) {
    let SelfTestReport { result, caveats, .. } = report;
    let (shown, outcome) = (shown_path(path), result.sentence_and_advice());
    match result {
        SelfTestResult::Shared => tracing::info!("lockspace {shown}: {outcome}"),
        SelfTestResult::Local(Local::OwnDevice) if kind.is_configured() => {
            tracing::info!("lockspace {shown}: {outcome}");
        }
        SelfTestResult::Local(Local::OwnDevice) => tracing::debug!("lockspace {shown}: {outcome}"),
        SelfTestResult::Local(_) | SelfTestResult::Unknown(_) | SelfTestResult::Untested(_) => {
            tracing::warn!("lockspace {shown}: {outcome}");
        }
        SelfTestResult::Unfit(_) => {
            tracing::error!("refusing new locks in lockspace {shown}: {outcome}");
        }
    }
    for caveat in caveats {
        tracing::warn!("lockspace {shown}: {}; {}", caveat.sentence(), caveat.advice());
    }
}

fn path_of(lockspace: &Lockspace) -> Option<PathBuf> {
    lockspace.directory().map(|directory| directory.path().to_owned())
}
