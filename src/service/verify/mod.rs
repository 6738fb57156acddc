//! Verification of restored locks, and the periodic verification (audit) of locks on remote
//! storage.
//!
//! The descriptors that systemd's store returns are valid, and nearly always their locks still
//! exist. But a network file system may have lost one meanwhile, and a lock that only the state
//! file remembers has to be acquired again. Both access storage that may hang, so they happen while
//! the service already serves requests, device by device and user by user ([`order`]); hung storage
//! delays no other.
//!
//! A lock that no longer exists is *lost*: it is logged and retried at intervals, since its VM may
//! still be writing. Until then it conflicts with the locks of all other owners, as before.

pub mod name_states;
pub(super) mod renewal;
mod schedule;

mod loss_action;
mod order;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use crate::failpoint::failpoint;
use crate::lock::acquire::handle::{LockHandle, Unlock};
use crate::lock::acquire::reacquire::{Doubt, Lost, ReacquireLock, VerifyLock};
use crate::lock::model::identity::Identity;
use crate::lock::request::{Asked, Work};
use crate::lock::text::escape::shown;
use crate::lock::{self, Event, Lock, Loss, Proof, Want};
use crate::service::core::error::Error;
use crate::service::holder::records::HolderRecords;
use crate::service::io::executor::Executor;
use crate::service::persist::journal::Journal;
use crate::service::process::Inspection;
use crate::service::report::event_log;
use crate::service::report::metrics::Metrics;
use crate::service::state::SharedState;
use crate::sync;

/// Verifies locks.
#[derive(Debug)]
pub(in crate::service) struct Verifier {
    state: SharedState,
    journal: Arc<Journal>,
    executor: Arc<Executor>,
    inspection: Arc<Inspection>,
    records: Arc<HolderRecords>,
    metrics: Arc<Metrics>,
    /// Mutexes that are held during the verification of locks, by lock number.
    in_progress: Mutex<HashMap<u64, Weak<Mutex<()>>>>,
}

impl Verifier {
    pub(in crate::service) fn new(
        state: &SharedState,
        journal: &Arc<Journal>,
        executor: &Arc<Executor>,
        inspection: &Arc<Inspection>,
        records: &Arc<HolderRecords>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        Self {
            state: state.clone(),
            journal: Arc::clone(journal),
            executor: Arc::clone(executor),
            inspection: Arc::clone(inspection),
            records: Arc::clone(records),
            metrics: Arc::clone(metrics),
            in_progress: Mutex::default(),
        }
    }

    /// Verifies every lock that was restored and not verified since. Returns at once.
    pub(in crate::service) fn verify_all(self: &Arc<Self>) {
        let locks: Vec<Lock> = self.state.lock().table.locks().cloned().collect();
        self.verify_these(&locks);
    }

    /// Verifies some locks. A lock that is transferred to another owner gets a new number, under
    /// which no earlier verification finds it.
    pub(in crate::service) fn verify_these<'l>(
        self: &Arc<Self>,
        locks: impl IntoIterator<Item = &'l Lock>,
    ) {
        self.verify_in_order(locks.into_iter().filter(|lock| lock.proof != Proof::Verified));
    }

    /// Verifies one lock.
    pub(in crate::service) async fn verify(self: &Arc<Self>, number: u64) -> VerificationOutcome {
        let away = {
            let state = self.state.lock();
            let away = state.held.get(&number).is_some_and(|held| held.is_away());
            let lock = state.table.lock(number).filter(|_| away);
            lock.and_then(|lock| lock.want.lock_files.first().cloned())
        };
        // A lock whose descriptor is not open and whose lock file has no absolute path cannot be
        // looked up: it stays as it is.
        if away.is_some_and(|file| !file.is_absolute()) {
            return VerificationOutcome::Unknown;
        }
        let Some(lock) = self.state.held_lock(number) else { return VerificationOutcome::Held };
        let (uid, want) = (lock.owner.uid, lock.want);
        let verification = Verification { verifier: Arc::clone(self), number, want };
        match self.executor.run_for(uid, verification).await {
            Ok(found) => found,
            // The mount gate has logged this.
            Err(Error::UnresponsiveMount(_)) => VerificationOutcome::Unknown,
            Err(error) => {
                tracing::error!(%error, lock = number, "cannot verify lock {number}");
                VerificationOutcome::Unknown
            }
        }
    }

    /// Sets the proof of a lock to what was seen. Publishes and logs a change.
    fn set_proof(&self, number: u64, result: Result<(), Lost>) {
        let proof = if result.is_ok() { Proof::Verified } else { Proof::Lost };
        let before = {
            let mut state = self.state.lock();
            let Some(before) = state.table.lock(number).map(|lock| lock.proof) else { return };
            let Ok(lock) = state.table.set_proof(number, proof) else { return };
            let lock = Box::new(lock.clone());
            let event = match &result {
                Ok(()) => Event::LockVerified(lock),
                Err(lost) => Event::LockLost(lock, lost.loss),
            };
            if before != proof {
                drop(state.events.publish(vec![event]));
            }
            before
        };
        if before == proof {
            return;
        }
        let Some(lock) = self.state.held_lock(number) else { return };
        let name = self.state.lock().name_of(lock.owner);
        match result {
            Ok(()) if before == Proof::Lost => {
                self.metrics.regained();
                event_log::regained(&lock, &name);
            }
            Ok(()) => {}
            Err(lost) => {
                self.metrics.lost();
                event_log::lost(&lock, &name, &lost);
                self.apply_loss_action(lock.owner);
            }
        }
    }

    /// Releases the lock handle of an expired lock, which can never lock again; the retry acquires
    /// the lock through a new open file description.
    fn drop_handle(&self, lock: &Lock) {
        let Some(held) = self.state.lock().held.remove(&lock.id) else { return };
        for failure in held.abandon() {
            tracing::warn!(%failure, lock = lock.id, "cannot release the rest of lost lock {}", lock.id);
        }
        if self.journal.discard_lock(lock.owner, lock.id, &held) {
            self.journal.compact_later();
        }
    }

    /// Acquires a lock again that has no lock handle.
    fn reacquire(&self, lock: &Lock) -> Result<(), Lost> {
        let held = Arc::new({
            // Whether it is written is decided once the lock file is found.
            let record = self.records.record_maker(lock.owner)(lock, true);
            let want = lock.want.clone();
            ReacquireLock { want, record }.perform()?
        });
        let unlockable =
            |error: Error| Lost { loss: lock::Loss::Unlockable, why: error.to_string() };
        let parked = self.journal.stash_locks(lock.owner, &[lock.id], &[Arc::clone(&held)]);
        failpoint("retake-parked");
        let entered = parked.map_err(unlockable).and_then(|()| {
            let mut state = self.state.lock();
            if state.table.lock(lock.id).is_some() {
                state.held.insert(lock.id, Arc::clone(&held));
                return Ok(());
            }
            let why = "it was released in the meantime".to_owned();
            Err(Lost { loss: lock::Loss::Unlockable, why })
        });
        if entered.is_err() {
            self.roll_back(lock, &held);
        }
        entered
    }

    /// Returns the mutex that is held during the verification of this lock.
    fn gate(&self, number: u64) -> Arc<Mutex<()>> {
        let mut gates = sync::lock(&self.in_progress);
        if let Some(gate) = gates.get(&number).and_then(Weak::upgrade) {
            return gate;
        }
        gates.retain(|_, gate| gate.strong_count() > 0);
        let gate = Arc::default();
        gates.insert(number, Arc::downgrade(&gate));
        gate
    }

    fn roll_back(&self, lock: &Lock, held: &Arc<LockHandle>) {
        for failure in Unlock(Arc::clone(held)).perform() {
            tracing::error!(%failure, lock = lock.id, "cannot undo locking again lock {}", lock.id);
        }
        if self.journal.discard_lock(lock.owner, lock.id, held) {
            self.journal.compact_later();
        }
    }
}

