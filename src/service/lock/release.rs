//! Release of locks: by command, by force, with the end of their owner.
//!
//! 1. The table removes the lock from the list; it still conflicts with other requests.
//! 2. The release is written to the journal as begun: a restart continues from here.
//! 3. The lock file is removed, the byte unlocked, and its descriptors are closed, the stashed one
//!    too.
//! 4. The record of the lock is removed.
//! 5. The table frees the resource: from here on other owners may lock it. A resource that libvirt
//!    releases while its VM is alive is reserved for this VM first, and recorded as reserved
//!    ([`super::reservations`]).
//! 6. The events are published, with the reason.
//!
//! Steps 2 to 5 run in one piece on one worker thread.
//!
//! The end of an owner ([`super::end`]) performs the same steps with all of its locks. It does not
//! wait for the command lock: a command in progress notices the end when it commits, and is rolled
//! back.

use std::sync::Arc;
use std::time::Duration;

use crate::failpoint::failpoint;
use crate::keep::EntryStage;
use crate::lock::acquire::handle::{LockHandle, Unlock};
use crate::lock::request::{Asked, Work};
use crate::lock::table::Move;
use crate::lock::{self, Front, OwnerId, Reason, Want};
use crate::service::components::Components;
use crate::service::core::error::Error;
use crate::service::lock::change_owner::change_owner;
use crate::service::lock::{force, owner_records, reservations};
use crate::service::persist::journal::{Journal, OwnerRecords};
use crate::service::report::event_log::{self, EventBatch};
use crate::service::state::ending::Ending;
use crate::service::state::events::Publication;

/// Releases locks of one owner, all of them or none.
pub(in crate::service) async fn release(
    components: &Arc<Components>,
    id: OwnerId,
    locks: &[u64],
    by: u32,
    force: bool,
) -> Result<(), Error> {
    let _command_lock = components.state.lock_commands(id).await?;
    let (foreign, held, name) = {
        let mut state = components.state();
        let foreign = by != id.uid || state.table.living(id)?.front != Front::Dbus;
        for number in locks {
            match state.table.lock(*number) {
                Some(lock) if lock.owner == id => {}
                _ => return Err(lock::Error::NoSuchLock(*number).into()),
            }
        }
        if foreign && !force {
            force::refuse_unforced(&state, components.exempt, id, locks)?;
        }
        let mut begun = Vec::with_capacity(locks.len());
        for number in locks {
            // A number that appears twice in the request is released at its first occurrence.
            if state.table.begin_release(*number).is_ok() {
                begun.push((*number, state.held.remove(number)));
            }
        }
        (foreign, begun, state.name_of(id))
    };
    let reason = if foreign { Reason::Forced } else { Reason::Released };
    if foreign {
        components.metrics.broken(held.len());
        event_log::broken(id, &name, locks, by);
    }
    Release::of_locks(components, id, held, reason).run_until_done().await?.wait().await;
    Ok(())
}

/// A release: steps 2 to 5.
pub(in crate::service) struct Release {
    components: Arc<Components>,
    id: OwnerId,
    /// The owner, if it ends.
    ended: Option<OwnerRecords>,
    /// Owners that were removed from the table already.
    closed: Vec<OwnerRecords>,
    /// The locks that return to their former owners, after the owner's last command has ended.
    returns: Option<(Vec<Move>, Arc<tokio::sync::Mutex<()>>)>,
    locks: Vec<(u64, Option<Arc<LockHandle>>)>,
    /// The targets of the locks.
    wants: Vec<Want>,
    reason: Reason,
    /// How long the resources are reserved for their owner; `None` for no reservation.
    grace: Option<Duration>,
    /// Whether a caller waits for the events to be published.
    awaited: bool,
}

impl Release {
    pub(in crate::service) fn of_locks(
        components: &Arc<Components>,
        id: OwnerId,
        locks: Vec<(u64, Option<Arc<LockHandle>>)>,
        reason: Reason,
    ) -> Self {
        let wants = wants_of(components, &locks);
        let components = Arc::clone(components);
        let (ended, closed, returns, grace) = (None, Vec::new(), None, None);
        Self { components, id, ended, closed, returns, locks, wants, reason, grace, awaited: true }
    }

    /// Returns the release with a reservation of the resources for their owner.
    pub(in crate::service) fn reserved_for(self, grace: Option<Duration>) -> Self {
        Self { grace, ..self }
    }

    /// Returns the release for which no caller waits.
    pub(in crate::service) fn unawaited(self) -> Self {
        Self { awaited: false, ..self }
    }

    pub(in crate::service) fn of_owner(
        components: &Arc<Components>,
        ending: Ending,
        reason: Reason,
    ) -> (Self, Publication) {
        let Ending { records, held: locks, returns, command_lock, closed, publication } = ending;
        let wants = wants_of(components, &locks);
        let (components, id) = (Arc::clone(components), records.owner);
        let ended = Some(records);
        let returns = (!returns.is_empty()).then_some((returns, command_lock));
        let (grace, awaited) = (None, true);
        (
            Self { components, id, ended, closed, returns, locks, wants, reason, grace, awaited },
            publication,
        )
    }
}

