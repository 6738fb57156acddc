//! The acknowledged locks: each lock from its acknowledgement to its release.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use zbus::OwnedObjectPath;

/// An owner and a disk, by their names on the bus and in the host.
pub(super) type LockKey = (OwnedObjectPath, String);

/// A lock that was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) lock: OwnedObjectPath,
    /// None while it is being changed.
    pub(super) mode: Option<&'static str>,
    /// How often it was changed.
    changes: usize,
}

/// The constant properties of a lock: owner, resource, generation and time.
pub(super) type Facts = (OwnedObjectPath, String, u64, u64);

/// All of it. Any contradiction ends the test.
#[derive(Debug, Default)]
pub(super) struct AcknowledgedLocks {
    held: HashMap<LockKey, Entry>,
    /// The holder of each number.
    numbers: BTreeMap<u64, LockKey>,
    /// Numbers of locks that are certainly no more.
    gone: BTreeSet<u64>,
    facts: BTreeMap<u64, Facts>,
    /// Disks on their way from one owner to another: one of the two holds each.
    pub(super) moving: BTreeSet<String>,
}

/// The number of a lock, which is the end of its path.
pub(super) fn number(lock: &OwnedObjectPath) -> u64 {
    let (_, number) = lock.as_str().rsplit_once('/').expect("a path");
    number.parse().unwrap_or_else(|e| panic!("{lock}: {e}"))
}

impl AcknowledgedLocks {
    /// A lock was acknowledged: a new one, or one that is known.
    pub(super) fn acknowledge(
        &mut self,
        place: &LockKey,
        lock: &OwnedObjectPath,
        mode: &'static str,
    ) {
        let number = number(lock);
        assert!(!self.gone.contains(&number), "{lock} is given again, to {place:?}");
        let known = self.numbers.entry(number).or_insert_with(|| place.clone());
        assert_eq!(known, place, "{lock} was another's");
        let new = Entry { lock: lock.clone(), mode: Some(mode), changes: 0 };
        let entry = self.held.entry(place.clone()).or_insert(new);
        assert_eq!((&entry.lock, entry.mode), (lock, Some(mode)), "{place:?} has another lock");
        self.check_alone(place);
    }

    /// Checks that an exclusive lock has no other holder.
    fn check_alone(&self, place: &LockKey) {
        let disk = |(other, _): &(&LockKey, &Entry)| other.1 == place.1;
        let all: Vec<_> = self.held.iter().filter(disk).collect();
        let alone = all.iter().any(|(_, entry)| entry.mode == Some("exclusive"));
        assert!(!alone || all.len() == 1, "several hold a disk: {all:?}");
    }

    /// The mode of a lock is being changed, or has been.
    pub(super) fn convert(&mut self, place: &LockKey, mode: Option<&'static str>) {
        let entry = self.held.get_mut(place).expect("only what is held is converted");
        (entry.mode, entry.changes) = (mode, entry.changes + 1);
        self.check_alone(place);
    }

    /// From now on it may be gone.
    pub(super) fn strike(&mut self, place: &LockKey) -> Option<Entry> {
        self.held.remove(place)
    }

    /// From now on all that an owner holds may be gone; these locks.
    pub(super) fn strike_all(&mut self, owner: &OwnedObjectPath) -> Vec<OwnedObjectPath> {
        let struck = self.held.extract_if(|(holder, _), _| holder == owner);
        struck.map(|(_, entry)| entry.lock).collect()
    }

    /// Returns the locks of an owner.
    pub(super) fn of(&self, owner: &OwnedObjectPath) -> Vec<(LockKey, Entry)> {
        let of_owner = self.held.iter().filter(|((holder, _), _)| holder == owner);
        of_owner.map(|(place, entry)| (place.clone(), entry.clone())).collect()
    }

    /// Now it is certainly gone, and its number is never to be seen again.
    pub(super) fn bury(&mut self, lock: &OwnedObjectPath) {
        self.gone.insert(number(lock));
    }

    /// All that is held, by all.
    pub(super) fn held(&self) -> HashMap<LockKey, Entry> {
        self.held.clone()
    }

    /// Returns the numbers of locks that are known to be released.
    pub(super) fn gone(&self) -> BTreeSet<u64> {
        self.gone.clone()
    }

    /// The service tells of a lock what never changes.
    pub(super) fn learn(&mut self, lock: &OwnedObjectPath, facts: &Facts) {
        let number = number(lock);
        assert_eq!(facts.2, number, "{lock} has another generation");
        let known = self.facts.entry(number).or_insert_with(|| facts.clone());
        assert_eq!(known, facts, "{lock} has changed");
    }
}
