//! The journal records each step of a command, so that a restart after a crash can complete the
//! command or roll it back.
//!
//! A grant: its start is written, the lock is acquired, its descriptor is stashed, the lock is
//! written as held; only then is any caller notified. A release: its start is written, the lock
//! file is removed, the lock is unlocked, its descriptor is removed from the stash, its record is
//! removed. A restart rolls back grants that no caller was notified of, and completes releases.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::failpoint::failpoint;
use crate::keep::stash::Discarded;
use crate::keep::{
    EntryStage, KeyPart, OfferRecord, RecordId, SharedFd, Stash, StashKey, StateEntry, StateFile,
};
use crate::life::Connection;
use crate::lock::acquire::handle::LockHandle;
use crate::lock::model::owner::AnchorId;
use crate::lock::ofd::description::Keeper;
use crate::lock::request::Work;
use crate::lock::{Lock, Mode, Owner, OwnerId};
use crate::service::core::error::Error;
use crate::service::io::executor::Executor;
use crate::service::persist::anchor_handle::AnchorHandle;
use crate::service::persist::entries::{
    lock_entry, lockspace_entry, offer_entry, owner_entry, stash_keys,
};

/// The delay of the compaction of the stash.
const COMPACTION_DELAY: Duration = Duration::from_millis(200);

/// The state file and the stash.
#[derive(Debug)]
pub(in crate::service) struct Journal {
    pub(in crate::service) state: StateFile,
    pub(in crate::service) stash: Arc<Stash>,
    /// Notified when the stash needs to be compacted.
    needs_compaction: Notify,
}

/// A stashed descriptor that is not open.
pub(in crate::service) struct StashedDescriptor {
    stash: Arc<Stash>,
    key: StashKey,
}

impl StashedDescriptor {
    pub(in crate::service) fn new(stash: &Arc<Stash>, key: StashKey) -> Arc<Self> {
        Arc::new(Self { stash: Arc::clone(stash), key })
    }
}

impl Keeper for StashedDescriptor {
    fn fetch(&self) -> io::Result<OwnedFd> {
        self.stash.fetch(self.key).map_err(io::Error::other)
    }
}

/// The numbers of the records of an owner.
#[derive(Debug, Clone)]
pub(in crate::service) struct OwnerRecords {
    pub(in crate::service) owner: OwnerId,
    /// The number of its own record; anchors, owners and offers are numbered together.
    pub(in crate::service) record: AnchorId,
    pub(in crate::service) anchors: Vec<AnchorId>,
    /// The locks that it does not hold but that have records: suspended locks, and locks that are
    /// reserved for it.
    pub(in crate::service) unheld_locks: Vec<u64>,
    /// Its offer.
    pub(in crate::service) offer: Option<AnchorId>,
}

impl Journal {
    pub(in crate::service) fn new(state: StateFile, stash: Arc<Stash>) -> Self {
        Self { state, stash, needs_compaction: Notify::new() }
    }

    /// Compacts the stash soon: stashed copies of released descriptors keep file systems from being
    /// unmounted.
    pub(in crate::service) fn compact_later(&self) {
        self.needs_compaction.notify_one();
    }

    /// Compacts the stash on request, for as long as the service runs.
    pub(in crate::service) async fn compact_on_request(self: Arc<Self>, executor: Arc<Executor>) {
        loop {
            self.needs_compaction.notified().await;
            // The delay lets one compaction serve several releases.
            tokio::time::sleep(COMPACTION_DELAY).await;
            let compact = Compact(Arc::clone(&self));
            if let Err(error) = executor.run(compact).await.and_then(|compacted| compacted) {
                tracing::error!(%error, "cannot close stored copies of released descriptors");
            }
        }
    }

    /// Writes that an owner is being opened, with its anchors, and stashes the anchors.
    pub(in crate::service) fn open(
        &self,
        records: &OwnerRecords,
        owner: &Owner,
        anchors: &[(AnchorId, AnchorHandle)],
    ) -> Result<(), Error> {
        let mut entries = vec![owner_entry(records.record, owner, EntryStage::Granting)];
        for (number, handle) in anchors {
            entries.push(handle.entry(owner.id, *number)?);
        }
        self.state.append(&entries)?;
        failpoint("open-noted");
        self.stash_anchors(owner.id, anchors)?;
        failpoint("open-parked");
        Ok(())
    }

