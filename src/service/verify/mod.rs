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
pub(super) mod schedule;

mod order;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use super::{Error, Service};
use crate::failpoint::failpoint;
use crate::lock::acquire::handle::{LockHandle, Unlock};
use crate::lock::acquire::reacquire::{Doubt, Lost, ReacquireLock, VerifyLock};
use crate::lock::model::identity::Identity;
use crate::lock::request::{Asked, Work};
use crate::lock::text::escape::shown;
use crate::lock::{self, Event, Lock, Loss, Proof, Want};
use crate::service::core::state::State;
use crate::service::report::event_log;
use crate::sync;

impl Service {
    /// Verifies every lock that was restored and not verified since. Returns at once.
    pub(super) fn verify_all(&self) {
        self.verify_these(&self.locks());
    }

    /// Verifies some locks. A lock that is transferred to another owner gets a new number, under
    /// which no earlier verification finds it.
    pub(super) fn verify_these<'l>(&self, locks: impl IntoIterator<Item = &'l Lock>) {
        self.verify_in_order(locks.into_iter().filter(|lock| lock.proof != Proof::Verified));
    }

    /// Verifies one lock.
    pub(super) async fn verify(&self, number: u64) -> Found {
        let away = {
            let state = self.state();
            let away = state.held.get(&number).is_some_and(|held| held.is_away());
            let lock = state.table.lock(number).filter(|_| away);
            lock.and_then(|lock| lock.want.lock_files.first().cloned())
        };
        // A lock whose descriptor is not open and whose lock file has no absolute path cannot be
        // looked up: it stays as it is.
        if away.is_some_and(|file| !file.is_absolute()) {
            return Found::Unknown;
        }
        let Some(lock) = self.lock(number) else { return Found::There };
        let (uid, want) = (lock.owner.uid, lock.want);
        let story = Verification { service: self.clone(), number, want };
        match self.storage().run_for(uid, story).await {
            Ok(found) => found,
            // The mount gate has logged this.
            Err(Error::UnresponsiveMount(_)) => Found::Unknown,
            Err(error) => {
                tracing::error!(%error, lock = number, "cannot verify lock {number}");
                Found::Unknown
            }
        }
    }

    /// Sets the proof of a lock to what was seen. Publishes and logs a change.
    fn enter_proof(&self, number: u64, seen: Result<(), Lost>) {
        let proof = if seen.is_ok() { Proof::Verified } else { Proof::Lost };
        let before = {
            let mut state = self.state();
            let Some(before) = state.table.lock(number).map(|lock| lock.proof) else { return };
            let Ok(lock) = state.table.set_proof(number, proof) else { return };
            let lock = Box::new(lock.clone());
            let event = match &seen {
                Ok(()) => Event::LockVerified(lock),
                Err(lost) => Event::LockLost(lock, lost.loss),
            };
            if before != proof {
                drop(state.publish(vec![event]));
            }
            before
        };
        if before == proof {
            return;
        }
        let Some(lock) = self.lock(number) else { return };
        let name = self.state().name_of(lock.owner);
        match seen {
            Ok(()) if before == Proof::Lost => {
                self.counts().regained();
                event_log::regained(&lock, &name);
            }
            Ok(()) => {}
            Err(lost) => {
                self.counts().lost();
                event_log::lost(&lock, &name, &lost);
                self.apply_loss_action(lock.owner);
            }
        }
    }

    /// Releases the lock handle of an expired lock, which can never lock again; the retry acquires
    /// the lock through a new open file description.
    fn forsake(&self, lock: &Lock) {
        let Some(held) = self.state().held.remove(&lock.id) else { return };
        for failure in held.abandon() {
            tracing::warn!(%failure, lock = lock.id, "cannot release the rest of lost lock {}", lock.id);
        }
        if self.keep().unpark(lock.owner, lock.id, &held) {
            self.clean_soon();
        }
    }

    /// Acquires a lock again that has no lock handle.
    fn retake(&self, lock: &Lock) -> Result<(), Lost> {
        let held = Arc::new({
            let (want, signature) = (lock.want.clone(), self.signer(lock.owner)(lock));
            ReacquireLock { want, record: signature }.perform()?
        });
        let unlockable =
            |error: Error| Lost { loss: lock::Loss::Unlockable, why: error.to_string() };
        let parked = self.keep().park(lock.owner, &[lock.id], &[Arc::clone(&held)]);
        failpoint("retake-parked");
        let entered = parked.map_err(unlockable).and_then(|()| {
            let mut state = self.state();
            if state.table.lock(lock.id).is_some() {
                state.held.insert(lock.id, Arc::clone(&held));
                return Ok(());
            }
            let why = "it was released in the meantime".to_owned();
            Err(Lost { loss: lock::Loss::Unlockable, why })
        });
        if entered.is_err() {
            self.unlock_again(lock, &held);
        }
        entered
    }

    fn unlock_again(&self, lock: &Lock, held: &Arc<LockHandle>) {
        for failure in Unlock(Arc::clone(held)).perform() {
            tracing::error!(%failure, lock = lock.id, "cannot undo locking again lock {}", lock.id);
        }
        if self.keep().unpark(lock.owner, lock.id, held) {
            self.clean_soon();
        }
    }
}

