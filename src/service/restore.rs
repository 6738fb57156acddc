//! How the service comes back: from records and descriptors to the table.
//!
//! 1. The records are read, and what is parked. Nothing is changed yet: a state that another
//!    version wrote is left to that version.
//! 2. Owners, then anchors, then locks enter the table, each with its number and its time. No disk
//!    is touched: its storage may be dead.
//! 3. What was found is written down anew; from here on another crash finds it so.
//! 4. Once the service serves ([`Restored::settle`]): what was being given up, and what nobody was
//!    told of, is given up; anchors that ended meanwhile say so by themselves; every lock is
//!    looked at.
//!
//! A lock whose machine may live is never given up. So where a record is damaged, what nothing is
//! known of stays locked, for an owner that only an administrator closes.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::finding::Finding;
use super::keeping::Keep;
use super::release::Story;
use super::state::Ending;
use super::{Error, Exempt, Service, Settings};
use crate::keep::{self, Inherited, Parking, Part, Store, state};
use crate::lock::held::Held;
use crate::lock::work::Work;
use crate::lock::{OwnerId, Reason, ofd};
use crate::step::step;

/// What an owner gives up before he is served: which locks, in whose turn.
type Release = (OwnerId, Vec<(u64, Option<Arc<Held>>)>, OwnedMutexGuard<()>);

/// A service that has come back and does not serve yet.
#[derive(Debug)]
pub struct Restored {
    service: Service,
    /// Owners that were ending, or ended meanwhile.
    endings: Vec<Ending>,
    /// Locks of living owners that were being given up, or nobody was told of. Each owner's turn
    /// is taken until they are gone: he must not be given one of them as his.
    releases: Vec<Release>,
    /// Descriptors that nobody was ever told of.
    strays: Vec<File>,
    /// Copies of others.
    twice: Vec<File>,
}

/// Brings the service back, as it was when the one before it ended. Needs an event loop.
///
/// # Errors
///
/// [`Error::Keep`]: the state is another version's, or can't be read or written. Nothing is lost
/// then: what is kept is still kept.
pub fn restore(
    settings: Settings,
    exempt: Exempt,
    directory: &Path,
    inherited: Inherited,
) -> Result<Restored, Error> {
    let contents = state::read(directory)?;
    let (parking, found) = Parking::read(inherited, Store::of_parent())?;
    let damaged = contents.damaged > 0 || (contents.missing && !found.is_empty());
    if damaged {
        let records = contents.damaged;
        tracing::error!(records, "the state is damaged; what nothing is known of stays locked");
        if !contents.missing {
            let aside = state::put_aside(directory)?;
            tracing::error!("the damaged state is kept in {}", aside.display());
        }
    }
    let (mut fds, mut twice) = (HashMap::with_capacity(found.len()), Vec::new());
    for (key, fd) in found {
        if let Some(earlier) = fds.insert(key, fd) {
            // Both are the same. Closing may hang where its file system is dead: not here.
            twice.push(File::from(earlier));
        }
    }
    let mut finding = Finding::new(settings, fds, damaged);
    let counted = contents.counted;
    finding.state.table.count_from(counted.lock);
    finding.state.count_anchors_from(counted.anchor);
    finding.enter_all(contents)?;
    step("restore-read");
    let Finding { mut state, fds, lines, wanted, anchored, endings, releases, .. } = finding;
    // What is left is nobody's: every record was readable, so nobody was ever told of it.
    let (bytes, anchors): (Vec<_>, Vec<_>) =
        fds.into_iter().partition(|(key, _)| matches!(key.part, Part::Byte(..)));
    drop(anchors);
    let strays = bytes.into_iter().map(|(_, fd)| File::from(fd)).collect();
    // Decided again, so that nobody ever sees them held; done once the service serves.
    let mut ended = Vec::new();
    for id in endings {
        ended.push(state.end(id)?);
    }
    let mut begun = BTreeMap::new();
    for (id, number) in releases {
        // With its owner, perhaps.
        if state.table.begin_release(number).is_ok() {
            let locks = begun.entry(id).or_insert_with(Vec::new);
            locks.push((number, state.held.remove(&number)));
        }
    }
    let mut released = Vec::with_capacity(begun.len());
    for (id, locks) in begun {
        let turn = Arc::clone(&state.kept.entry(id).or_default().turn);
        // Nobody is served yet, so it is free.
        released.push((id, locks, turn.try_lock_owned().map_err(|_| Error::Abandoned)?));
    }
    let state_file = keep::State::begin(directory, &lines, counted)?;
    step("restore-written");
    parking.begin(wanted)?;
    step("restore-parked");
    let service = Service::new(state, exempt, Keep { state: state_file, parking });
    for (id, number, anchored) in anchored {
        let watch = service.follow(id, number, anchored);
        if let Some(kept) = service.state().kept.get_mut(&id) {
            kept.watches.insert(number, watch);
        }
    }
    tokio::spawn(service.clone().clean());
    Ok(Restored { service, endings: ended, releases: released, strays, twice })
}

impl Restored {
    /// The service, to be served.
    #[must_use]
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Step 4. Returns at once.
    pub fn settle(self) {
        let Self { service, endings, releases, strays, twice } = self;
        for ending in endings {
            let (id, locks) = (ending.names.owner, ending.held.len());
            tracing::info!(owner = %id.uuid, uid = id.uid, locks, "owner ended while vmlockd was away");
            let (story, _) = Story::of_owner(&service, ending, Reason::OwnerGone);
            service.give_up_soon(story, None);
        }
        for (id, locks, turn) in releases {
            let story = Story::of_locks(&service, id, locks, Reason::Released);
            service.give_up_soon(story, Some(turn));
        }
        service.spawn(Discard { strays, twice });
        service.clean_soon();
        service.verify_all();
    }
}

impl Service {
    fn give_up_soon(&self, story: Story, turn: Option<OwnedMutexGuard<()>>) {
        let service = self.clone();
        tokio::spawn(async move {
            match service.give_up(story).await {
                Ok(told) => told.wait().await,
                Err(error) => tracing::error!(%error, "giving up what was left over failed"),
            }
            drop(turn);
        });
    }

    /// Has something done that nobody waits for.
    fn spawn(&self, work: impl Work<Answer = ()>) {
        let service = self.clone();
        tokio::spawn(async move {
            // What goes wrong there is logged there.
            let _ = service.storage().run(work).await;
        });
    }
}

/// Unlocks and closes what nobody was told of, and closes copies.
struct Discard {
    strays: Vec<File>,
    twice: Vec<File>,
}

impl Work for Discard {
    type Answer = ();

    fn perform(self) {
        for file in &self.strays {
            if let Err(errno) = ofd::unlock(file) {
                tracing::error!(%errno, "unlocking what nobody was told of failed");
            }
        }
        drop(self.twice);
    }
}
