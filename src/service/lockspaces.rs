//! Directories of keys that clients name.
//!
//! virtlockd's clients name a lockspace once, when they start, and use it for as long as they live.
//! So it is noted: after a restart of the service it is there as before.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::limits::within;
use super::{Error, Service};
use crate::lock::directory::Directory;
use crate::lock::lockspace::{Lockspace, LockspaceKind};
use crate::lock::{self, Event};

/// How many there may be; whoever names more does something else than libvirt does.
const LIMIT: usize = 256;

impl Service {
    /// The lockspace of a directory, if there is one.
    #[must_use]
    pub fn lockspace(&self, directory: &Path) -> Option<Lockspace> {
        let directory = plain(directory);
        let state = self.state();
        let there = |lockspace: &Lockspace| {
            lockspace.directory().is_some_and(|there| plain(there.path()) == directory)
        };
        state.settings.lockspaces.configured().find(there).or_else(|| {
            let mut named = state.lockspaces.iter();
            let named = named.find(|(_, there)| there.path() == directory);
            named.map(|(number, there)| Lockspace::Lease(*number, Arc::clone(there)))
        })
    }

    /// The lockspace of a directory, which is made where it is missing. For a storage thread.
    ///
    /// # Errors
    ///
    /// [`lock::Error::Lockspace`], [`Error::Limit`], [`Error::Keep`].
    pub fn make_lockspace(&self, directory: &Path) -> Result<Lockspace, Error> {
        if let Some(there) = self.lockspace(directory) {
            return self.renew_lockspace(there);
        }
        let count = self.state().lockspaces.len() + 1;
        within("lockspaces", count, LIMIT, || "in all".to_owned())?;
        let path = plain(directory);
        let opened = Arc::new(Directory::make(&path)?);
        let number = {
            let mut state = self.state();
            // Somebody else may have named it meanwhile.
            let twin = state.lockspaces.iter().find(|(_, there)| there.path() == path);
            if let Some((number, there)) = twin {
                return Ok(Lockspace::Lease(*number, Arc::clone(there)));
            }
            let number = state.lockspaces.keys().next_back().map_or(1, |last| last + 1);
            state.lockspaces.insert(number, Arc::clone(&opened));
            number
        };
        if let Err(error) = self.keep().put_lockspace(number, &path) {
            self.state().lockspaces.remove(&number);
            return Err(error);
        }
        drop(self.state().publish(vec![Event::LockspacesChanged]));
        tracing::info!("lockspace {} is {}", number, lock::printable::shown_path(&path));
        Ok(Lockspace::Lease(number, opened))
    }

    /// The lockspace, opened anew where its path leads to another directory by now. What is held in
    /// the one before stays there. For a storage thread.
    ///
    /// # Errors
    ///
    /// As for [`Self::make_lockspace`].
    pub fn renew_lockspace(&self, lockspace: Lockspace) -> Result<Lockspace, Error> {
        let Some(directory) = lockspace.directory() else { return Ok(lockspace) };
        if directory.is_there()? {
            return Ok(lockspace);
        }
        let opened = Arc::new(Directory::open(directory.path())?);
        let mut state = self.state();
        Ok(match lockspace {
            Lockspace::Lease(number, _) => {
                state.lockspaces.insert(number, Arc::clone(&opened));
                Lockspace::Lease(number, opened)
            }
            configured => {
                state.settings.lockspaces.renew(configured.kind(), &opened);
                configured.kind().lockspace(opened)
            }
        })
    }

    /// All lockspaces but the direct one, with their directories; of one that is configured no
    /// more, and that locks refer to, none.
    #[must_use]
    pub fn lockspaces(&self) -> Vec<(LockspaceKind, Option<PathBuf>)> {
        let state = self.state();
        let mut configured: HashMap<LockspaceKind, PathBuf> = HashMap::new();
        for lockspace in state.settings.lockspaces.configured() {
            let directory = lockspace.directory().map(|there| there.path().to_owned());
            configured.extend(directory.map(|directory| (lockspace.kind(), directory)));
        }
        let in_use = |kind| state.table.locks().any(|lock| lock.want.lockspace == kind);
        let there = LockspaceKind::CONFIGURED.map(|kind| (kind, configured.remove(&kind)));
        let there = there.into_iter().filter(|(kind, path)| path.is_some() || in_use(*kind));
        let named = state.lockspaces.iter();
        let named = named
            .map(|(number, there)| (LockspaceKind::Lease(*number), Some(there.path().to_owned())));
        there.chain(named).collect()
    }
}

/// A path without what changes nothing: doubled slashes, one at the end, `.`.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}