/// The result of the verification of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The lock exists, or was released.
    There,
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
pub(super) struct Verification {
    service: Service,
    number: u64,
    /// The target of the lock.
    want: Want,
}

impl Verification {
    pub(super) fn new(service: &Service, lock: &Lock) -> Self {
        Self { service: service.clone(), number: lock.id, want: lock.want.clone() }
    }

    /// Verifies the lock, after any other thread that is verifying it: two threads that acquire one
    /// lock again would each see the other as a foreign holder.
    pub(super) fn look(self) -> Found {
        let gate = self.service.state().look_gate(self.number);
        let _looking = sync::lock(&gate);
        self.perform_alone()
    }
}

impl State {
    /// Returns the mutex that is held during the verification of this lock.
    fn look_gate(&mut self, number: u64) -> Arc<Mutex<()>> {
        if let Some(gate) = self.looks.get(&number).and_then(Weak::upgrade) {
            return gate;
        }
        self.looks.retain(|_, gate| gate.strong_count() > 0);
        let gate = Arc::default();
        self.looks.insert(number, Arc::downgrade(&gate));
        gate
    }
}

impl Work for Verification {
    type Answer = Found;

    fn asks(&self) -> Vec<Asked<'_>> {
        let mut asks = self.want.asks();
        // A lock without a lock handle is also looked up by its canonical path from the state file.
        if !self.service.state().held.contains_key(&self.number) {
            let canonical = self.want.canonical.as_deref().map(Path::new);
            asks.extend(
                canonical.filter(|_| canonical != self.want.path.as_deref()).map(Asked::path),
            );
        }
        asks
    }

    fn perform(self) -> Found {
        self.look()
    }
}

impl Verification {
    fn perform_alone(self) -> Found {
        let Self { service, number, .. } = self;
        let (lock, held) = {
            let state = service.state();
            let Some(lock) = state.table.lock(number).cloned() else { return Found::There };
            (lock, state.held.get(&number).cloned())
        };
        let seen = match held {
            Some(held) => VerifyLock { held, want: lock.want.clone() }.perform(),
            None => service.retake(&lock).map_err(Doubt::Lost),
        };
        failpoint("verify-seen");
        let seen = match seen {
            Ok(()) => Ok(()),
            Err(Doubt::Lost(lost)) => Err(lost),
            Err(Doubt::Unknown(why)) => {
                let resource = shown(&lock.want.resource);
                tracing::warn!(lock = number, "cannot verify the lock on {resource}: {why}");
                return Found::Unknown;
            }
        };
        let loss = seen.as_ref().err().map(|lost| lost.loss);
        service.enter_proof(number, seen);
        if loss == Some(Loss::Expired) {
            service.forsake(&lock);
        }
        if loss.is_some() { Found::Lost } else { Found::There }
    }
}