/// The result of the verification of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::service) enum VerificationOutcome {
    /// The lock exists, or was released.
    Held,
    /// The lock is lost.
    Lost,
    /// The state is unknown: the file system does not respond.
    Unknown,
}

/// The server that a lock depends on: the device of its disk, or the directory of its lock file.
pub(super) type Server = (u64, Option<PathBuf>);

pub(super) fn server(lock: &Lock) -> Server {
    match lock.want.identity {
        Identity::Inode { dev, .. } | Identity::Block { dev, .. }
            if !lock.want.lockspace.has_files() =>
        {
            (dev, None)
        }
        _ => {
            let file = lock.want.lock_files.first();
            (0, file.and_then(|file| file.parent()).map(Path::to_owned))
        }
    }
}

/// The verification of one lock.
pub(in crate::service) struct Verification {
    verifier: Arc<Verifier>,
    number: u64,
    /// The target of the lock.
    want: Want,
}

impl Verification {
    pub(in crate::service) fn new(verifier: &Arc<Verifier>, lock: &Lock) -> Self {
        Self { verifier: Arc::clone(verifier), number: lock.id, want: lock.want.clone() }
    }

    /// Verifies the lock, after any other thread that is verifying it: two threads that acquire one
    /// lock again would each see the other as a foreign holder.
    pub(in crate::service) fn verify(self) -> VerificationOutcome {
        let gate = self.verifier.gate(self.number);
        let _verifying = sync::lock(&gate);
        self.perform_alone()
    }
}

impl Work for Verification {
    type Answer = VerificationOutcome;

    fn asks(&self) -> Vec<Asked<'_>> {
        let mut asks = self.want.asks();
        // A lock without a lock handle is also looked up by its canonical path from the state file.
        if !self.verifier.state.lock().held.contains_key(&self.number) {
            let canonical = self.want.canonical.as_deref().map(Path::new);
            asks.extend(
                canonical.filter(|_| canonical != self.want.path.as_deref()).map(Asked::path),
            );
        }
        asks
    }

    fn perform(self) -> VerificationOutcome {
        self.verify()
    }
}

impl Verification {
    fn perform_alone(self) -> VerificationOutcome {
        let Self { verifier, number, .. } = self;
        let (lock, held) = {
            let state = verifier.state.lock();
            let Some(lock) = state.table.lock(number).cloned() else {
                return VerificationOutcome::Held;
            };
            (lock, state.held.get(&number).cloned())
        };
        let result = match held {
            Some(held) => VerifyLock { held, want: lock.want.clone() }.perform(),
            None => verifier.reacquire(&lock).map_err(Doubt::Lost),
        };
        failpoint("verify-seen");
        let result = match result {
            Ok(()) => Ok(()),
            Err(Doubt::Lost(lost)) => Err(lost),
            Err(Doubt::Unknown(why)) => {
                let resource = shown(&lock.want.resource);
                tracing::warn!(lock = number, "cannot verify the lock on {resource}: {why}");
                return VerificationOutcome::Unknown;
            }
        };
        let loss = result.as_ref().err().map(|lost| lost.loss);
        verifier.set_proof(number, result);
        if loss == Some(Loss::Expired) {
            verifier.drop_handle(&lock);
        }
        if loss.is_some() { VerificationOutcome::Lost } else { VerificationOutcome::Held }
    }
}
