//! Step 4 of the restoration ([`super::restore`]): the work that accesses disks, once the service
//! accepts requests.

use std::fs::File;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use crate::inspector::Inspector;
use crate::keep::StashKey;
use crate::lock::model::operation::Operation;
use crate::lock::ofd::description::Description;
use crate::lock::request::Work;
use crate::lock::{self, Reason, ofd};
use crate::service::components::Components;
use crate::service::lock::release::Release;
use crate::service::lock::{reservations, transfer};
use crate::service::recover::restore::Restored;
use crate::service::recover::suspects;
use crate::service::report::event_log;
use crate::service::verify::renewal::Renew;
use crate::service::wait::backoff::BackoffDelays;

impl Restored {
    /// Performs step 4. Returns at once.
    pub fn settle(self) {
        let Self { components, endings, releases, orphans, stash_only, duplicates, suspects } =
            self;
        let (owners, locks) = {
            let state = components.state();
            (state.table.owners().count(), state.table.locks().count())
        };
        event_log::restored(owners, locks);
        for (name, ending) in endings {
            components.metrics.ended();
            event_log::ended_unseen(ending.records.owner, &name, ending.held.len());
            let (release, _) = Release::of_owner(&components, ending, Reason::OwnerGone);
            release_later(release, None);
        }
        for (id, locks, command_lock) in releases {
            let command_lock = Arc::new(command_lock);
            let grace = reservations::grace_of(&components, id);
            for reason in [Reason::Released, Reason::Suspended] {
                let these = locks.iter().filter(|(.., why)| *why == reason);
                let these = these.map(|(number, held, _)| (*number, held.clone())).collect();
                let release = Release::of_locks(&components, id, these, reason).reserved_for(grace);
                release_later(release, Some(Arc::clone(&command_lock)));
            }
        }
        let offers: Vec<_> = {
            let state = components.state();
            state.table.owners().filter_map(|owner| Some((owner.id, owner.offer?))).collect()
        };
        for (id, offer) in offers {
            transfer::expire_later(&components, id, offer);
        }
        spawn(
            &components,
            Discard { components: Arc::clone(&components), orphans, stash_only, duplicates },
        );
        spawn(&components, Prestart(components.inspection.inspector().clone()));
        spawn(&components, Renew(Arc::clone(&components.stacks)));
        components.journal.compact_later();
        components.lockspace_checks.test_all();
        components.verifier.verify_all();
        suspects::lock_suspects(&components, suspects);
        tokio::spawn(Arc::clone(&components.verifier).verify_periodically());
        if components.journal.state.is_in_memory() {
            tokio::spawn(write_state_later(components));
        }
    }
}

/// Writes the state file that could not be written at the start.
struct WriteState(Arc<Components>);

impl Work for WriteState {
    type Answer = bool;

    fn perform(self) -> bool {
        let state = &self.0.journal.state;
        if state.is_in_memory() && state.rewrite().is_err() {
            return false;
        }
        tracing::info!("wrote the state file; new locks are granted again");
        true
    }
}

/// Retries the write of the state file, with backoff, until it succeeds.
async fn write_state_later(components: Arc<Components>) {
    let mut backoff = BackoffDelays::for_state();
    while !matches!(components.executor.run(WriteState(Arc::clone(&components))).await, Ok(true)) {
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Performs a release in the background; holds the owner's command lock meanwhile.
fn release_later(release: Release, command_lock: Option<Arc<OwnedMutexGuard<()>>>) {
    tokio::spawn(async move {
        match release.run_until_done().await {
            Ok(publication) => publication.wait().await,
            Err(error) => {
                tracing::error!(%error, "cannot release locks that an interrupted request left behind");
            }
        }
        drop(command_lock);
    });
}

/// Performs a request in the background.
fn spawn(components: &Arc<Components>, work: impl Work<Answer = ()>) {
    let components = Arc::clone(components);
    tokio::spawn(async move {
        // The request logs its own errors.
        let _ = components.executor.run(work).await;
    });
}

/// Unlocks and closes orphans, and closes duplicates.
struct Discard {
    components: Arc<Components>,
    orphans: Vec<Description>,
    /// The keys of the orphans that are not open.
    stash_only: Vec<StashKey>,
    duplicates: Vec<File>,
}

impl Work for Discard {
    type Answer = ();

    fn perform(self) {
        let Self { components, orphans, stash_only, duplicates } = self;
        for orphan in orphans {
            let unlocked = orphan.file().and_then(|file| {
                let name = "a lock of an interrupted request";
                ofd::unlock(&*file)
                    .map_err(|errno| lock::Error::system(Operation::Unlock, name, errno))
            });
            if let Err(error) = unlocked {
                tracing::error!("{error}");
            }
        }
        drop(duplicates);
        for error in components.journal.stash.compact_stash_only(&stash_only) {
            tracing::error!(%error, "cannot close stored copies of released descriptors");
        }
    }
}

/// Starts an inspector for the first query.
struct Prestart(Inspector);

impl Work for Prestart {
    type Answer = ();

    fn perform(self) {
        self.0.prestart();
    }
}
