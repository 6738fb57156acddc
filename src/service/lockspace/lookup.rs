//! Lookup of lockspaces in the state.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::lock::lockspace::{Lockspace, LockspaceKind};
use crate::lock::text::escape::shown_path;
use crate::lock::{self, Want};
use crate::service::core::error::Error;
use crate::service::state::State;

impl State {
    /// Returns the lockspace of a directory, if there is one.
    pub(in crate::service) fn lockspace(&self, directory: &Path) -> Option<Lockspace> {
        let directory = plain(directory);
        let existing = |lockspace: &Lockspace| {
            lockspace.directory().is_some_and(|existing| plain(existing.path()) == directory)
        };
        self.settings.lockspaces.configured().find(existing).or_else(|| {
            let mut named = self.lockspaces.iter();
            let named = named.find(|(_, existing)| existing.path() == directory);
            named.map(|(number, existing)| Lockspace::Lease(*number, Arc::clone(existing)))
        })
    }

    /// Returns the directory of a lockspace; `None` if it does not exist or is no longer
    /// configured.
    pub(in crate::service) fn directory_of(&self, kind: LockspaceKind) -> Option<PathBuf> {
        let directory = match kind {
            LockspaceKind::Direct => None,
            LockspaceKind::File => self.settings.lockspaces.file.as_ref(),
            LockspaceKind::Lvm => self.settings.lockspaces.lvm.as_ref(),
            LockspaceKind::Scsi => self.settings.lockspaces.scsi.as_ref(),
            LockspaceKind::Lease(number) => self.lockspaces.get(&number),
        };
        directory.map(|directory| directory.path().to_owned())
    }

    /// Returns all lockspaces except the direct one, with their directories; a lockspace that is no
    /// longer configured but has locks has none.
    pub(in crate::service) fn list_lockspaces(&self) -> Vec<(LockspaceKind, Option<PathBuf>)> {
        let mut configured: HashMap<LockspaceKind, PathBuf> = HashMap::new();
        for lockspace in self.settings.lockspaces.configured() {
            let directory = lockspace.directory().map(|existing| existing.path().to_owned());
            configured.extend(directory.map(|directory| (lockspace.kind(), directory)));
        }
        let in_use = |kind| self.table.locks().any(|lock| lock.want.lockspace == kind);
        let existing = LockspaceKind::CONFIGURED.map(|kind| (kind, configured.remove(&kind)));
        let existing = existing.into_iter().filter(|(kind, path)| path.is_some() || in_use(*kind));
        let named = self.lockspaces.iter();
        let named = named.map(|(number, existing)| {
            (LockspaceKind::Lease(*number), Some(existing.path().to_owned()))
        });
        existing.chain(named).collect()
    }

    /// Returns a number for a lockspace that was never used before.
    pub(super) fn next_lockspace(&mut self) -> u32 {
        let last = self.lockspaces.keys().next_back().copied().unwrap_or_default();
        self.last_lockspace = self.last_lockspace.max(last) + 1;
        self.last_lockspace
    }

    /// Refuses targets that were found in a lockspace that was removed since.
    pub(in crate::service) fn check_lockspaces(&self, wants: &[Want]) -> Result<(), Error> {
        let gone = |want: &&Want| match want.lockspace {
            LockspaceKind::Lease(number) => !self.lockspaces.contains_key(&number),
            LockspaceKind::Direct
            | LockspaceKind::File
            | LockspaceKind::Lvm
            | LockspaceKind::Scsi => false,
        };
        let Some(want) = wants.iter().find(gone) else { return Ok(()) };
        let file = want.lock_files.first().and_then(|file| file.parent());
        Err(no_such(file.unwrap_or(Path::new(""))))
    }
}

pub(in crate::service) fn no_such(directory: &Path) -> Error {
    lock::Error::NoSuchLockspace(shown_path(directory)).into()
}

/// Returns a path without double slashes, slashes at the end and `.` components.
pub(super) fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}
