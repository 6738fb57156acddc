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

use crate::failpoint::failpoint;
use crate::keep::stash::Discarded;
use crate::keep::{
    AnchorIdentity, AnchorRecord, EntryStage, KeyPart, LockRecord, LockspaceRecord, OfferRecord,
    OwnerRecord, Record, RecordId, SharedFd, Stash, StashKey, StateEntry, StateFile,
};
use crate::life::{Connection, Lifeline, Process};
use crate::lock::acquire::handle::LockHandle;
use crate::lock::model::owner::AnchorId;
use crate::lock::ofd::description::{Description, Keeper};
use crate::lock::{Anchor, Lock, Mode, Owner, OwnerId};
use crate::service::Error;

/// The state file and the stash.
#[derive(Debug)]
pub(in crate::service) struct Keep {
    pub(in crate::service) state: StateFile,
    pub(in crate::service) stash: Arc<Stash>,
}

/// A stashed descriptor that is not open.
pub(in crate::service) struct Away {
    stash: Arc<Stash>,
    key: StashKey,
}

impl Away {
    pub(in crate::service) fn new(stash: &Arc<Stash>, key: StashKey) -> Arc<Self> {
        Arc::new(Self { stash: Arc::clone(stash), key })
    }
}

impl Keeper for Away {
    fn fetch(&self) -> io::Result<OwnedFd> {
        self.stash.fetch(self.key).map_err(io::Error::other)
    }
}

/// The names of the records of an owner.
#[derive(Debug, Clone)]
pub(in crate::service) struct Names {
    pub(in crate::service) owner: OwnerId,
    pub(in crate::service) record: AnchorId,
    pub(in crate::service) anchors: Vec<AnchorId>,
    /// The locks that it does not hold but that have records: suspended locks, and locks that are
    /// reserved for it.
    pub(in crate::service) noted: Vec<u64>,
    /// Its offer.
    pub(in crate::service) offer: Option<AnchorId>,
}

/// An anchor with its descriptor.
#[derive(Debug, Clone)]
pub(in crate::service) enum Anchored {
    Lifeline(Arc<Lifeline>),
    Process(Arc<Process>),
    Connection(Arc<Connection>),
}

impl Anchored {
    pub(in crate::service) fn anchor(&self) -> Anchor {
        match self {
            Self::Lifeline(_) => Anchor::Lifeline,
            Self::Process(process) => Anchor::Process { pid: process.pid() },
            Self::Connection(_) => Anchor::Connection,
        }
    }

    pub(in crate::service) fn parked(&self) -> SharedFd {
        match self {
            Self::Lifeline(lifeline) => Arc::clone(lifeline) as SharedFd,
            Self::Process(process) => Arc::clone(process) as SharedFd,
            Self::Connection(connection) => Arc::clone(connection) as SharedFd,
        }
    }

    /// Returns the data by which the anchor is found again if its descriptor is lost.
    fn anchor_identity(&self) -> Result<AnchorIdentity, Error> {
        Ok(match self {
            Self::Lifeline(lifeline) => AnchorIdentity { inode: lifeline.inode()?, start: 0 },
            Self::Process(process) => {
                let key = process.key()?;
                AnchorIdentity { inode: key.inode, start: key.start }
            }
            // The peer of a socket cannot be found without the descriptor.
            Self::Connection(_) => AnchorIdentity::default(),
        })
    }

    pub(in crate::service) fn line(
        &self,
        owner: OwnerId,
        number: AnchorId,
    ) -> Result<StateEntry, Error> {
        let permitted = matches!(self, Self::Process(process) if process.is_permitted());
        let record = AnchorRecord::new(owner, number, self.anchor(), self.anchor_identity()?);
        Ok(anchor_line(record.permitted(permitted)))
    }
}

pub(in crate::service) fn anchor_line(record: AnchorRecord) -> StateEntry {
    StateEntry { stage: EntryStage::Held, mode: None, record: Record::Anchor(record) }
}

pub(in crate::service) fn owner_line(
    number: AnchorId,
    owner: &Owner,
    stage: EntryStage,
) -> StateEntry {
    let manual = owner.anchors.values().any(|anchor| *anchor == Anchor::Manual);
    let record = Record::Owner(OwnerRecord::new(number, owner, manual));
    StateEntry { stage, mode: None, record }
}

