//! The stash: descriptors that outlive the service process.
//!
//! 1. A descriptor is stashed by one `sendmsg` into a socket pair of the service's own ([`pair`]).
//!    It stays in the queue there, where the kernel keeps it open.
//! 2. Both ends of each pair also lie in the file descriptor store of the service manager
//!    ([`store`]). The manager is involved only when a pair is created, so granting a lock costs
//!    one `sendmsg`, however many locks are held.
//! 3. After a crash or a restart, the manager passes the pairs to the next service; at a
//!    re-execution the program passes them on itself ([`inherited`], [`exec`]). The next service
//!    reads the queues without removing anything.
//! 4. A descriptor that is no longer needed stays in its queue until the pair is compacted
//!    ([`compact`]).
//!
//! There are two policies ([`policy`]): the service keeps most descriptors open besides; those on
//! file systems that may hang are in the stash only. The pairs of each policy ([`pairs`]) have a
//! mutex of their own, and no thread ever locks both: compacting pairs of a hung file system may
//! block, and must not delay requests for other disks.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

mod compact;
pub mod exec;
pub mod inherited;
mod key;
mod pair;
mod pairs;
mod policy;
mod store;

pub use inherited::Inherited;
pub use key::{KeyPart, StashKey};
pub use pairs::SharedFd;
pub use store::Store;

use crate::keep::Error;
use crate::sync;
use pair::{MESSAGE, SocketPair};
use pairs::Pairs;
use policy::Policy;

/// Descriptors that outlive the service process.
pub struct Stash {
    /// The pairs of [`Policy::KeepOpen`].
    open: Mutex<Pairs>,
    /// The pairs of [`Policy::StashOnly`].
    unopened: Mutex<Pairs>,
    /// Whether a pair is in the store; readable without a mutex.
    is_persistent: AtomicBool,
}

impl fmt::Debug for Stash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stash").field("is_persistent", &self.is_persistent).finish_non_exhaustive()
    }
}

/// The descriptors that an earlier service had stashed. After a crash during compaction, a key may
/// occur twice.
#[derive(Debug, Default)]
pub struct Found {
    /// The descriptors that the service keeps open.
    pub open: Vec<(StashKey, OwnedFd)>,
    /// The keys of the descriptors that are in the stash only.
    pub stash_only: Vec<StashKey>,
}

impl Found {
    /// Returns whether the stash was empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.stash_only.is_empty()
    }
}

/// The result of [`Stash::discard`].
#[derive(Debug)]
#[must_use]
pub struct Discarded {
    /// Whether stale descriptors remain until [`Stash::compact`] is called.
    pub needs_compaction: bool,
    /// Errors from compacting the pairs of file systems that may hang.
    pub errors: Vec<Error>,
}

fn lock(pairs: &Mutex<Pairs>) -> MutexGuard<'_, Pairs> {
    sync::lock(pairs)
}

impl Stash {
    /// Reads the stash of an earlier service. Changes nothing, so a service that cannot continue
    /// may exit, and the next one finds the same.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if it cannot be read, as when the limit on open files is too low.
    pub fn read(inherited: &mut Inherited, store: Store) -> Result<(Self, Found), Error> {
        let (open, found) = Pairs::read(Policy::KeepOpen, inherited, store.clone())?;
        let (unopened, keys) = Pairs::read(Policy::StashOnly, inherited, store)?;
        let found = Found {
            open: found.into_iter().filter_map(|(key, fd)| Some((key, fd?))).collect(),
            stash_only: keys.into_iter().map(|(key, _)| key).collect(),
        };
        let is_persistent = AtomicBool::new(open.is_stored());
        let stash = Self { open: Mutex::new(open), unopened: Mutex::new(unopened), is_persistent };
        Ok((stash, found))
    }

    /// Makes the found descriptors live that are still needed; all others are stale from now on.
    /// Creates pairs where none was found. Returns the descriptors of `open` that are not stashed.
    ///
    /// # Errors
    ///
    /// An error if the service manager cannot be reached, or no pair can be created.
    pub fn begin(
        &self,
        open: impl IntoIterator<Item = (StashKey, SharedFd)>,
        stash_only: impl IntoIterator<Item = StashKey>,
    ) -> Result<Vec<(StashKey, SharedFd)>, Error> {
        let missing = {
            let mut pairs = lock(&self.open);
            let missing = pairs.begin(open.into_iter().map(|(key, fd)| (key, Some(fd))))?;
            self.is_persistent.store(pairs.is_stored(), Ordering::Relaxed);
            missing
        };
        lock(&self.unopened).begin(stash_only.into_iter().map(|key| (key, None)))?;
        Ok(missing.into_iter().filter_map(|(key, fd)| Some((key, fd?))).collect())
    }