    /// Writes and stashes another anchor of an owner.
    pub(in crate::service) fn bind(
        &self,
        owner: OwnerId,
        number: AnchorId,
        handle: &AnchorHandle,
    ) -> Result<(), Error> {
        self.stash_anchors(owner, &[(number, handle.clone())])?;
        failpoint("bind-parked");
        self.state.append(&[handle.entry(owner, number)?])?;
        failpoint("bind-noted");
        Ok(())
    }

    fn stash_anchors(
        &self,
        owner: OwnerId,
        anchors: &[(AnchorId, AnchorHandle)],
    ) -> Result<(), Error> {
        let key = |number| StashKey { owner, part: KeyPart::Anchor(number) };
        let all = anchors.iter().map(|(number, handle)| (key(*number), handle.descriptor()));
        Ok(self.stash.put(&all.collect::<Vec<_>>())?)
    }

    /// Writes that locks are being granted.
    pub(in crate::service) fn begin(&self, locks: &[Lock]) -> Result<(), Error> {
        if locks.is_empty() {
            return Ok(());
        }
        let entries: Vec<_> =
            locks.iter().map(|lock| lock_entry(lock, EntryStage::Granting)).collect();
        self.state.append(&entries)?;
        failpoint("grant-noted");
        Ok(())
    }

    /// Stashes acquired locks. A descriptor on a remote file system is closed afterwards.
    pub(in crate::service) fn stash_locks(
        &self,
        owner: OwnerId,
        locks: &[u64],
        held: &[Arc<LockHandle>],
    ) -> Result<(), Error> {
        let mut near = Vec::with_capacity(locks.len());
        let each = locks.iter().zip(held);
        for (key, description) in each.flat_map(|(lock, held)| stash_keys(owner, *lock, held)) {
            let file = description.file()?;
            match description.remote_device()? {
                None => near.push((key, file as SharedFd)),
                Some(device) => {
                    self.stash.put_stash_only(device, key, file)?;
                    description.put_away(StashedDescriptor::new(&self.stash, key));
                }
            }
        }
        if !near.is_empty() {
            self.stash.put(&near)?;
        }
        if !locks.is_empty() {
            failpoint("grant-parked");
        }
        Ok(())
    }

    /// Closes the stashed descriptors of a lock. Returns `true` if some of them are closed only by
    /// a later cleanup of the stash.
    pub(in crate::service) fn discard_lock(
        &self,
        owner: OwnerId,
        lock: u64,
        held: &LockHandle,
    ) -> bool {
        let keys: Vec<StashKey> = stash_keys(owner, lock, held).map(|(key, _)| key).collect();
        let Discarded { needs_compaction, errors } = self.stash.discard(&keys);
        for error in errors {
            tracing::error!(%error, "cannot close stored copies of released descriptors");
        }
        needs_compaction
    }

    /// Writes locks, and the owner that was opened with them, as held.
    pub(in crate::service) fn commit(
        &self,
        opened: Option<&OwnerRecords>,
        locks: &[u64],
    ) -> Result<(), Error> {
        self.mark_locks(locks, EntryStage::Held)?;
        failpoint("grant-held");
        if let Some(records) = opened {
            self.state.set_stage([RecordId::Owner(records.record)], EntryStage::Held)?;
            failpoint("open-held");
        }
        Ok(())
    }

    pub(in crate::service) fn mark_locks(
        &self,
        locks: &[u64],
        stage: EntryStage,
    ) -> Result<(), Error> {
        Ok(self.state.set_stage(locks.iter().map(|lock| RecordId::Lock(*lock)), stage)?)
    }

    /// Writes that an owner and all its locks are about to end.
    pub(in crate::service) fn end(&self, records: &OwnerRecords) -> Result<(), Error> {
        Ok(self.state.set_stage([RecordId::Owner(records.record)], EntryStage::Releasing)?)
    }

