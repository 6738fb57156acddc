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
use crate::lock::model::operation::Operation;
use crate::lock::model::owner::AnchorId;
use crate::lock::ofd::description::Description;
use crate::lock::request::Work;
use crate::lock::{self, OwnerId, Reason, ofd};
use crate::service::core::state::{AnchorWatch, Ending};
use crate::service::io::executor::Storage;
use crate::service::lock::release::ReleaseSteps;
use crate::service::persist::journal::{Away, Keep};
use crate::service::recover::reconcile::Reconciliation;
use crate::service::report::event_log;
use crate::service::verify::renewal::Renew;
use crate::service::wait::backoff::BackoffDelays;
use crate::service::{Error, Exempt, Service, Settings};

/// The locks that an owner releases before its requests are served, and its command lock.
type Release = (OwnerId, Vec<(u64, Option<Arc<LockHandle>>, Reason)>, OwnedMutexGuard<()>);

/// A restored service that does not accept requests yet.
#[derive(Debug)]
pub struct Restored {
    service: Service,
    /// Owners that were ending, or ended while the service was not running, with their names.
    endings: Vec<(String, Ending)>,
    /// Locks of live owners whose release was in progress, or whose grant was not reported. Each
    /// owner's command lock is held until they are released: none of them may be granted to it as
    /// already held.
    releases: Vec<Release>,
    /// Orphans: stashed descriptors of locks that no caller was notified of.
    strays: Vec<Description>,
    /// The keys of the orphans that are not open.
    away: Vec<StashKey>,
    /// Duplicates of other stashed descriptors.
    twice: Vec<File>,
    /// The targets of damaged records, each with the number of the lock that was entered for it, if
    /// any.
    suspects: Vec<(Suspect, Option<u64>)>,
}

/// Starts an inspector for the first query.
struct Prepare(Inspector);

impl Work for Prepare {
    type Answer = ();

    fn perform(self) {
        self.0.prestart();
    }
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
    storage: Storage,
    inspector: Inspector,
) -> Result<Restored, Error> {
    let mut contents = state_file::read(directory)?;
    let store = Store::of_parent(&inspector);
    let (stash, found) = Stash::read(&mut inherited, store)?;
    let stash = Arc::new(stash);
    let parked = !found.is_empty();
    if contents.outlived && !parked {
        contents = Contents::default();
    }
    // No descriptor outlives a boot: records of an earlier boot cannot belong to the stashed
    // descriptors.
    let damaged = contents.damaged > 0 || (parked && (contents.missing || contents.outlived));
    if damaged {
        report_damage(&contents, parked, directory);
    }
    let Found { open, stash_only: away } = found;
    let (mut fds, mut twice) = (HashMap::with_capacity(open.len()), Vec::new());
    for (key, fd) in open {
        if let Some(earlier) = fds.insert(key, fd) {
            // Both are the same. Closing may hang if the file system is dead, so it is not done
            // here.
            twice.push(File::from(earlier));
        }
    }
    // A number that was assigned after the last readable one must not be assigned again.
    let mut highest = contents.highest;
    for key in fds.keys().chain(&away) {
        highest.include_stashed(key.part);
    }
    let away = away.into_iter().collect();
    let mut finding = Reconciliation::new(settings, fds, away, &stash, &inspector, damaged);
    finding.state.table.count_from(highest.lock);
    finding.state.count_anchors_from(highest.anchor);
    let (missing_file, mut positions) = (contents.missing, mem::take(&mut contents.positions));
    finding.enter_all(contents)?;
    failpoint("restore-read");
    let Reconciliation { mut state, fds, away, lines, wanted, wanted_away, .. } = finding;
    let (anchored, endings, releases) = (finding.anchored, finding.endings, finding.releases);
    let suspects = finding.suspects;
    // The rest are orphans: every record was readable, so no caller was notified of them.
    let (bytes, anchors): (Vec<_>, Vec<_>) =
        fds.into_iter().partition(|(key, _)| matches!(key.part, KeyPart::Byte(..)));
    drop(anchors);
    let here = bytes.into_iter().map(|(_, fd)| Description::new(File::from(fd)));
    let elsewhere = away.iter().map(|key| Description::away(Away::new(&stash, *key)));
    let strays = here.chain(elsewhere).collect();
    let stray_keys = away.iter().copied().collect();
    // Needed until they are unlocked.
    let wanted_away = wanted_away.into_iter().chain(away.iter().copied());
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
        let turn = Arc::clone(&state.kept.entry(id).or_default().turn);
        // No request is served yet, so it is free.
        released.push((id, locks, turn.try_lock_owned().map_err(|_| Error::Abandoned)?));
    }
    let state_file = match keep::StateFile::create(directory, &lines, highest) {
        // There is no state: the service has nothing to protect yet and may fail.
        Err(error) if missing_file && !parked => return Err(error.into()),
        Err(error) => {
            tracing::error!(%error, "cannot write the state file; all locks are kept, and no new locks are granted until this succeeds");
            if damaged {
                // No conclusion is drawn from lines that were not found.
                let kept: HashSet<RecordId> =
                    lines.iter().filter_map(|entry| entry.record.id()).collect();
                positions.retain(|position| kept.contains(&position.id));
            }
            keep::StateFile::create_in_memory(directory, &lines, highest, &positions)?
        }
        Ok(state_file) => state_file,
    };
    failpoint("restore-written");
    let missing = stash.begin(wanted, wanted_away)?;
    // Stashes anchors that were found again after the descriptor store was lost.
    if let Err(error) = stash.put(&missing) {
        tracing::error!(%error, "cannot store anchors; they will not survive a crash of vmlockd");
    }
    failpoint("restore-parked");
    let locks = state.table.size();
    let keep = Keep { state: state_file, stash };
    let service = Service::new(state, exempt, keep, storage, inspector);
    service.counts().restored(locks);
    if !suspects.is_empty() {
        service.0.suspects.close();
    }
    for (id, number, anchored) in anchored {
        let watch = AnchorWatch { task: service.follow(id, number, &anchored), anchored };
        if let Some(kept) = service.state().kept.get_mut(&id) {
            kept.watches.insert(number, watch);
        }
    }
    tokio::spawn(service.clone().clean());
    tokio::spawn(service.clone().end_reservations());
    let (endings, releases, away) = (ended, released, stray_keys);
    Ok(Restored { service, endings, releases, strays, away, twice, suspects })
}

