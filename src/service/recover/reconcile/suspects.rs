//! Enters the disks and leases that damaged lock records name.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Reconciliation;
use super::remembered::{RecordMeaning, TransferredLocks};
use crate::keep::{EntryStage, Record, RecordId, StateEntry, Suspect, SuspectName};
use crate::lock::lockspace::directory::Directory;
use crate::lock::lockspace::{LockspaceKind, hashed_name};
use crate::lock::model::identity::Identity;
use crate::lock::model::lease_name::spelt;
use crate::lock::model::lock::{Proof, Stage, Want};
use crate::lock::resolve::renewal::found_below;
use crate::lock::text::escape::spelt_path;
use crate::lock::{self, Lock, Mode};
use crate::service::core::clock::now;
use crate::service::core::error::Error;
use crate::service::core::suspect::{SUSPECT, SUSPECT_NAME};
use crate::service::persist::entries::{lock_entry, lockspace_entry};

impl Reconciliation {
    /// Enters the disks and leases that damaged records name as locks of the owner `suspect`,
    /// except those whose descriptors are stashed: a descriptor is better evidence, and its lock is
    /// recovered already. A target without a known identity is locked once the service accepts
    /// requests.
    pub(super) fn enter_suspects(&mut self, suspects: Vec<Suspect>) -> Result<(), Error> {
        for mut suspect in merge(suspects) {
            let is_kept = match suspect.number {
                Some(number) => self.bytes.contains(&number),
                None => !self.bytes.is_empty(),
            };
            if is_kept {
                continue;
            }
            if self.state.table.owner(SUSPECT).is_none() {
                self.open_manual(SUSPECT, SUSPECT_NAME)?;
            }
            if let SuspectName::LockFile(file) = &suspect.name {
                self.enter_lockspace_of(file, suspect.lockspace);
            }
            let number = self.enter_suspect(&mut suspect);
            self.suspects.push((suspect, number));
        }
        Ok(())
    }

    /// Enters a suspect as a lock that is to be acquired again; returns its number.
    fn enter_suspect(&mut self, suspect: &mut Suspect) -> Option<u64> {
        let want = self.want_of(suspect)?;
        let id = self.state.table.next_number();
        let (owner, stage, proof) = (SUSPECT, Stage::Held, Proof::Unverified);
        let mut lock = Lock { id, owner, since: now(), stage, proof, want };
        let entered = match self.state.table.restore(lock.clone()) {
            // The checksum does not cover the mode. If others hold the target in shared mode, the
            // mode was shared.
            Err(error) if suspect.mode == Mode::Exclusive && only_shared(&error) => {
                suspect.mode = Mode::Shared;
                lock.want.mode = Mode::Shared;
                self.state.table.restore(lock.clone())
            }
            entered => entered,
        };
        if let Err(error) = entered {
            let name = suspect.name.shown();
            tracing::error!(%error, "cannot lock {name}, which a damaged record names, for owner suspect");
            return None;
        }
        self.entries.push(lock_entry(&lock, EntryStage::Held));
        Some(id)
    }

    /// Returns the target of a suspect; `None` if it must be looked up.
    fn want_of(&self, suspect: &Suspect) -> Option<Want> {
        let identity = suspect.identity?;
        let mode = suspect.mode;
        let (path, resource, lockspace, lock_files) = match (&suspect.name, identity) {
            (SuspectName::LockFile(file), Identity::Key { .. }) => {
                let (directory, key) = (file.parent()?, file.file_name()?.to_str()?);
                let kind = self.lockspace_at(directory).unwrap_or(LockspaceKind::File);
                (None, spelt(directory, key), kind, vec![file.clone()])
            }
            (SuspectName::Disk(path), Identity::Inode { .. } | Identity::Block { .. }) => {
                let (lockspace, lock_files) = self.lock_files_of(suspect, path)?;
                (Some(path.clone()), spelt_path(path), lockspace, lock_files)
            }
            _ => return None,
        };
        let below = Some(suspect.below.clone()).filter(|below| !below.is_empty());
        let below = below.unwrap_or_else(|| found_below(identity));
        Some(Want {
            resource,
            canonical: suspect.canonical.as_deref().filter(|_| path.is_some()).map(spelt_path),
            path,
            identity,
            below,
            copies: suspect.copies.clone(),
            lockspace,
            lock_files,
            // A missing lock file is not created again.
            fleeting: false,
            mode,
            write_shown: false,
        })
    }

    /// Returns the lock files of a disk. The fields that name them may be damaged too: then they
    /// follow from its path, or are unknown.
    fn lock_files_of(
        &self,
        suspect: &Suspect,
        path: &Path,
    ) -> Option<(LockspaceKind, Vec<PathBuf>)> {
        let lockspaces = &self.state.settings.lockspaces;
        let direct = Some((LockspaceKind::Direct, vec![path.to_owned()]));
        let by_files =
            suspect.lock_files.first().and_then(|file| self.lockspace_at(file.parent()?));
        let kind = match (suspect.lockspace, by_files) {
            (Some(kind), _) | (_, Some(kind)) if kind.is_configured() => kind,
            (Some(LockspaceKind::Direct), _) => return direct,
            _ if lockspaces.configured().next().is_none() => return direct,
            _ => return None,
        };
        let is_file = !matches!(suspect.identity, Some(Identity::Block { .. }));
        let paths = [Some(path), suspect.canonical.as_deref().filter(|_| is_file)];
        let names: Vec<String> = paths.into_iter().flatten().map(hashed_name).collect();
        let is_known = |file: &PathBuf| {
            let name = file.file_name().and_then(|name| name.to_str());
            kind != LockspaceKind::File
                || name.is_some_and(|name| names.iter().any(|it| it == name))
        };
        if by_files == Some(kind) && suspect.lock_files.iter().all(is_known) {
            return Some((kind, suspect.lock_files.clone()));
        }
        let directory = lockspaces.file.as_ref().filter(|_| kind == LockspaceKind::File)?;
        let mut files: Vec<PathBuf> = names.iter().map(|name| directory.path_of(name)).collect();
        files.dedup();
        Some((kind, files))
    }