pub(in crate::service) fn lockspace_line(number: u32, path: &Path) -> StateEntry {
    let record = Record::Lockspace(LockspaceRecord::new(number, path));
    StateEntry { stage: EntryStage::Held, mode: None, record }
}

pub(in crate::service) fn offer_line(record: OfferRecord) -> StateEntry {
    StateEntry { stage: EntryStage::Held, mode: None, record: Record::Offer(record) }
}

pub(in crate::service) fn lock_line(lock: &Lock, stage: EntryStage) -> StateEntry {
    let record = Record::Lock(Box::new(LockRecord::from(lock)));
    StateEntry { stage, mode: Some(lock.want.mode), record }
}

/// Returns the descriptions of a lock, with the keys under which they are stashed.
pub(in crate::service) fn keyed(
    owner: OwnerId,
    lock: u64,
    held: &LockHandle,
) -> impl Iterator<Item = (StashKey, &Description)> {
    let (owner, lock) = held.kept_as(owner, lock);
    held.descriptions().zip(0..).map(move |(description, byte)| {
        (StashKey { owner, part: KeyPart::Byte(lock, byte) }, description)
    })
}

impl Keep {
    /// Writes that an owner is being opened, with its anchors, and stashes the anchors.
    pub(in crate::service) fn open(
        &self,
        names: &Names,
        owner: &Owner,
        anchors: &[(AnchorId, Anchored)],
    ) -> Result<(), Error> {
        let mut lines = vec![owner_line(names.record, owner, EntryStage::Granting)];
        for (number, anchored) in anchors {
            lines.push(anchored.line(owner.id, *number)?);
        }
        self.state.append(&lines)?;
        failpoint("open-noted");
        self.park_anchors(owner.id, anchors)?;
        failpoint("open-parked");
        Ok(())
    }

    /// Writes and stashes another anchor of an owner.
    pub(in crate::service) fn bind(
        &self,
        owner: OwnerId,
        number: AnchorId,
        anchored: &Anchored,
    ) -> Result<(), Error> {
        self.park_anchors(owner, &[(number, anchored.clone())])?;
        failpoint("bind-parked");
        self.state.append(&[anchored.line(owner, number)?])?;
        failpoint("bind-noted");
        Ok(())
    }

    fn park_anchors(&self, owner: OwnerId, anchors: &[(AnchorId, Anchored)]) -> Result<(), Error> {
        let key = |number| StashKey { owner, part: KeyPart::Anchor(number) };
        let all = anchors.iter().map(|(number, anchored)| (key(*number), anchored.parked()));
        Ok(self.stash.put(&all.collect::<Vec<_>>())?)
    }

    /// Writes that locks are being granted.
    pub(in crate::service) fn begin(&self, locks: &[Lock]) -> Result<(), Error> {
        if locks.is_empty() {
            return Ok(());
        }
        let lines: Vec<_> =
            locks.iter().map(|lock| lock_line(lock, EntryStage::Granting)).collect();
        self.state.append(&lines)?;
        failpoint("grant-noted");
        Ok(())
    }

