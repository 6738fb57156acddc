//! Restores the service at its start: reconciles the state file and the stashed descriptors into
//! the table.
//!
//! 1. The records of the state file are read, and the stashed descriptors are received. Nothing is
//!    changed yet: a state that another version wrote is left to that version.
//! 2. Owners, then anchors, then locks are entered in the table, each with its number and its time.
//!    No disk is accessed: its storage may be dead.
//! 3. The result is written to a new state file, so that a crash from here on finds this state. If
//!    there is no space for it, it is kept in memory and the write is retried with backoff
//!    ([`keep::StateFile::create_in_memory`]).
//! 4. Once the service accepts requests ([`Restored::settle`]): unfinished releases are completed,
//!    and grants that no caller was notified of are rolled back; anchors that ended meanwhile
//!    report it by themselves; every lock is verified.
//!
//! Invariant: a lock whose VM may be alive is never released. So if a record is damaged, a lock
//! whose descriptor is stashed is kept, for an owner that only an administrator closes. Without a
//! stashed descriptor, the disk that a damaged record still names is locked again for such an owner
//! ([`super::suspects`]), and so is a lifeline; a disk that no record names any more is free.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::mem;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use crate::failpoint::failpoint;
use crate::inspector::Inspector;
use crate::keep::stash::Found;
use crate::keep::{
    self, Contents, Inherited, KeyPart, RecordId, Stash, StashKey, Store, Suspect, state_file,
};
use crate::life::Connection;
use crate::lock::acquire::handle::LockHandle;
use crate::lock::model::owner::AnchorId;
use crate::lock::ofd::description::Description;
use crate::lock::{OwnerId, Reason};
use crate::service::components::Components;
use crate::service::core::error::Error;
use crate::service::core::limits::Exempt;
use crate::service::core::settings::Settings;
use crate::service::io::executor::Executor;
use crate::service::lock::expiry;
use crate::service::owner::anchors;
use crate::service::persist::journal::{Journal, StashedDescriptor};
use crate::service::recover::reconcile::Reconciliation;
use crate::service::state::ending::Ending;
use crate::service::state::owner_state::AnchorWatch;

/// The locks that an owner releases before its requests are served, and its command lock.
type Release = (OwnerId, Vec<(u64, Option<Arc<LockHandle>>, Reason)>, OwnedMutexGuard<()>);

/// A restored service that does not accept requests yet.
#[derive(Debug)]
pub struct Restored {
    pub(in crate::service) components: Arc<Components>,
    /// Owners that were ending, or ended while the service was not running, with their names.
    pub(super) endings: Vec<(String, Ending)>,
    /// Locks of live owners whose release was in progress, or whose grant was not reported. Each
    /// owner's command lock is held until they are released: none of them may be granted to it as
    /// already held.
    pub(super) releases: Vec<Release>,
    /// Orphans: stashed descriptors of locks that no caller was notified of.
    pub(super) orphans: Vec<Description>,
    /// The keys of the orphans that are not open.
    pub(super) stash_only: Vec<StashKey>,
    /// Duplicates of other stashed descriptors.
    pub(super) duplicates: Vec<File>,
    /// The targets of damaged records, each with the number of the lock that was entered for it, if
    /// any.
    pub(super) suspects: Vec<(Suspect, Option<u64>)>,
}