    /// Returns the lockspace whose lock files are in a directory.
    fn lockspace_at(&self, directory: &Path) -> Option<LockspaceKind> {
        let lockspaces = &self.state.settings.lockspaces;
        let is_there = |there: &Directory| there.path() == directory;
        let configured = lockspaces.configured();
        let configured = configured
            .filter(|lockspace| lockspace.directory().is_some_and(|there| is_there(there)))
            .map(|lockspace| lockspace.kind());
        let named = self.state.lockspaces.iter();
        let named = named.filter(|(_, there)| is_there(there));
        configured.chain(named.map(|(number, _)| LockspaceKind::Lease(*number))).next()
    }

    /// Enters the lockspace of a lock file if it is missing: its own record may be damaged, and
    /// libvirt names its lockspaces only at its start.
    pub(super) fn enter_lockspace_of(&mut self, file: &Path, kind: Option<LockspaceKind>) {
        let Some(directory) = file.parent() else { return };
        if self.lockspace_at(directory).is_some() {
            return;
        }
        let lockspaces = &mut self.state.lockspaces;
        let number = match kind {
            Some(LockspaceKind::Lease(number)) if !lockspaces.contains_key(&number) => number,
            _ => lockspaces.keys().next_back().map_or(1, |last| last.saturating_add(1)),
        };
        lockspaces.entry(number).or_insert_with(|| Arc::new(Directory::unopened(directory)));
        self.entries.push(lockspace_entry(number, directory));
    }

    /// Enters the damaged records of suspended and reserved locks: an owner must not be resumed
    /// without one of its locks. If the record is wrong, the resumption is refused.
    pub(super) fn enter_unproven(&mut self, entries: Vec<StateEntry>, moved: &TransferredLocks) {
        let mut given = HashSet::new();
        let used: HashSet<RecordId> =
            self.entries.iter().filter_map(|entry| entry.record.id()).collect();
        for StateEntry { stage, mode, record } in entries {
            let (Record::Lock(record), Some(mode)) = (record, mode) else { continue };
            if matches!(
                moved.classify(&record, stage),
                RecordMeaning::Nothing | RecordMeaning::Retained
            ) {
                continue;
            }
            // Two suspended locks of one owner must not have the same number.
            let next = self.state.table.next_number();
            let number = record.number();
            let is_used = number >= next || used.contains(&RecordId::Lock(number));
            let is_free = !is_used && given.insert(number);
            let record = if is_free { *record } else { record.renumbered(next) };
            let lock = record.clone().lock(mode, Stage::Held);
            let resource = lock.as_ref().map(|lock| lock.want.resource.clone()).unwrap_or_default();
            let resource = lock::text::escape::shown(&resource);
            let is_owner = |lock: &Lock| self.state.table.living(lock.owner).is_ok();
            if !lock.as_ref().is_some_and(is_owner) {
                tracing::error!(
                    "cannot restore the suspended or reserved lock on {resource}: its record is \
                     damaged, and its owner unknown"
                );
            } else if stage == EntryStage::Reserved {
                self.enter_reserved(record, mode);
            } else {
                tracing::warn!("restored the suspended lock on {resource} from a damaged record");
                self.enter_remembered(record, mode);
            }
        }
    }
}

/// Merges suspects so that each disk and lease appears once, in the stronger mode.
fn merge(suspects: Vec<Suspect>) -> Vec<Suspect> {
    let mut merged: Vec<Suspect> = Vec::new();
    let mut by_name: HashMap<SuspectName, usize> = HashMap::new();
    let mut by_identity: HashMap<Identity, usize> = HashMap::new();
    for suspect in suspects {
        let found = suspect.identity.and_then(|identity| by_identity.get(&identity));
        let found = found.or_else(|| by_name.get(&suspect.name)).copied();
        let place = found.unwrap_or(merged.len());
        by_name.entry(suspect.name.clone()).or_insert(place);
        if let Some(identity) = suspect.identity {
            by_identity.entry(identity).or_insert(place);
        }
        match merged.get_mut(place) {
            Some(earlier) => {
                if suspect.mode == Mode::Exclusive {
                    earlier.mode = Mode::Exclusive;
                }
                earlier.identity = earlier.identity.or(suspect.identity);
            }
            None => merged.push(suspect),
        }
    }
    merged
}

/// Whether a lock is refused only because of shared locks.
pub(in crate::service) fn only_shared(error: &lock::Error) -> bool {
    let lock::Error::Held(refusal) = error else { return false };
    let is_shared = |mode: Mode| mode == Mode::Shared;
    !refusal.holders.is_empty() && refusal.holders.iter().all(|holder| is_shared(holder.mode))
}
