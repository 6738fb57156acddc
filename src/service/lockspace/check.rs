//! What locks in a lockspace's directory are worth: found out before one is relied on.
//!
//! Each directory is examined once, by its device and inode: when the service begins, when the
//! configuration is read again, when one is made, and otherwise before the first new lock in it,
//! which waits for that. One in which locks are worth nothing is refused. What is held already stays
//! held, whatever is found out later: to give it up would protect nobody.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::lock;
use crate::lock::acquire::Goal;
use crate::lock::lockspace::directory::Directory;
use crate::lock::lockspace::{Lockspace, LockspaceKind};
use crate::lock::request::{Asked, Work};
use crate::lock::selftest::result::{Local, Untested, Verdict};
use crate::lock::selftest::{Examination, Examine, PATIENCE};
use crate::lock::text::escape::shown_path;
use crate::service::io::mount_gate::{Silent, locked};
use crate::service::{Error, Service};

/// What was found out about directories.
#[derive(Debug, Default)]
pub(in crate::service) struct Fitness {
    /// By device and inode. Whoever looks at one for the first time keeps its place locked meanwhile,
    /// and holds up those alone who want something of it.
    seen: Mutex<HashMap<(u64, u64), Slot>>,
    /// What was last said of a directory, by its path.
    said: Mutex<HashMap<PathBuf, Arc<Examination>>>,
}

type Slot = Arc<Mutex<Option<Arc<Examination>>>>;

impl Fitness {
    fn slot(&self, node: (u64, u64)) -> Slot {
        Arc::clone(locked(&self.seen).entry(node).or_default())
    }

    /// Has everything examined once more.
    fn forget(&self) {
        locked(&self.seen).clear();
    }

    fn of(&self, path: &Path) -> Option<Arc<Examination>> {
        locked(&self.said).get(path).cloned()
    }
}

impl Service {
    /// Has the directory of every lockspace examined, also those that were before. Returns at once.
    pub(in crate::service) fn examine_all(&self) {
        self.fitness().forget();
        let (configured, named): (Vec<Lockspace>, Vec<Lockspace>) = {
            let state = self.state();
            let named = state.lockspaces.iter();
            let named = named.map(|(number, there)| Lockspace::Lease(*number, Arc::clone(there)));
            (state.settings.lockspaces.configured().collect(), named.collect())
        };
        let there: Vec<PathBuf> = configured.iter().chain(&named).filter_map(path_of).collect();
        locked(&self.fitness().said).retain(|path, _| there.contains(path));
        self.disappear_but(&configured.iter().filter_map(path_of).collect::<Vec<_>>());
        for lockspace in configured.into_iter().chain(named) {
            self.examine_soon(lockspace);
        }
    }

    /// Has one examined, if it was not; returns when nobody is at it any more. For a storage thread.
    pub(in crate::service) fn examine_now(&self, lockspace: &Lockspace) {
        let Some(directory) = lockspace.directory() else { return };
        if let Err(error) = self.examine(lockspace.kind(), directory) {
            tracing::warn!("{error}");
        }
    }

    /// Returns when nobody is at it any more. For a storage thread.
    pub(in crate::service) fn examined(&self, directory: &Directory) {
        if let Ok(node) = directory.node() {
            drop(locked(&self.fitness().slot(node)));
        }
    }

    fn examine_soon(&self, lockspace: Lockspace) {
        let service = self.clone();
        tokio::spawn(async move {
            let look = Look { service: service.clone(), lockspace };
            if let Err(error) = service.storage().run_at_last(look).await {
                tracing::debug!(%error, "the lock self-test of a lockspace did not run");
            }
        });
    }

    /// What was found out about a lockspace; none where it has no directory, or was not looked at yet.
    #[must_use]
    pub fn examination(&self, kind: LockspaceKind) -> Option<Arc<Examination>> {
        self.fitness().of(&self.directory_of(kind)?)
    }

    /// Refuses what is to be locked in a directory where locks are worth nothing. For a storage thread.
    ///
    /// # Errors
    ///
    /// [`lock::Error::Lockspace`]; [`Error::Silent`] where it does not answer.
    pub(in crate::service) fn check_fit(&self, goal: &Goal) -> Result<(), Error> {
        let lockspace = match goal {
            Goal::Disk(target) => &target.lockspace,
            Goal::Key(key) => key.lockspace(),
        };
        let Some(directory) = lockspace.directory() else { return Ok(()) };
        let examination = self.examine(lockspace.kind(), directory)?;
        match &examination.verdict {
            Verdict::Unfit(_) => Err(lock::Error::Lockspace {
                directory: shown_path(directory.path()),
                why: examination.verdict.said(),
            }
            .into()),
            Verdict::Untested(Untested::Silent(time)) => {
                let mount = examination.mount.as_ref().map(|mount| mount.point.as_path());
                let mount = shown_path(mount.unwrap_or(directory.path()));
                Err(Error::Silent(Silent { mount, time: *time }))
            }
            _ => Ok(()),
        }
    }

    fn examine(
        &self,
        kind: LockspaceKind,
        directory: &Arc<Directory>,
    ) -> Result<Arc<Examination>, lock::Error> {
        let node = directory.node()?;
        let slot = self.fitness().slot(node);
        let mut seen = locked(&slot);
        if let Some(seen) = &*seen {
            return Ok(Arc::clone(seen));
        }
        let path = directory.path();
        let examine = Examine { directory: path.to_owned(), patience: PATIENCE };
        let examination = Arc::new(examine.perform());
        // What says nothing is asked again; so is what is another directory by now.
        let silent = matches!(examination.verdict, Verdict::Untested(Untested::Silent(_)));
        if !silent && examination.node.is_none_or(|there| there == node) {
            *seen = Some(Arc::clone(&examination));
        }
        let before = locked(&self.fitness().said).insert(path.to_owned(), Arc::clone(&examination));
        if before.is_none_or(|before| before.verdict != examination.verdict) {
            say(kind, path, &examination);
        }
        drop(seen);
        if kind.is_configured() && examination.verdict.may_be_shared() {
            self.appear(path, node);
        }
        Ok(examination)
    }
}

struct Look {
    service: Service,
    lockspace: Lockspace,
}

impl Work for Look {
    type Answer = ();

    fn asks(&self) -> Vec<Asked<'_>> {
        self.lockspace.asks().into_iter().collect()
    }

    fn perform(self) {
        let Self { service, lockspace } = self;
        // It may have gone meanwhile.
        if path_of(&lockspace).is_some_and(|path| service.lockspace(&path).is_some()) {
            service.examine_now(&lockspace);
        }
    }
}

/// Says what was found out. That locks are only this host's is no news of a directory that a caller
/// has made; the configuration may have meant another one.
fn say(kind: LockspaceKind, path: &Path, examination: &Examination) {
    let Examination { verdict, caveats, .. } = examination;
    let (shown, said) = (shown_path(path), verdict.said());
    match verdict {
        Verdict::Shared => tracing::info!("lockspace {shown}: {said}"),
        Verdict::Local(Local::OwnDevice) if kind.is_configured() => {
            tracing::info!("lockspace {shown}: {said}");
        }
        Verdict::Local(Local::OwnDevice) => tracing::debug!("lockspace {shown}: {said}"),
        Verdict::Local(_) | Verdict::Unknown(_) | Verdict::Untested(_) => {
            tracing::warn!("lockspace {shown}: {said}");
        }
        Verdict::Unfit(_) => {
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