    /// Stashes acquired locks. A descriptor on a remote file system is closed afterwards.
    pub(in crate::service) fn park(
        &self,
        owner: OwnerId,
        locks: &[u64],
        held: &[Arc<LockHandle>],
    ) -> Result<(), Error> {
        let mut near = Vec::with_capacity(locks.len());
        let each = locks.iter().zip(held);
        for (key, description) in each.flat_map(|(lock, held)| keyed(owner, *lock, held)) {
            let file = description.file()?;
            match description.remote_device()? {
                None => near.push((key, file as SharedFd)),
                Some(device) => {
                    self.stash.put_stash_only(device, key, file)?;
                    description.put_away(Away::new(&self.stash, key));
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
    pub(in crate::service) fn unpark(&self, owner: OwnerId, lock: u64, held: &LockHandle) -> bool {
        let keys: Vec<StashKey> = keyed(owner, lock, held).map(|(key, _)| key).collect();
        let Discarded { needs_compaction, errors } = self.stash.discard(&keys);
        for error in errors {
            tracing::error!(%error, "cannot close stored copies of released descriptors");
        }
        needs_compaction
    }

    /// Writes locks, and the owner that was opened with them, as held.
    pub(in crate::service) fn commit(
        &self,
        opened: Option<&Names>,
        locks: &[u64],
    ) -> Result<(), Error> {
        self.mark_locks(locks, EntryStage::Held)?;
        failpoint("grant-held");
        if let Some(names) = opened {
            self.state.set_stage([RecordId::Owner(names.record)], EntryStage::Held)?;
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
    pub(in crate::service) fn end(&self, names: &Names) -> Result<(), Error> {
        Ok(self.state.set_stage([RecordId::Owner(names.record)], EntryStage::Releasing)?)
    }

    /// Stashes an owner's connection; it is permanent after [`Self::commit_connection`].
    pub(in crate::service) fn begin_connection(
        &self,
        owner: OwnerId,
        number: AnchorId,
        connection: &Arc<Connection>,
    ) -> Result<(), Error> {
        let anchored = Anchored::Connection(Arc::clone(connection));
        let line = anchored.line(owner, number)?;
        self.state.append(&[StateEntry { stage: EntryStage::Granting, ..line }])?;
        failpoint("restrict-noted");
        self.park_anchors(owner, &[(number, anchored)])?;
        failpoint("restrict-parked");
        Ok(())
    }

    /// Writes that the peer of a connection does not wait for a reply.
    pub(in crate::service) fn commit_connection(&self, number: AnchorId) -> Result<(), Error> {
        Ok(self.state.set_stage([RecordId::Anchor(number)], EntryStage::Held)?)
    }

    /// Writes a lockspace.
    pub(in crate::service) fn put_lockspace(&self, number: u32, path: &Path) -> Result<(), Error> {
        Ok(self.state.append(&[lockspace_line(number, path)])?)
    }

    /// Removes the record of a lockspace.
    pub(in crate::service) fn forget_lockspace(&self, number: u32) -> Result<(), Error> {
        Ok(self.state.set_stage([RecordId::Lockspace(number)], EntryStage::Removed)?)
    }

    /// Writes the new owners of transferred locks, all of them atomically.
    pub(in crate::service) fn put_moved(&self, lines: &[StateEntry]) -> Result<(), Error> {
        Ok(self.state.append(lines)?)
    }

    /// Writes an offer.
    pub(in crate::service) fn put_offer(&self, offer: OfferRecord) -> Result<(), Error> {
        Ok(self.state.append(&[offer_line(offer)])?)
    }

    /// Removes the record of an offer.
    pub(in crate::service) fn forget_offer(&self, record: AnchorId) -> Result<(), Error> {
        Ok(self.state.set_stage([RecordId::Offer(record)], EntryStage::Removed)?)
    }

    /// Removes the records of an owner. Returns `true` if the stash needs a cleanup.
    pub(in crate::service) fn forget(&self, names: &Names) -> Result<bool, Error> {
        let dead = self.unpark_anchors(names.owner, &names.anchors);
        let anchors = names.anchors.iter().map(|number| RecordId::Anchor(*number));
        let noted = names.noted.iter().map(|number| RecordId::Lock(*number));
        let offer = names.offer.map(RecordId::Offer);
        // The owner last: the records of anchors without their owner would be invalid.
        let all = anchors.chain(noted).chain(offer).chain([RecordId::Owner(names.record)]);
        self.state.set_stage(all, EntryStage::Removed)?;
        Ok(dead)
    }

    /// Removes the record of an anchor.
    pub(in crate::service) fn forget_anchor(
        &self,
        owner: OwnerId,
        number: AnchorId,
    ) -> Result<bool, Error> {
        let dead = self.unpark_anchors(owner, &[number]);
        self.state.set_stage([RecordId::Anchor(number)], EntryStage::Removed)?;
        Ok(dead)
    }

    fn unpark_anchors(&self, owner: OwnerId, anchors: &[AnchorId]) -> bool {
        let key = |number: &AnchorId| StashKey { owner, part: KeyPart::Anchor(*number) };
        self.stash.discard(&anchors.iter().map(key).collect::<Vec<_>>()).needs_compaction
    }

    /// Writes the mode of a lock.
    pub(in crate::service) fn set_mode(&self, lock: u64, mode: Mode) -> Result<(), Error> {
        Ok(self.state.set_mode(RecordId::Lock(lock), mode)?)
    }
}