/// Logs that the state is damaged, and moves the damaged file aside.
fn report_damage(contents: &Contents, parked: bool, directory: &Path) {
    let records = contents.damaged;
    let suspects = contents.suspects.len();
    if parked {
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
    /// Returns the service.
    #[must_use]
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Returns the connections that keep owners alive, to be watched for their ends.
    #[must_use]
    pub fn connections(&self) -> Vec<(OwnerId, AnchorId, Arc<Connection>)> {
        let state = self.service.state();
        let each = state.kept.iter().flat_map(|(id, kept)| {
            let watches = kept.watches.iter();
            watches.filter_map(|(number, watch)| Some((*id, *number, watch.connection()?)))
        });
        each.collect()
    }

    /// Performs step 4. Returns at once.
    pub fn settle(self) {
        let Self { service, endings, releases, strays, away, twice, suspects } = self;
        event_log::restored(service.owner_count(), service.count_locks(|_| true));
        for (name, ending) in endings {
            service.counts().ended();
            event_log::ended_unseen(ending.names.owner, &name, ending.held.len());
            let (story, _) = ReleaseSteps::of_owner(&service, ending, Reason::OwnerGone);
            service.release_soon(story, None);
        }
        for (id, locks, turn) in releases {
            let turn = Arc::new(turn);
            let grace = service.grace_of(id);
            for reason in [Reason::Released, Reason::Suspended] {
                let these = locks.iter().filter(|(.., why)| *why == reason);
                let these = these.map(|(number, held, _)| (*number, held.clone())).collect();
                let story = ReleaseSteps::of_locks(&service, id, these, reason).reserved_for(grace);
                service.release_soon(story, Some(Arc::clone(&turn)));
            }
        }
        let offers = service.owners().into_iter();
        for (id, offer) in offers.filter_map(|owner| Some((owner.id, owner.offer?))) {
            service.expire_later(id, offer);
        }
        service.spawn(Discard { service: service.clone(), strays, away, twice });
        service.spawn(Prepare(service.inspector().clone()));
        service.spawn(Renew(service.clone()));
        service.clean_soon();
        service.examine_all();
        service.verify_all();
        service.lock_suspects(suspects);
        tokio::spawn(service.clone().go_rounds());
        if service.keep().state.is_in_memory() {
            tokio::spawn(service.write_state_later());
        }
    }
}

/// Writes the state file that could not be written at the start.
struct WriteState(Service);

impl Work for WriteState {
    type Answer = bool;

    fn perform(self) -> bool {
        let state = &self.0.keep().state;
        if state.is_in_memory() && state.rewrite().is_err() {
            return false;
        }
        tracing::info!("wrote the state file; new locks are granted again");
        true
    }
}

impl Service {
    /// Retries the write of the state file, with backoff, until it succeeds.
    async fn write_state_later(self) {
        let mut backoff = BackoffDelays::for_state();
        while !matches!(self.storage().run(WriteState(self.clone())).await, Ok(true)) {
            tokio::time::sleep(backoff.next()).await;
        }
    }

    fn release_soon(&self, story: ReleaseSteps, turn: Option<Arc<OwnedMutexGuard<()>>>) {
        let service = self.clone();
        tokio::spawn(async move {
            match service.run_release(story).await {
                Ok(told) => told.wait().await,
                Err(error) => {
                    tracing::error!(%error, "cannot release locks that an interrupted request left behind");
                }
            }
            drop(turn);
        });
    }

    /// Performs a request in the background.
    fn spawn(&self, work: impl Work<Answer = ()>) {
        let service = self.clone();
        tokio::spawn(async move {
            // The request logs its own errors.
            let _ = service.storage().run(work).await;
        });
    }
}

/// Unlocks and closes orphans, and closes duplicates.
struct Discard {
    service: Service,
    strays: Vec<Description>,
    /// The keys of the orphans that are not open.
    away: Vec<StashKey>,
    twice: Vec<File>,
}

impl Work for Discard {
    type Answer = ();

    fn perform(self) {
        let Self { service, strays, away, twice } = self;
        for stray in strays {
            let unlocked = stray.file().and_then(|file| {
                let name = "a lock of an interrupted request";
                ofd::unlock(&*file)
                    .map_err(|errno| lock::Error::system(Operation::Unlock, name, errno))
            });
            if let Err(error) = unlocked {
                tracing::error!("{error}");
            }
        }
        drop(twice);
        for error in service.keep().stash.compact_stash_only(&away) {
            tracing::error!(%error, "cannot close stored copies of released descriptors");
        }
    }
}
