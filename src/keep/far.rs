//! Descriptors on file systems that may not answer: parked, and nowhere else.
//!
//! Closing a file asks its file system (FUSE, for one, is sent a `FLUSH` and waited for, by force),
//! and a process that ends closes all it has. With such a descriptor open, a file system that hangs
//! would keep a killed service from ending, and the next one from beginning. So these are in
//! flight and not open: looking at what is parked goes by the keys alone, and a descriptor is
//! fetched only by who wants to do something to its file, which would have to wait anyway.
//!
//! Each device has pairs of its own, one descriptor to a message. Only where something lies dead is a
//! pair turned, and what lives in it opened for that.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::pair::Pair;
use super::{Error, Inherited, Key, Store};

/// All that is parked of such file systems.
#[derive(Debug)]
pub struct Far {
    inner: Mutex<Inner>,
    store: Store,
}

#[derive(Debug, Default)]
struct Inner {
    /// By number, with the device that each is for.
    pairs: BTreeMap<u64, (u64, Pair)>,
    /// What is wanted, and in which pair it is.
    live: HashMap<Key, u64>,
    /// The pairs in which something lies dead.
    unclean: HashSet<u64>,
    /// The last number that a pair was given: the store may still know its name.
    last: u64,
    /// The names of pairs of which there is one end only.
    halves: Vec<String>,
}

impl Far {
    /// How the names of its pairs begin.
    pub(super) const PREFIX: &str = "f";

    /// Reads what an earlier service had parked: the keys, and no descriptor. Changes nothing.
    ///
    /// # Errors
    ///
    /// Where it can't be read.
    pub fn read(inherited: &mut Inherited, store: Store) -> Result<(Self, Vec<Key>), Error> {
        let mut inner = Inner::default();
        let mut found = Vec::new();
        let (whole, halves) = inherited.take_pairs(Self::PREFIX);
        for half in &halves {
            inner.last = inner.last.max(numbers(half).map_or(0, |(number, _)| number));
        }
        inner.halves = halves;
        for (name, into, out) in whole {
            let Some((number, device)) = numbers(&name) else { continue };
            let mut pair = Pair::read_keys(number, name, into, out)?;
            pair.stored = store.has(&pair)?;
            found.extend(pair.queue.iter().flatten());
            inner.last = inner.last.max(number);
            inner.pairs.insert(number, (device, pair));
        }
        Ok((Self { inner: Mutex::new(inner), store }, found))
    }

    /// Goes on with what was found and is still wanted; the rest lies dead from now on.
    ///
    /// # Errors
    ///
    /// Where the service manager can't be reached.
    pub fn begin(&self, wanted: impl IntoIterator<Item = Key>) -> Result<(), Error> {
        let wanted: HashSet<Key> = wanted.into_iter().collect();
        let mut inner = self.inner();
        for half in std::mem::take(&mut inner.halves) {
            self.store.remove(&half)?;
        }
        // Of a program before this one that had no store.
        for (_, pair) in inner.pairs.values_mut().filter(|(_, pair)| !pair.stored) {
            pair.stored = self.store.put(pair)?;
        }
        let place = |(number, (_, pair)): (&u64, &(u64, Pair))| {
            pair.queue.iter().flatten().map(|key| (*key, *number)).collect::<Vec<_>>()
        };
        let places = inner.pairs.iter().flat_map(place);
        let live: HashMap<Key, u64> = places.filter(|(key, _)| wanted.contains(key)).collect();
        // Only these: to turn a pair is to open and close what lives in it, and its file system
        // may not answer.
        let unclean = inner.pairs.values().filter(|(_, pair)| {
            let mut seen = HashSet::new();
            let lives = |key: &Key| live.get(key) == Some(&pair.number);
            pair.queue.iter().flatten().any(|key| !lives(key) || !seen.insert(*key))
        });
        inner.unclean = unclean.map(|(_, pair)| pair.number).collect();
        inner.live = live;
        Ok(())
    }

    /// Parks one.
    ///
    /// # Errors
    ///
    /// [`Error::Full`], and where the system fails.
    pub fn park(&self, device: u64, key: Key, fd: BorrowedFd<'_>) -> Result<(), Error> {
        let mut inner = self.inner();
        let of_device = inner.pairs.iter().filter(|(_, (of, _))| *of == device);
        let numbers: Vec<u64> = of_device.map(|(number, _)| *number).collect();
        for number in numbers {
            if inner.send(number, key, fd)? {
                return Ok(());
            }
        }
        let number = inner.last + 1;
        inner.last = number;
        let mut pair = Pair::new(number, format!("{}{number}_{device}", Self::PREFIX))?;
        pair.stored = self.store.put(&pair)?;
        if !pair.stored && !self.store.is_nowhere() {
            return Err(Error::Full(super::parking::NO_MORE));
        }
        inner.pairs.insert(number, (device, pair));
        if inner.send(number, key, fd)? {
            Ok(())
        } else {
            Err(Error::Full("the socket pairs have no room"))
        }
    }

    /// A descriptor of what is parked. Whoever closes it may have to wait for the file system.
    ///
    /// # Errors
    ///
    /// Where it is not parked, or descriptors have run out.
    pub fn fetch(&self, key: Key) -> Result<OwnedFd, Error> {
        let inner = self.inner();
        let pair = inner.live.get(&key).and_then(|number| inner.pairs.get(number));
        let place = pair.and_then(|(_, pair)| {
            let at = pair.queue.iter().position(|message| message.contains(&key))?;
            Some((pair, at))
        });
        let Some((pair, at)) = place else {
            let cause = std::io::Error::other("it is not stored");
            return Err(Error::System { doing: "fetch a descriptor", cause });
        };
        pair.look(at)
    }

