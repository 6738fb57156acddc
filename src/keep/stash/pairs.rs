//! The socket pairs of one policy, and which pair holds which descriptor.
//!
//! A descriptor is *live* while it is needed, and *stale* afterwards. A stale descriptor stays in
//! its queue, and so keeps its file open, until its pair is compacted ([`super::compact`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::inherited::Inherited;
use super::key::StashKey;
use super::pair::SocketPair;
use super::policy::Policy;
use super::store::Store;
use crate::keep::Error;

/// A descriptor that the service and the stash share.
pub type SharedFd = Arc<dyn AsFd + Send + Sync>;

/// Keys with their descriptors, if these are open.
pub(super) type Keyed<T> = Vec<(StashKey, Option<T>)>;

/// The error when the store is full.
const STORE_FULL: &str =
    "the file descriptor store of the service manager is full (FileDescriptorStoreMax=)";
/// The error when no pair has room.
const QUEUES_FULL: &str = "the socket pairs have no room";

/// Returns the error for a full store.
pub(super) fn store_full() -> Error {
    Error::Full(STORE_FULL)
}

/// Returns the error for socket pairs without room.
pub(super) fn queues_full() -> Error {
    Error::Full(QUEUES_FULL)
}

/// A live descriptor.
pub(super) struct Live {
    /// The number of the pair in which it counts. Copies in other pairs are stale.
    pub(super) pair: u64,
    /// The descriptor, if the policy keeps it open.
    pub(super) open: Option<SharedFd>,
}

/// The socket pairs of one policy.
pub(super) struct Pairs {
    pub(super) policy: Policy,
    store: Store,
    /// The pairs by number. With [`Policy::KeepOpen`], one of them is a spare as long as the store
    /// has room for it.
    pub(super) by_number: BTreeMap<u64, SocketPair>,
    /// The pair that new descriptors are sent to, with [`Policy::KeepOpen`].
    pub(super) current: u64,
    pub(super) live: HashMap<StashKey, Live>,
    /// The pairs that hold stale descriptors.
    pub(super) uncompacted: BTreeSet<u64>,
    /// Stale descriptors, open until their pairs are compacted, so that the service closes the last
    /// descriptor of a file at a time when no thread waits for the mutex. Closing may block on a
    /// server.
    pub(super) closing: Vec<SharedFd>,
    /// The highest number that a pair ever had. The store may still have a pair that is no longer
    /// used, and would return another pair of that name under the same name.
    last: u64,
    /// The names of pairs of which the store has a single end, since the service died while it
    /// created them.
    halves: Vec<String>,
}

impl Pairs {
    /// Reads the pairs of an earlier service, and the descriptors in their queues; opens these only
    /// with [`Policy::KeepOpen`]. Changes nothing, so a service that cannot continue may exit.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if they cannot be read, as when the limit on open files is too low.
    pub(super) fn read(
        policy: Policy,
        inherited: &mut Inherited,
        store: Store,
    ) -> Result<(Self, Keyed<OwnedFd>), Error> {
        let (whole, halves) = inherited.take_pairs(policy.prefix());
        let numbers = halves.iter().filter_map(|half| Some(policy.parse_name(half)?.0));
        let mut last = numbers.max().unwrap_or(0);
        let (mut by_number, mut found) = (BTreeMap::new(), Vec::new());
        for (name, into, out) in whole {
            let Some((number, device)) = policy.parse_name(&name) else { continue };
            last = last.max(number);
            let mut pair = match policy {
                Policy::KeepOpen => {
                    let (pair, opened) = SocketPair::read(number, name, into, out)?;
                    found.extend(opened.into_iter().map(|(key, fd)| (key, Some(fd))));
                    pair
                }
                Policy::StashOnly => {
                    let pair = SocketPair::read_keys(number, name, into, out)?;
                    found.extend(pair.queue.iter().flatten().map(|key| (*key, None)));
                    pair
                }
            };
            pair.device = device;
            pair.stored = store.has(&pair)?;
            by_number.insert(number, pair);
        }
        let current = by_number.keys().next().copied().unwrap_or(0);
        let uncompacted = match policy {
            Policy::KeepOpen => by_number.keys().copied().collect(),
            // `begin` finds out which.
            Policy::StashOnly => BTreeSet::new(),
        };
        let (live, closing) = (HashMap::new(), Vec::new());
        let all =
            Self { policy, store, by_number, current, live, uncompacted, closing, last, halves };
        Ok((all, found))
    }