    /// Stashes an owner's connection; it is permanent after [`Self::commit_connection`].
    pub(in crate::service) fn begin_connection(
        &self,
        owner: OwnerId,
        number: AnchorId,
        connection: &Arc<Connection>,
    ) -> Result<(), Error> {
        let handle = AnchorHandle::Connection(Arc::clone(connection));
        let entry = handle.entry(owner, number)?;
        self.state.append(&[StateEntry { stage: EntryStage::Granting, ..entry }])?;
        failpoint("restrict-noted");
        self.stash_anchors(owner, &[(number, handle)])?;
        failpoint("restrict-parked");
        Ok(())
    }

    /// Writes that the peer of a connection does not wait for a reply.
    pub(in crate::service) fn commit_connection(&self, number: AnchorId) -> Result<(), Error> {
        Ok(self.state.set_stage([RecordId::Anchor(number)], EntryStage::Held)?)
    }

    /// Writes a lockspace.
    pub(in crate::service) fn put_lockspace(&self, number: u32, path: &Path) -> Result<(), Error> {
        Ok(self.state.append(&[lockspace_entry(number, path)])?)
    }

    /// Removes the record of a lockspace.
    pub(in crate::service) fn forget_lockspace(&self, number: u32) -> Result<(), Error> {
        Ok(self.state.set_stage([RecordId::Lockspace(number)], EntryStage::Removed)?)
    }

    /// Writes the new owners of transferred locks, all of them atomically.
    pub(in crate::service) fn put_moved(&self, entries: &[StateEntry]) -> Result<(), Error> {
        Ok(self.state.append(entries)?)
    }

    /// Writes an offer.
    pub(in crate::service) fn put_offer(&self, offer: OfferRecord) -> Result<(), Error> {
        Ok(self.state.append(&[offer_entry(offer)])?)
    }

    /// Removes the record of an offer.
    pub(in crate::service) fn forget_offer(&self, record: AnchorId) -> Result<(), Error> {
        Ok(self.state.set_stage([RecordId::Offer(record)], EntryStage::Removed)?)
    }

    /// Removes the records of an owner. Returns `true` if the stash needs a cleanup.
    pub(in crate::service) fn forget(&self, records: &OwnerRecords) -> Result<bool, Error> {
        let dead = self.discard_anchors(records.owner, &records.anchors);
        let anchors = records.anchors.iter().map(|number| RecordId::Anchor(*number));
        let unheld_locks = records.unheld_locks.iter().map(|number| RecordId::Lock(*number));
        let offer = records.offer.map(RecordId::Offer);
        // The owner last: the records of anchors without their owner would be invalid.
        let all = anchors.chain(unheld_locks).chain(offer).chain([RecordId::Owner(records.record)]);
        self.state.set_stage(all, EntryStage::Removed)?;
        Ok(dead)
    }

    /// Removes the record of an anchor.
    pub(in crate::service) fn forget_anchor(
        &self,
        owner: OwnerId,
        number: AnchorId,
    ) -> Result<bool, Error> {
        let dead = self.discard_anchors(owner, &[number]);
        self.state.set_stage([RecordId::Anchor(number)], EntryStage::Removed)?;
        Ok(dead)
    }

    fn discard_anchors(&self, owner: OwnerId, anchors: &[AnchorId]) -> bool {
        let key = |number: &AnchorId| StashKey { owner, part: KeyPart::Anchor(*number) };
        self.stash.discard(&anchors.iter().map(key).collect::<Vec<_>>()).needs_compaction
    }

    /// Writes the mode of a lock.
    pub(in crate::service) fn set_mode(&self, lock: u64, mode: Mode) -> Result<(), Error> {
        Ok(self.state.set_mode(RecordId::Lock(lock), mode)?)
    }
}

/// Compacts the stash.
struct Compact(Arc<Journal>);

impl Work for Compact {
    type Answer = Result<(), Error>;

    fn perform(self) -> Self::Answer {
        Ok(self.0.stash.compact()?)
    }
}
