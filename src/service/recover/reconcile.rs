//! Reconciles the records of the state file with the stashed descriptors: enters the result in the
//! table, and lists the locks to be released.
//!
//! A damaged record is no evidence that its lock has ended; so the lock is kept.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

mod anchors;
mod lost;
mod recovered;
mod remembered;
mod suspects;

use crate::inspector::Inspector;
use crate::keep::{
    AnchorRecord, Contents, EntryStage, KeyPart, LockRecord, LockspaceRecord, OfferRecord,
    OwnerRecord, Record, SharedFd, Stash, StashKey, StateEntry, Suspect,
};
use crate::lock::acquire::handle::LockHandle;
use crate::lock::acquire::reacquire::Directories;
use crate::lock::holder_record::record::HolderRecord;
use crate::lock::lockspace::LockspaceKind;
use crate::lock::lockspace::directory::Directory;
use crate::lock::model::lock::{Proof, Stage};
use crate::lock::model::owner::{AnchorId, Offer};
use crate::lock::ofd::description::Description;
use crate::lock::{Anchor, Front, Lock, Mode, Owner, OwnerId, Reason};
use crate::service::core::error::Error;
use crate::service::core::settings::Settings;
use crate::service::holder::records::of_owner;
use crate::service::persist::anchor_handle::AnchorHandle;
use crate::service::persist::entries::{
    anchor_entry, lockspace_entry, offer_entry, owner_entry, stash_keys,
};
use crate::service::persist::journal::StashedDescriptor;
use crate::service::report::event_log::Vm;
use crate::service::state::State;
use crate::service::verify::renewal::report_conflicts;
use remembered::{RecordMeaning, TransferredLocks};

/// The state file and the stash while they are reconciled into the table.
pub(in crate::service) struct Reconciliation {
    pub(in crate::service) state: State,
    damaged: bool,
    pub(in crate::service) fds: HashMap<StashKey, OwnedFd>,
    /// The stashed descriptors that are not open.
    pub(in crate::service) stash_only: HashSet<StashKey>,
    stash: Arc<Stash>,
    inspector: Inspector,
    /// The locks that have descriptors.
    bytes: HashSet<u64>,
    directories: Directories,
    pub(in crate::service) entries: Vec<StateEntry>,
    pub(in crate::service) needed: Vec<(StashKey, SharedFd)>,
    /// The stashed descriptors to keep that are not open.
    pub(in crate::service) needed_stash_only: Vec<StashKey>,
    pub(in crate::service) handle: Vec<(OwnerId, AnchorId, AnchorHandle)>,
    pub(in crate::service) endings: Vec<OwnerId>,
    /// The locks to release; the reason shows whether the owner is suspended and remembers the
    /// lock.
    pub(in crate::service) releases: Vec<(OwnerId, u64, Reason)>,
    /// The offers of owners that have not expired.
    pub(in crate::service) offers: Vec<(OwnerId, Offer)>,
    /// The targets of damaged records, each with the number of the lock that was entered for it, if
    /// any.
    pub(in crate::service) suspects: Vec<(Suspect, Option<u64>)>,
}

impl Reconciliation {
    pub(in crate::service) fn new(
        settings: Settings,
        fds: HashMap<StashKey, OwnedFd>,
        stash_only: HashSet<StashKey>,
        stash: &Arc<Stash>,
        inspector: &Inspector,
        damaged: bool,
    ) -> Self {
        let bytes = fds.keys().chain(&stash_only).filter_map(|key| match key.part {
            KeyPart::Byte(number, _) => Some(number),
            KeyPart::Anchor(_) => None,
        });
        Self {
            state: State::new(settings),
            damaged,
            bytes: bytes.collect(),
            fds,
            stash_only,
            stash: Arc::clone(stash),
            inspector: inspector.clone(),
            needed_stash_only: Vec::new(),
            directories: Directories::default(),
            entries: Vec::new(),
            needed: Vec::new(),
            handle: Vec::new(),
            endings: Vec::new(),
            releases: Vec::new(),
            offers: Vec::new(),
            suspects: Vec::new(),
        }
    }