    /// Makes the descriptors of `needed` live; all others in the queues are stale from now on.
    /// Returns the descriptors of `needed` that are in no queue.
    ///
    /// # Errors
    ///
    /// An error if the service manager cannot be reached, or no pair can be created.
    pub(super) fn begin(
        &mut self,
        needed: impl IntoIterator<Item = (StashKey, Option<SharedFd>)>,
    ) -> Result<Keyed<SharedFd>, Error> {
        let mut location = HashMap::new();
        for pair in self.by_number.values() {
            location.extend(pair.queue.iter().flatten().map(|key| (*key, pair.number)));
        }
        let mut missing = Vec::new();
        for (key, open) in needed {
            match location.get(&key) {
                Some(pair) => drop(self.live.insert(key, Live { pair: *pair, open })),
                None => missing.push((key, open)),
            }
        }
        for half in std::mem::take(&mut self.halves) {
            self.store.remove(&half)?;
        }
        // An earlier program created these pairs where no store was offered.
        for pair in self.by_number.values_mut().filter(|pair| !pair.stored) {
            pair.stored = self.store.put(pair)?;
        }
        match self.policy {
            Policy::KeepOpen => while self.by_number.len() < 2 && self.add(None)?.is_some() {},
            // Only the pairs that need it: compaction opens and closes the live descriptors of a
            // pair, and their file system may hang.
            Policy::StashOnly => {
                let uncompacted = self.by_number.values().filter(|pair| self.has_stale(pair));
                self.uncompacted = uncompacted.map(|pair| pair.number).collect();
            }
        }
        Ok(missing)
    }

    /// Returns whether a pair holds a stale descriptor, or two copies of a live one.
    fn has_stale(&self, pair: &SocketPair) -> bool {
        let mut seen = HashSet::new();
        let is_stale = |key: &StashKey| !self.is_live_in(key, pair.number) || !seen.insert(*key);
        pair.queue.iter().flatten().any(is_stale)
    }

    /// Returns whether the copy of a descriptor in the pair of this number is live.
    pub(super) fn is_live_in(&self, key: &StashKey, number: u64) -> bool {
        self.live.get(key).is_some_and(|live| live.pair == number)
    }

    /// Returns whether a pair is in the store, so that its queue outlives this process.
    pub(super) fn is_stored(&self) -> bool {
        self.by_number.values().any(|pair| pair.stored)
    }

    /// Returns the number of messages in the queue of a pair.
    pub(super) fn length(&self, number: u64) -> usize {
        self.by_number.get(&number).map_or(0, |pair| pair.queue.len())
    }

    /// Returns an empty pair that is not the current one.
    pub(super) fn spare(&self) -> Option<u64> {
        let is_spare = |pair: &&SocketPair| pair.number != self.current && pair.queue.is_empty();
        self.by_number.values().find(is_spare).map(|pair| pair.number)
    }

    /// Creates a pair, makes it the current one and returns its number; returns `None` if the store
    /// is full.
    pub(super) fn add(&mut self, device: Option<u64>) -> Result<Option<u64>, Error> {
        let number = self.last + 1;
        self.last = number;
        let mut pair = SocketPair::new(number, self.policy.pair_name(number, device))?;
        pair.device = device;
        pair.stored = self.store.put(&pair)?;
        let must_be_stored = match self.policy {
            // Where no pair is stored, another one that is not stored is no worse.
            Policy::KeepOpen => self.is_stored(),
            Policy::StashOnly => !self.store.is_unavailable(),
        };
        if must_be_stored && !pair.stored {
            return Ok(None);
        }
        self.by_number.insert(number, pair);
        self.current = number;
        Ok(Some(number))
    }

