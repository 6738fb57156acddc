//! The state that a client derives from events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use vmlockd::lock::{Event, Lock, Mode, OwnerId};
use vmlockd::service::{Service, Subscription};

/// The holders according to the events.
#[derive(Clone, Debug, Default)]
pub(super) struct ObservedState {
    pub(super) owners: BTreeSet<OwnerId>,
    pub(super) locks: BTreeMap<u64, (OwnerId, Mode)>,
    /// Contradictory events.
    pub(super) nonsense: Vec<String>,
}

impl ObservedState {
    /// Listens to a service for as long as the event loop turns.
    pub(super) fn listen(service: &Service) -> Arc<Mutex<Self>> {
        let Subscription { owners, locks, mut batches } = service.subscribe();
        let mut observed = Self::default();
        observed.owners.extend(owners.iter().map(|owner| owner.id));
        for lock in &locks {
            observed.insert(lock);
        }
        let observed = Arc::new(Mutex::new(observed));
        let ours = Arc::clone(&observed);
        tokio::spawn(async move {
            while let Some(batch) = batches.recv().await {
                let mut observed = ours.lock().unwrap();
                batch.events.iter().for_each(|event| observed.hear(event));
            }
        });
        observed
    }

    fn insert(&mut self, lock: &Lock) -> bool {
        self.locks.insert(lock.id, (lock.owner, lock.want.mode)).is_none()
    }

    fn hear(&mut self, event: &Event) {
        let (sane, what) = match event {
            Event::OwnerOpened(id) => (self.owners.insert(*id), "an owner is opened twice"),
            Event::OwnerClosed(id) => {
                // Also of one that was never shown, because it did not get what it was to hold.
                self.owners.remove(id);
                let left = self.locks.values().any(|(owner, _)| owner == id);
                (!left, "an owner is closed that holds something")
            }
            Event::LockAcquired(lock) => (self.insert(lock), "a lock is given twice"),
            Event::LockConverted(lock) => {
                (!self.insert(lock), "a lock is converted that is not there")
            }
            Event::LockReleased(lock, _) => {
                (self.locks.remove(&lock.id).is_some(), "a lock is released that is not there")
            }
            Event::LockLost(..) => (false, "a lock is lost"),
            Event::AnchorsChanged(_)
            | Event::OwnerChanged(_)
            | Event::LockVerified(_)
            | Event::LockspacesChanged
            | Event::LockspaceRemoved(_)
            | Event::LockContended { .. } => (true, ""),
        };
        if !sane {
            self.nonsense.push(format!("{what}: {event:?}"));
        }
    }
}