/// Restores the service in the state in which the previous instance ended. Needs an event loop.
///
/// # Errors
///
/// [`Error::Keep`]: the state was written by another version, or cannot be read or written. Nothing
/// is lost then: state file and stash are unchanged.
pub fn restore(
    settings: Settings,
    exempt: Exempt,
    directory: &Path,
    mut inherited: Inherited,
    executor: Executor,
    inspector: Inspector,
) -> Result<Restored, Error> {
    let mut contents = state_file::read(directory)?;
    let store = Store::of_parent(&inspector);
    let (stash, found) = Stash::read(&mut inherited, store)?;
    let stash = Arc::new(stash);
    let has_stash = !found.is_empty();
    if contents.outlived && !has_stash {
        contents = Contents::default();
    }
    // No descriptor outlives a boot: records of an earlier boot cannot belong to the stashed
    // descriptors.
    let damaged = contents.damaged() > 0 || (has_stash && (contents.missing || contents.outlived));
    if damaged {
        report_damage(&contents, has_stash, directory);
    }
    let Found { open, stash_only } = found;
    let (mut fds, mut duplicates) = (HashMap::with_capacity(open.len()), Vec::new());
    for (key, fd) in open {
        if let Some(earlier) = fds.insert(key, fd) {
            // Both are the same. Closing may hang if the file system is dead, so it is not done
            // here.
            duplicates.push(File::from(earlier));
        }
    }
    // A number that was assigned after the last readable one must not be assigned again.
    let mut highest = contents.highest;
    for key in fds.keys().chain(&stash_only) {
        highest.include_stashed(key.part);
    }
    let stash_only = stash_only.into_iter().collect();
    let mut finding = Reconciliation::new(settings, fds, stash_only, &stash, &inspector, damaged);
    finding.state.table.count_from(highest.lock);
    finding.state.count_anchors_from(highest.anchor);
    let (missing_file, mut positions) = (contents.missing, mem::take(&mut contents.positions));
    finding.enter_all(contents)?;
    failpoint("restore-read");
    let Reconciliation { mut state, fds, stash_only, entries, needed, needed_stash_only, .. } =
        finding;
    let (handle, endings, releases) = (finding.handle, finding.endings, finding.releases);
    let suspects = finding.suspects;
    // The rest are orphans: every record was readable, so no caller was notified of them.
    let (bytes, anchors): (Vec<_>, Vec<_>) =
        fds.into_iter().partition(|(key, _)| matches!(key.part, KeyPart::Byte(..)));
    drop(anchors);
    let here = bytes.into_iter().map(|(_, fd)| Description::new(File::from(fd)));
    let elsewhere =
        stash_only.iter().map(|key| Description::away(StashedDescriptor::new(&stash, *key)));
    let orphans = here.chain(elsewhere).collect();
    let orphan_keys = stash_only.iter().copied().collect();
    // Needed until they are unlocked.
    let needed_stash_only = needed_stash_only.into_iter().chain(stash_only.iter().copied());
    // Ends and releases are decided again in the table, so that no request sees these locks as
    // held; they are performed once the service accepts requests.
    let mut ended = Vec::new();
    for id in endings {
        let name = state.name_of(id);
        ended.push((name, state.end(id, true)?));
    }
    let mut begun = BTreeMap::new();
    for (id, number, reason) in releases {
        // It may be released together with its owner already.
        if state.table.begin_release(number).is_ok() {
            let locks = begun.entry(id).or_insert_with(Vec::new);
            locks.push((number, state.held.remove(&number), reason));
        }
    }
    let mut released = Vec::with_capacity(begun.len());
    for (id, locks) in begun {
        let command_lock = Arc::clone(&state.owners.entry(id).or_default().command_lock);
        // No request is served yet, so it is free.
        released.push((id, locks, command_lock.try_lock_owned().map_err(|_| Error::Abandoned)?));
    }
    let state_file = match keep::StateFile::create(directory, &entries, highest) {
        // There is no state: the service has nothing to protect yet and may fail.
        Err(error) if missing_file && !has_stash => return Err(error.into()),
        Err(error) => {
            tracing::error!(%error, "cannot write the state file; all locks are kept, and no new locks are granted until this succeeds");
            if damaged {
                // No conclusion is drawn from lines that were not found.
                let kept: HashSet<RecordId> =
                    entries.iter().filter_map(|entry| entry.record.id()).collect();
                positions.retain(|position| kept.contains(&position.id));
            }
            keep::StateFile::create_in_memory(directory, &entries, highest, &positions)?
        }
        Ok(state_file) => state_file,
    };
    failpoint("restore-written");
    let missing = stash.begin(needed, needed_stash_only)?;
    // Stashes anchors that were found again after the descriptor store was lost.
    if let Err(error) = stash.put(&missing) {
        tracing::error!(%error, "cannot store anchors; they will not survive a crash of vmlockd");
    }
    failpoint("restore-parked");
    let locks = state.table.size();
    let journal = Journal::new(state_file, stash);
    let components = Arc::new(Components::new(state, exempt, journal, executor, inspector));
    components.metrics.restored(locks);
    if !suspects.is_empty() {
        components.suspects_gate.close();
    }
    for (id, number, handle) in handle {
        let watch = AnchorWatch { task: anchors::follow(&components, id, number, &handle), handle };
        if let Some(owner_state) = components.state().owners.get_mut(&id) {
            owner_state.watches.insert(number, watch);
        }
    }
    tokio::spawn(
        Arc::clone(&components.journal).compact_on_request(Arc::clone(&components.executor)),
    );
    tokio::spawn(expiry::end_reservations(Arc::clone(&components)));
    let (endings, releases, stash_only) = (ended, released, orphan_keys);
    Ok(Restored { components, endings, releases, orphans, stash_only, duplicates, suspects })
}

/// Logs that the state is damaged, and moves the damaged file aside.
fn report_damage(contents: &Contents, has_stash: bool, directory: &Path) {
    let records = contents.damaged();
    let suspects = contents.suspects.len();
    if has_stash {
        tracing::error!(
            records,
            "the state file is damaged ({records} records); all locks with a stored descriptor are kept"
        );
    } else {
        tracing::error!(
            records,
            suspects,
            "the state file is damaged ({records} records), and no descriptors are stored: locking \
             again the {suspects} disks and leases that damaged records still name, for owner suspect; \
             other locks of damaged records are lost"
        );
    }
    if !contents.missing {
        match state_file::copy_aside(directory) {
            Ok(aside) => tracing::error!("copied the damaged state file to {}", aside.display()),
            Err(error) => tracing::error!(%error, "cannot copy the damaged state file"),
        }
    }
}

impl Restored {
    /// Returns the connections that keep owners alive, to be watched for their ends.
    #[must_use]
    pub fn connections(&self) -> Vec<(OwnerId, AnchorId, Arc<Connection>)> {
        let state = self.components.state();
        let each = state.owners.iter().flat_map(|(id, owner_state)| {
            let watches = owner_state.watches.iter();
            watches.filter_map(|(number, watch)| Some((*id, *number, watch.connection()?)))
        });
        each.collect()
    }
}