    /// Sends descriptors to a pair as one message; from now on they are live there. Returns `false`
    /// if the pair has no room or does not exist.
    pub(super) fn send(
        &mut self,
        number: u64,
        part: &[(StashKey, SharedFd)],
    ) -> Result<bool, Error> {
        let Some(pair) = self.by_number.get_mut(&number) else { return Ok(false) };
        let borrowed: Vec<_> = part.iter().map(|(key, fd)| (*key, fd.as_fd())).collect();
        let sent = pair.send(&borrowed)?;
        if sent {
            for (key, fd) in part {
                let open = (self.policy == Policy::KeepOpen).then(|| Arc::clone(fd));
                self.live.insert(*key, Live { pair: number, open });
            }
        }
        Ok(sent)
    }

    /// Stashes descriptors with [`Policy::KeepOpen`]: at most as many as one message holds.
    ///
    /// # Errors
    ///
    /// [`Error::Full`]; [`Error::System`] if the system fails.
    pub(super) fn put(&mut self, part: &[(StashKey, SharedFd)]) -> Result<(), Error> {
        let mut sent = self.send(self.current, part)?;
        if !sent {
            self.make_room()?;
            sent = self.send(self.current, part)?;
        }
        if sent { Ok(()) } else { Err(queues_full()) }
    }

    /// Stashes a descriptor with [`Policy::StashOnly`], in a pair of its device.
    ///
    /// # Errors
    ///
    /// [`Error::Full`]; [`Error::System`] if the system fails.
    pub(super) fn put_for_device(
        &mut self,
        device: u64,
        part: &[(StashKey, SharedFd); 1],
    ) -> Result<(), Error> {
        let of_device = self.by_number.values().filter(|pair| pair.device == Some(device));
        let numbers: Vec<u64> = of_device.map(|pair| pair.number).collect();
        for number in numbers {
            if self.send(number, part)? {
                return Ok(());
            }
        }
        let number = self.add(Some(device))?.ok_or_else(store_full)?;
        if self.send(number, part)? { Ok(()) } else { Err(queues_full()) }
    }

    /// Returns a copy of a live descriptor with [`Policy::StashOnly`].
    ///
    /// # Errors
    ///
    /// [`Error::System`] if it is not stashed, or no more descriptors can be opened.
    pub(super) fn fetch(&self, key: StashKey) -> Result<OwnedFd, Error> {
        let pair = self.live.get(&key).and_then(|live| self.by_number.get(&live.pair));
        let location = pair.and_then(|pair| {
            let message = pair.queue.iter().position(|message| message.contains(&key))?;
            Some((pair, message))
        });
        let Some((pair, message)) = location else {
            let cause = std::io::Error::other("it is not stored");
            return Err(Error::System { doing: "fetch a descriptor", cause });
        };
        pair.fetch(message)
    }

    /// Makes descriptors stale. Returns the pairs that hold them.
    pub(super) fn discard(&mut self, keys: &[StashKey]) -> BTreeSet<u64> {
        let mut numbers = BTreeSet::new();
        for Live { pair, open } in keys.iter().filter_map(|key| self.live.remove(key)) {
            numbers.insert(pair);
            self.closing.extend(open);
        }
        self.uncompacted.extend(&numbers);
        numbers
    }

    /// Removes a pair of [`Policy::StashOnly`] if its queue is empty.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if the service manager cannot be reached.
    pub(super) fn remove_if_empty(&mut self, number: u64) -> Result<(), Error> {
        if self.policy == Policy::StashOnly
            && self.length(number) == 0
            && let Some(pair) = self.by_number.remove(&number)
        {
            self.store.remove(&pair.name)?;
        }
        Ok(())
    }
}