    /// Whether something is parked here.
    #[must_use]
    pub fn has(&self, key: Key) -> bool {
        self.inner().live.contains_key(&key)
    }

    /// These are wanted no more. Tells which pairs they were in, to be cleaned now: no others, since
    /// these may be on file systems that do not answer.
    pub fn unpark(&self, keys: &[Key]) -> BTreeSet<u64> {
        let mut inner = self.inner();
        let numbers: BTreeSet<u64> = keys.iter().filter_map(|key| inner.live.remove(key)).collect();
        inner.unclean.extend(&numbers);
        numbers
    }

    /// The pairs in which something lies dead.
    #[must_use]
    pub fn unclean(&self) -> BTreeSet<u64> {
        self.inner().unclean.iter().copied().collect()
    }

    /// Takes all out of a pair that is not wanted. It may have to wait for its file system.
    ///
    /// # Errors
    ///
    /// Where that can't be done; what lives stays there.
    pub fn clean(&self, number: u64) -> Result<(), Error> {
        let mut left = self.inner().length(number);
        while left > 0 {
            // Closed behind the mutex: here is where it may wait.
            let fetched = self.inner().turn(number)?;
            drop(fetched);
            left -= 1;
        }
        let mut inner = self.inner();
        inner.unclean.remove(&number);
        if inner.length(number) == 0
            && let Some((_, pair)) = inner.pairs.remove(&number)
        {
            self.store.remove(&pair.name)?;
        }
        Ok(())
    }

    /// The ends of all pairs, with the names under which they are passed on.
    pub(super) fn each(&self, mut what: impl FnMut(&Pair)) {
        self.inner().pairs.values().for_each(|(_, pair)| what(pair));
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn length(&self, number: u64) -> usize {
        self.pairs.get(&number).map_or(0, |(_, pair)| pair.queue.len())
    }

    fn send(&mut self, number: u64, key: Key, fd: BorrowedFd<'_>) -> Result<bool, Error> {
        let Some((_, pair)) = self.pairs.get_mut(&number) else { return Ok(false) };
        let sent = pair.send(&[(key, fd)])?;
        if sent {
            self.live.insert(key, number);
        }
        Ok(sent)
    }

    /// Drops the first message, having sent what lives in it once more.
    fn turn(&mut self, number: u64) -> Result<Option<OwnedFd>, Error> {
        let Some((_, pair)) = self.pairs.get_mut(&number) else { return Ok(None) };
        let Some(key) = pair.queue.front().and_then(|message| message.first()).copied() else {
            return Ok(None);
        };
        let twice = pair.queue.iter().skip(1).any(|message| message.contains(&key));
        if self.live.get(&key) != Some(&number) || twice {
            pair.drop_first()?;
            return Ok(None);
        }
        let fd = pair.look(0)?;
        if !pair.send(&[(key, std::os::fd::AsFd::as_fd(&fd))])? {
            return Err(Error::Full("the socket pairs have no room"));
        }
        pair.drop_first()?;
        Ok(Some(fd))
    }
}

/// The number and the device in a pair's name.
fn numbers(name: &str) -> Option<(u64, u64)> {
    let (number, device) = name.strip_prefix(Far::PREFIX)?.split_once('_')?;
    Some((number.parse().ok()?, device.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keep::Part;
    use crate::lock::OwnerId;
    use std::os::fd::AsFd;

    fn key(number: u64) -> Key {
        let owner = OwnerId::new(0, uuid::Uuid::from_u128(1));
        Key { owner, part: Part::Byte(number, 0) }
    }

    #[test]
    fn fetched_by_key_and_gone_with_the_last() {
        let (far, found) = Far::read(&mut Inherited::default(), Store::Nowhere).unwrap();
        assert!(found.is_empty());
        let files: Vec<_> = (0..9).map(|_| tempfile::tempfile().unwrap()).collect();
        for (n, file) in files.iter().enumerate() {
            far.park(n as u64 % 2, key(n as u64), file.as_fd()).unwrap();
        }
        let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
        let check = |living: &dyn Fn(usize) -> bool| {
            for (n, file) in files.iter().enumerate() {
                let fetched = far.fetch(key(n as u64));
                assert_eq!(fetched.is_ok(), living(n), "{n}");
                if let Ok(fetched) = fetched {
                    assert_eq!(inode(fetched.as_fd()), inode(file.as_fd()), "{n}");
                }
            }
        };
        check(&|_| true);
        for number in far.unpark(&[key(2), key(5)]) {
            far.clean(number).unwrap();
        }
        check(&|n| n != 2 && n != 5);
        assert_eq!(far.inner().pairs.values().map(|(_, pair)| pair.queue.len()).sum::<usize>(), 7);
        for number in far.unpark(&(0..9).map(key).collect::<Vec<_>>()) {
            far.clean(number).unwrap();
        }
        check(&|_| false);
        assert!(far.inner().pairs.is_empty());
    }

    #[test]
    fn names_tell_the_device() {
        assert_eq!(numbers("f7_62"), Some((7, 62)));
        assert_eq!(numbers("p7"), None);
    }
}
