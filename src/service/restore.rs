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

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

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

/// A service that has come back and does not serve yet.
#[derive(Debug)]
pub struct Restored {
    service: Service,
    /// Owners that were ending, or ended meanwhile.
    endings: Vec<Ending>,
    /// Locks of living owners that were being given up, or nobody was told of.
    releases: Vec<(OwnerId, u64, Option<Arc<Held>>)>,
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
    let mut contents = state::read(directory)?;
    let (parking, found) = Parking::read(inherited, Store::of_parent())?;
    let parked = !found.is_empty();
    if contents.outlived && !parked {
        contents = state::Contents::default();
    }
    // No descriptor outlives a boot: records of another one can't be those of what is parked.
    let damaged = contents.damaged > 0 || (parked && (contents.missing || contents.outlived));
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
    // What was given after the last number that can be read must not be given again.
    let mut counted = contents.counted;
    for key in fds.keys() {
        counted.count_parked(key.part);
    }
    let mut finding = Finding::new(settings, fds, damaged);
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
    let mut released = Vec::new();
    for (id, number) in releases {
        // With its owner, perhaps.
        if state.table.begin_release(number).is_ok() {
            released.push((id, number, state.held.remove(&number)));
        }
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
            service.give_up_soon(story);
        }
        for (id, number, held) in releases {
            let locks = vec![(number, held)];
            service.give_up_soon(Story::of_locks(&service, id, locks, Reason::Released));
        }
        service.spawn(Discard { strays, twice });
        service.clean_soon();
        service.verify_all();
    }
}

impl Service {
    fn give_up_soon(&self, story: Story) {
        let service = self.clone();
        tokio::spawn(async move {
            match service.give_up(story).await {
                Ok(told) => told.wait().await,
                Err(error) => tracing::error!(%error, "giving up what was left over failed"),
            }
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