    /// Reconciles everything into the table. Accesses no disk.
    pub(in crate::service) fn enter_all(&mut self, contents: Contents) -> Result<(), Error> {
        let (mut owners, mut anchors, mut locks) = (Vec::new(), BTreeMap::new(), Vec::new());
        let mut reserved = Vec::new();
        for StateEntry { stage, mode, record } in contents.entries {
            match (record, mode) {
                (Record::Owner(owner), _) => owners.push((owner, stage)),
                // The peer of this connection waits for a reply that it will not get.
                (Record::Anchor(anchor), _)
                    if anchor.anchor() == Some(Anchor::Connection) && stage != EntryStage::Held => {
                }
                (Record::Anchor(anchor), _) => {
                    if let Some(owner) = anchor.owner() {
                        anchors.entry(owner).or_insert_with(Vec::new).push(anchor);
                    }
                }
                (Record::Lock(lock), Some(mode)) if stage == EntryStage::Reserved => {
                    reserved.push((*lock, mode));
                }
                (Record::Lock(lock), Some(mode)) => locks.push((*lock, mode, stage)),
                (Record::Lockspace(lockspace), _) => self.enter_lockspace(lockspace),
                (Record::Offer(offer), _) => self.offers.extend(offer.offer()),
                // No line has this form.
                (Record::Lock(_), None) | (Record::HighestNumbers(_), _) => {}
            }
        }
        // An owner may have been opened again for the same VM while the record of the old one was
        // being removed. The old one held no lock any more.
        owners.sort_by_key(|(record, _)| record.number());
        let newest: HashMap<OwnerId, AnchorId> = owners
            .iter()
            .filter_map(|(record, _)| Some((record.owner()?.id, record.number())))
            .collect();
        owners.retain(|(record, _)| {
            let id = record.owner().map(|owner| owner.id);
            id.is_some_and(|id| newest.get(&id) == Some(&record.number()))
        });
        let mut pipes = self.missing_lifelines(&anchors)?;
        // If nothing was stashed either, there is no trace of an anchor whose record is damaged.
        let doubtful = self.damaged && self.fds.is_empty() && self.stash_only.is_empty();
        for (record, stage) in owners {
            let Some(mut owner) = record.owner() else { continue };
            let mut of_owner = anchors.remove(&owner.id).unwrap_or_default();
            of_owner.retain(|anchor| anchor.number() > record.number());
            let alive = stage == EntryStage::Held;
            if record.is_manual() || doubtful {
                owner.anchors.insert(self.state.next_anchor(), Anchor::Manual);
            }
            let known = of_owner.len();
            let mut handle = self.attach(&of_owner, &mut pipes)?;
            handle.extend(self.attach_unrecorded(owner.id, record.number()));
            if alive && self.damaged && known == 0 && handle.is_empty() {
                owner.anchors.insert(self.state.next_anchor(), Anchor::Manual);
            }
            self.enter_owner(&record, owner, alive, handle, &of_owner)?;
        }
        // Locks with descriptors first: if records contradict each other, these are right.
        locks.sort_by_key(|(lock, ..)| !self.bytes.contains(&lock.number()));
        let moved =
            TransferredLocks::of(&locks, |id| self.damaged || self.state.table.owner(id).is_some());
        let mut given_up = Vec::new();
        for (record, mode, stage) in locks {
            match moved.classify(&record, stage) {
                RecordMeaning::Lock => self.enter_lock(record, mode, stage)?,
                RecordMeaning::Retained => self.enter_lock(record, mode, EntryStage::Held)?,
                RecordMeaning::Remembered => {
                    self.enter_remembered(record.clone(), mode);
                    given_up.push((record, mode));
                }
                RecordMeaning::Nothing => {}
            }
        }
        for (record, mode) in given_up {
            self.enter_half_given_up(record, mode);
        }
        for (record, mode) in reserved {
            self.enter_reserved(record, mode);
        }
        self.enter_unproven(contents.unproven, &moved);
        self.finish_suspensions();
        moved.relate(&mut self.state.table);
        self.finish_offers();
        if self.damaged {
            self.recover()?;
            self.enter_suspects(contents.suspects)?;
        }
        Ok(())
    }

    fn enter_owner(
        &mut self,
        record: &OwnerRecord,
        mut owner: Owner,
        alive: bool,
        handle: Vec<(AnchorId, AnchorHandle)>,
        records: &[AnchorRecord],
    ) -> Result<(), Error> {
        let id = owner.id;
        owner.anchors.extend(handle.iter().map(|(number, found)| (*number, found.anchor())));
        let offer = self.offer_of(id, record.number());
        let ends = !alive || (owner.anchors.is_empty() && offer.is_none());
        if let Some(offer) = offer.filter(|_| !ends) {
            self.entries.push(offer_entry(OfferRecord::new(id, offer)));
            owner.offer = Some(offer);
        }
        let stage = if ends { EntryStage::Releasing } else { EntryStage::Held };
        self.entries.push(owner_entry(record.number(), &owner, stage));
        for (number, found) in handle {
            // From its record: a process that has just ended cannot be examined any more.
            let known = records.iter().find(|record| record.number() == number);
            let entry = match known {
                Some(record) => Ok(anchor_entry(record.clone())),
                None => found.entry(id, number),
            };
            match entry {
                Ok(entry) => self.entries.push(entry),
                // Its end will be reported as usual.
                Err(error) => {
                    let vm = Vm(id, &owner.name);
                    tracing::info!(%error, owner.uuid = %id.uuid, owner.uid = id.uid, "cannot record an anchor of {vm}");
                }
            }
            self.needed
                .push((StashKey { owner: id, part: KeyPart::Anchor(number) }, found.descriptor()));
            self.handle.push((id, number, found));
        }
        self.state.table.open_owner(owner)?;
        self.state.owners.entry(id).or_default().record = record.number();
        if ends {
            self.endings.push(id);
        }
        Ok(())
    }