impl Work for Release {
    type Answer = Publication;

    fn asks(&self) -> Vec<Asked<'_>> {
        self.wants.iter().flat_map(Want::asks).collect()
    }

    fn perform(self) -> Publication {
        let mut publication = self.run();
        // Logged here, where no other task waits for it.
        publication.log();
        publication
    }
}

impl Release {
    /// Performs steps 2 to 5 on a worker thread, and retries until they are done.
    pub(in crate::service) async fn run_until_done(self) -> Result<Publication, Error> {
        let components = Arc::clone(&self.components);
        let publication = components.executor.run_with_retry(self).await?;
        components.owner_removed.notify_waiters();
        Ok(publication)
    }

    /// Performs steps 2 to 5. After a failed step the next ones are still tried, since the lock
    /// must go.
    pub(in crate::service) fn run(self) -> Publication {
        let Self {
            components, id, ended, closed, returns, mut locks, reason, grace, awaited, ..
        } = self;
        let journal = &components.journal;
        failpoint("release-decided");
        if let Err(error) = ended.map_or(Ok(()), |records| journal.end(&records)) {
            failed(&error, "an owner ends, though a restart would not know of it");
        }
        if let Some((returns, command_lock)) = returns {
            locks.extend(return_all(&components, &returns, &command_lock));
        }
        let numbers: Vec<u64> = locks.iter().map(|(number, _)| *number).collect();
        // A suspended lock is recorded as suspended from the first step.
        let (begun, done) = match reason {
            Reason::Suspended => (EntryStage::Suspended, EntryStage::Suspended),
            Reason::Released if grace.is_some() => (EntryStage::Releasing, EntryStage::Reserved),
            _ => (EntryStage::Releasing, EntryStage::Removed),
        };
        if let Err(error) = journal.mark_locks(&numbers, begun) {
            failed(&error, "cannot record that locks are being released");
        }
        failpoint("release-noted");
        for failure in unlock_all(journal, id, locks) {
            tracing::error!(%failure, "cannot release all of a lock");
        }
        if let Err(error) = journal.mark_locks(&numbers, done) {
            failed(&error, "cannot record that locks are released");
        }
        failpoint("release-forgotten");
        let reserves = grace.filter(|_| done == EntryStage::Reserved).map(reservations::end_of);
        let (pending, closed_now, publication, reserved) = {
            let mut state = components.state();
            let name = state.name_of(id);
            let (events, reserved) = match reserves {
                Some(until) => state.finish_release_reserved(&numbers, until),
                None => (state.table.finish_release(&numbers, reason), Vec::new()),
            };
            let closed = state.closed(&events);
            let publication = state.events.publish_for(events.clone(), awaited);
            components.metrics.released(&events);
            (EventBatch::new(name, events), closed, publication, reserved)
        };
        if let Some(until) = reserves {
            // Resources of an owner that ended meanwhile are free.
            let free = numbers.iter().copied().filter(|number| !reserved.contains(number));
            reservations::remove_records(journal, &free.collect::<Vec<_>>());
            reservations::added(&components, until);
        }
        owner_records::remove(journal, &closed);
        owner_records::remove(journal, &closed_now);
        failpoint("release-done");
        publication.and_log(pending)
    }
}

/// Returns the targets of these locks.
fn wants_of(components: &Components, locks: &[(u64, Option<Arc<LockHandle>>)]) -> Vec<Want> {
    let state = components.state();
    locks.iter().filter_map(|(number, _)| state.table.want_of(*number).cloned()).collect()
}

/// Returns locks to their former owners; yields the locks that cannot return, to be released.
fn return_all(
    components: &Components,
    returns: &[Move],
    command_lock: &tokio::sync::Mutex<()>,
) -> Vec<(u64, Option<Arc<LockHandle>>)> {
    // A lock whose conversion is in progress must not move in another mode than it is in.
    let _command_lock = command_lock.blocking_lock();
    let mut left = Vec::new();
    for moved in returns {
        match change_owner(components, moved) {
            Ok(publication) => drop(publication),
            Err((error, numbers)) => {
                failed(&error, "locks do not go back to where they came from");
                let mut state = components.state();
                left.extend(numbers.into_iter().map(|lock| (lock, state.held.remove(&lock))));
            }
        }
    }
    left
}

/// Unlocks, and closes the last descriptors; returns the failures. Call it on a worker thread.
pub(in crate::service) fn unlock_all(
    journal: &Journal,
    owner: OwnerId,
    locks: Vec<(u64, Option<Arc<LockHandle>>)>,
) -> Vec<lock::Error> {
    let mut failures = Vec::new();
    for (number, held) in locks {
        let Some(held) = held else { continue };
        failures.extend(Unlock(Arc::clone(&held)).perform());
        failpoint("release-unlocked");
        if journal.discard_lock(owner, number, &held) {
            journal.compact_later();
        }
        failpoint("release-unparked");
    }
    failures
}

fn failed(error: &Error, what: &'static str) {
    tracing::error!(%error, "{what}");
}