    /// Returns whether the stash outlives this process.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.is_persistent.load(Ordering::Relaxed)
    }

    /// Stashes descriptors and keeps them open: all of them or none.
    ///
    /// # Errors
    ///
    /// [`Error::Full`]; [`Error::System`] if the system fails.
    pub fn put(&self, descriptors: &[(StashKey, SharedFd)]) -> Result<(), Error> {
        let mut pairs = lock(&self.open);
        for part in descriptors.chunks(MESSAGE) {
            if let Err(error) = pairs.put(part) {
                let keys: Vec<StashKey> = descriptors.iter().map(|(key, _)| *key).collect();
                pairs.discard(&keys);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Stashes a descriptor of a file on `device`, whose file system may hang, and does not keep it
    /// open.
    ///
    /// # Errors
    ///
    /// [`Error::Full`]; [`Error::System`] if the system fails.
    pub fn put_stash_only(&self, device: u64, key: StashKey, fd: SharedFd) -> Result<(), Error> {
        // The mutex is unlocked before this is closed.
        let part = [(key, fd)];
        lock(&self.unopened).put_for_device(device, &part)
    }

    /// Returns a copy of a descriptor that is in the stash only. To close it may block.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if it is not stashed, or no more descriptors can be opened.
    pub fn fetch(&self, key: StashKey) -> Result<OwnedFd, Error> {
        lock(&self.unopened).fetch(key)
    }

    /// Makes descriptors stale, since they are no longer needed.
    ///
    /// Copies in pairs that hold few descriptors are closed at once, so that the file system of a
    /// released disk can be unmounted immediately. The pairs of the descriptors that were in the
    /// stash only are compacted as well, but no other pairs of that policy, since other file
    /// systems may hang. This may block on the file system of the descriptors.
    pub fn discard(&self, keys: &[StashKey]) -> Discarded {
        // The service keeps all anchors open: to discard them never waits for a file system.
        let is_byte = |key: &&StashKey| matches!(key.part, KeyPart::Byte(..));
        let bytes: Vec<StashKey> = keys.iter().filter(is_byte).copied().collect();
        let mut errors = Vec::new();
        if !bytes.is_empty() {
            let numbers = lock(&self.unopened).discard(&bytes);
            errors.extend(compact_each(&self.unopened, numbers));
        }
        let mut pairs = lock(&self.open);
        pairs.discard(keys);
        pairs.compact_small();
        let needs_compaction = !pairs.uncompacted.is_empty();
        let closing =
            if needs_compaction { Vec::new() } else { std::mem::take(&mut pairs.closing) };
        drop(pairs);
        drop(closing);
        Discarded { needs_compaction, errors }
    }

    /// Closes all stale descriptors that the service kept open, and their copies in the stash.
    ///
    /// # Errors
    ///
    /// The first error of a pair that cannot be compacted. Its live descriptors stay in it.
    pub fn compact(&self) -> Result<(), Error> {
        let (numbers, closing) = {
            let mut pairs = lock(&self.open);
            (std::mem::take(&mut pairs.uncompacted), std::mem::take(&mut pairs.closing))
        };
        // An error with one pair does not keep the others from being compacted.
        let first_error = compact_each(&self.open, numbers).into_iter().next();
        drop(closing);
        first_error.map_or(Ok(()), Err)
    }

    /// Makes descriptors stale that are in the stash only, and compacts all pairs of this policy,
    /// including those that an earlier service did not compact. May block on their file systems.
    /// Returns the errors.
    #[must_use]
    pub fn compact_stash_only(&self, discarded: &[StashKey]) -> Vec<Error> {
        let numbers = {
            let mut pairs = lock(&self.unopened);
            pairs.discard(discarded);
            pairs.uncompacted.clone()
        };
        compact_each(&self.unopened, numbers)
    }

    /// Calls `f` with each pair.
    fn for_each_pair(&self, mut f: impl FnMut(&SocketPair)) {
        for pairs in [&self.open, &self.unopened] {
            lock(pairs).by_number.values().for_each(&mut f);
        }
    }
}

/// Compacts the pairs of these numbers. Returns the errors.
fn compact_each(pairs: &Mutex<Pairs>, numbers: impl IntoIterator<Item = u64>) -> Vec<Error> {
    numbers.into_iter().filter_map(|number| compact_pair(pairs, number).err()).collect()
}

/// Removes all stale descriptors from a pair. The mutex is unlocked between two messages, so other
/// threads can use the stash meanwhile.
fn compact_pair(pairs: &Mutex<Pairs>, number: u64) -> Result<(), Error> {
    let mut left = {
        let mut pairs = lock(pairs);
        pairs.uncompacted.remove(&number);
        pairs.length(number)
    };
    while left > 0 {
        let mut locked = lock(pairs);
        let rotated = locked.rotate(number, left);
        if rotated.is_err() {
            locked.uncompacted.insert(number);
        }
        drop(locked);
        // Here, with the mutex unlocked, the descriptors that were sent are closed.
        (left, _) = rotated?;
    }
    lock(pairs).remove_if_empty(number)
}

#[cfg(test)]
mod tests;