    fn enter_lock(
        &mut self,
        record: LockRecord,
        mode: Mode,
        stage: EntryStage,
    ) -> Result<(), Error> {
        let record_of_lock = Record::Lock(Box::new(record.clone()));
        let mut entry = StateEntry { stage, mode: Some(mode), record: record_of_lock };
        let stage = if stage == EntryStage::Reacquired { EntryStage::Held } else { stage };
        let stashed_as = record.stashed_as();
        let Some(lock) = record.lock(mode, Stage::Held) else { return Ok(()) };
        let (id, number) = (lock.owner, lock.id);
        if self.state.table.owner(id).is_none() {
            // The record of its owner is damaged; otherwise the lock would not be recorded.
            self.enter_manual(id)?;
        }
        if let (LockspaceKind::Lease(_), [file, ..]) =
            (lock.want.lockspace, &lock.want.lock_files[..])
        {
            self.enter_lockspace_of(file, Some(lock.want.lockspace));
        }
        // A lock that was acquired again after its transfer is stashed under its own name.
        let names = [stashed_as.unwrap_or((id, number)), (id, number)];
        let signature = HolderRecord { lock: number, ..of_owner(&self.state, id, lock.since) };
        let mut held = None;
        for (owner, kept) in names {
            let found = self.descriptions(owner, kept);
            let found = LockHandle::restored(found, &lock.want, &signature, &mut self.directories);
            if let Some(found) = found {
                found.kept_as(owner, kept);
                held = Some(Arc::new(found));
                break;
            }
        }
        let proof = Proof::Unverified;
        let lock = Lock { proof, ..lock };
        if held.is_none() && stage != EntryStage::Held {
            // An unfinished grant that locked nothing, or an unfinished release that unlocked
            // everything.
            return Ok(());
        }
        if let Err(error) = self.state.table.restore(lock) {
            tracing::error!(%error, lock = number, "cannot restore lock {number} from its record");
            return Ok(());
        }
        if held.is_none() && self.is_libvirts(id) {
            entry.stage = EntryStage::Reacquired;
        }
        if entry.stage == EntryStage::Reacquired {
            self.state.reacquired.insert(number);
        }
        report_conflicts(&self.state.table, number);
        self.entries.push(entry);
        if let Some(held) = held {
            self.keep_stashed(id, number, &held)?;
            self.state.held.insert(number, held);
        }
        if stage != EntryStage::Held {
            self.releases.push((id, number, Reason::Released));
        }
        Ok(())
    }

    /// Whether an owner was opened over libvirt's protocol.
    fn is_libvirts(&self, id: OwnerId) -> bool {
        self.state.table.owner(id).is_some_and(|owner| owner.front == Front::Virtlockd)
    }

    fn enter_lockspace(&mut self, record: LockspaceRecord) {
        let (number, path) = (record.number(), record.path());
        self.entries.push(lockspace_entry(number, &path));
        self.state.lockspaces.insert(number, Arc::new(Directory::unopened(&path)));
    }

    /// Returns the descriptions of a lock's bytes, in order.
    fn descriptions(&mut self, owner: OwnerId, lock: u64) -> Vec<Description> {
        let all = (0..2).map_while(|byte| {
            let key = StashKey { owner, part: KeyPart::Byte(lock, byte) };
            let here = self.fds.remove(&key).map(|fd| Description::new(File::from(fd)));
            here.or_else(|| {
                self.stash_only
                    .remove(&key)
                    .then(|| Description::away(StashedDescriptor::new(&self.stash, key)))
            })
        });
        all.collect()
    }

    /// Marks the stashed descriptors of a lock as needed.
    fn keep_stashed(&mut self, owner: OwnerId, lock: u64, held: &LockHandle) -> Result<(), Error> {
        for (key, description) in stash_keys(owner, lock, held) {
            if description.is_away() {
                self.needed_stash_only.push(key);
            } else {
                self.needed.push((key, description.file()? as SharedFd));
            }
        }
        Ok(())
    }
}
