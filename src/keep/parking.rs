//! Where descriptors are parked: a few socket pairs, and what is where in them.
//!
//! Parking is one `sendmsg`. What is not wanted any more lies dead in its queue, and pins its file,
//! until the queue is *turned*: what lives is sent once more, packed, and only then are the first
//! messages dropped. So what lives is in a queue at every instant; a crash while turning leaves
//! some of it there twice, which does no harm.
//!
//! One pair is kept empty, as long as the store gives one, to turn a full one into.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::pair::{MESSAGE, Pair};
use super::{Error, Inherited, Key, Store};

/// How the names of its pairs begin.
pub(super) const PREFIX: &str = "p";
/// How many descriptors are few enough to be turned while somebody waits.
/// Messages don't tell: one may hold a few hundred, to be sent again for each that is unparked.
const FEW: usize = 16;

/// Something that is parked: kept open here too, so that it can be sent again.
pub type Parked = Arc<dyn AsFd + Send + Sync>;

/// All that is parked.
pub struct Parking {
    inner: Mutex<Inner>,
    store: Store,
    /// Whether anything is stored; for who must not wait for the mutex.
    kept: AtomicBool,
}

struct Inner {
    /// By number. All but the spare one are used.
    pairs: BTreeMap<u64, Pair>,
    /// The pair that is written to.
    current: u64,
    /// What is wanted, and in which pair it is; in others it may be too, but does not count there.
    live: HashMap<Key, (Parked, u64)>,
    /// The pairs in which something lies dead.
    unclean: HashSet<u64>,
    /// What is wanted no more, open until its message is dropped: so that the last descriptor is
    /// closed by us, when nobody waits for the mutex. Closing may ask a server.
    dead: Vec<Parked>,
    /// The highest number that a pair ever had. The store may know one that is used no more, and
    /// would give back what has the same name under the same name.
    last: u64,
    /// Pairs that were being made when the service died: one end alone is stored.
    halves: Vec<String>,
}

impl fmt::Debug for Parking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parking").field("store", &self.store).finish_non_exhaustive()
    }
}

/// What an earlier service had parked.
pub type Found = Vec<(Key, OwnedFd)>;

impl Parking {
    /// Reads what an earlier service had parked. Nothing is changed: whoever finds that it can't go
    /// on may simply end, and all is as it was.
    ///
    /// # Errors
    ///
    /// Where it can't be read, as when the limit on open files is too low for all of it.
    pub fn read(inherited: &mut Inherited, store: Store) -> Result<(Self, Found), Error> {
        let mut pairs = BTreeMap::new();
        let (mut found, mut last) = (Vec::new(), 0);
        let number = |name: &str| name.strip_prefix(PREFIX).and_then(|number| number.parse().ok());
        let (whole, halves) = inherited.take_pairs(PREFIX);
        for half in &halves {
            last = last.max(number(half).unwrap_or(0));
        }
        for (name, into, out) in whole {
            let Some(number) = number(&name) else { continue };
            last = last.max(number);
            let (mut pair, parked) = Pair::read(number, name, into, out)?;
            pair.stored = store.has(&pair)?;
            found.extend(parked);
            pairs.insert(number, pair);
        }
        let unclean = pairs.keys().copied().collect();
        let current = pairs.keys().next().copied().unwrap_or(0);
        let inner =
            Inner { pairs, current, live: HashMap::new(), unclean, dead: Vec::new(), last, halves };
        let kept = AtomicBool::new(inner.is_kept());
        Ok((Self { inner: Mutex::new(inner), store, kept }, found))
    }

    /// Goes on with what was found and is still wanted; the rest lies dead from now on. Makes sure
    /// that there are pairs to park in. Tells what of the wanted is not parked.
    ///
    /// # Errors
    ///
    /// Where no pair can be made.
    pub fn begin(
        &self,
        wanted: impl IntoIterator<Item = (Key, Parked)>,
    ) -> Result<Vec<(Key, Parked)>, Error> {
        let mut inner = self.inner();
        let place: HashMap<Key, u64> = inner
            .pairs
            .values()
            .flat_map(|pair| pair.queue.iter().flatten().map(|key| (*key, pair.number)))
            .collect();
        let mut missing = Vec::new();
        for (key, parked) in wanted {
            match place.get(&key) {
                Some(number) => drop(inner.live.insert(key, (parked, *number))),
                None => missing.push((key, parked)),
            }
        }
        for half in std::mem::take(&mut inner.halves) {
            self.store.remove(&half)?;
        }
        // Of a program before this one that had no store.
        for pair in inner.pairs.values_mut().filter(|pair| !pair.stored) {
            pair.stored = self.store.put(pair)?;
        }
        while inner.pairs.len() < 2 && self.add(&mut inner)? {}
        self.kept.store(inner.is_kept(), Ordering::Relaxed);
        Ok(missing)
    }

    /// Whether what is parked outlives this process.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    /// Parks, all of it or nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Full`], and where the system fails.
    pub fn park(&self, what: &[(Key, Parked)]) -> Result<(), Error> {
        let mut inner = self.inner();
        for part in what.chunks(MESSAGE) {
            if let Err(error) = self.send(&mut inner, part) {
                for (key, _) in what {
                    inner.forget(*key);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// These are wanted no more. `true`: something lies dead now, and [`Self::clean`] is due. Where
    /// little is parked it is cleaned at once, so that whoever releases a disk can unmount its
    /// file system in the next moment.
    pub fn unpark(&self, keys: &[Key]) -> bool {
        let mut inner = self.inner();
        for key in keys {
            inner.forget(*key);
        }
        let unclean: Vec<u64> = inner.unclean.iter().copied().collect();
        for number in unclean {
            let queue = inner.pairs.get(&number).map(|pair| &pair.queue);
            let mut left = queue.map_or(0, VecDeque::len);
            let all = queue.into_iter().flatten().take(FEW + 1).map(Vec::len).sum::<usize>();
            // What fails here is tried again, and then said.
            while all <= FEW && (1..=FEW).contains(&left) {
                left = self.turn(&mut inner, number, left).unwrap_or(usize::MAX);
            }
            if left == 0 {
                inner.unclean.remove(&number);
            }
        }
        let unclean = !inner.unclean.is_empty();
        let dead = if unclean { Vec::new() } else { std::mem::take(&mut inner.dead) };
        drop(inner);
        drop(dead);
        unclean
    }

    /// Takes all out that is not wanted.
    ///
    /// # Errors
    ///
    /// Where a queue can't be turned; what lives in it stays there.
    pub fn clean(&self) -> Result<(), Error> {
        let (unclean, dead) = {
            let mut inner = self.inner();
            (std::mem::take(&mut inner.unclean), std::mem::take(&mut inner.dead))
        };
        let cleaned = unclean.into_iter().map(|number| {
            self.clean_one(number).inspect_err(|_| {
                self.inner().unclean.insert(number);
            })
        });
        // All of them, whatever becomes of the first.
        let cleaned = cleaned.collect::<Vec<_>>().into_iter().collect();
        drop(dead);
        cleaned
    }

    fn clean_one(&self, number: u64) -> Result<(), Error> {
        let mut left = self.inner().pairs.get(&number).map_or(0, |pair| pair.queue.len());
        // In between, others may park.
        while left > 0 {
            left = self.turn(&mut self.inner(), number, left)?;
        }
        Ok(())
    }

    /// Each pair.
    pub(super) fn each(&self, what: impl FnMut(&Pair)) {
        self.inner().pairs.values().for_each(what);
    }

    fn send(&self, inner: &mut Inner, part: &[(Key, Parked)]) -> Result<(), Error> {
        let mut sent = inner.send(inner.current, part)?;
        if !sent {
            self.make_room(inner)?;
            sent = inner.send(inner.current, part)?;
        }
        if sent { Ok(()) } else { Err(Error::Full("the socket pairs have no room")) }
    }

    /// The current pair is full: it is turned into the spare one, which takes less room since what
    /// lives is packed. Where that is not enough, there will be one pair more.
    fn make_room(&self, inner: &mut Inner) -> Result<(), Error> {
        let full = inner.current;
        let messages = inner.pairs.get(&full).map_or(0, |pair| pair.queue.len());
        let Some(spare) = inner.spare() else {
            return if self.add(inner)? { Ok(()) } else { Err(no_more()) };
        };
        inner.current = spare;
        let mut left = messages;
        while left > 0 {
            left = self.turn(inner, full, left)?;
        }
        let packed = inner.pairs.get(&spare).map_or(0, |pair| pair.queue.len());
        if packed * 4 < messages {
            return Ok(());
        }
        // It was packed already: what was just emptied is used next, and is to have a spare one.
        // Where the store is full it has none, and is the last that can be used.
        self.add(inner)?;
        inner.current = full;
        Ok(())
    }

    /// Sends what lives in the first messages of a queue once more, and drops these messages; up to
    /// `left` of them. Tells how many are left then.
    fn turn(&self, inner: &mut Inner, number: u64, left: usize) -> Result<usize, Error> {
        let Some(pair) = inner.pairs.get(&number) else { return Ok(0) };
        if pair.queue.is_empty() {
            // Somebody else turned it meanwhile.
            return Ok(0);
        }
        let (mut keys, mut messages) = (Vec::new(), 0);
        for message in pair.queue.iter().take(left) {
            let here = |key: &&Key| inner.live.get(key).is_some_and(|(_, at)| *at == number);
            let mut more: Vec<Key> = message.iter().filter(here).copied().collect();
            if keys.len() + more.len() > MESSAGE {
                break;
            }
            keys.append(&mut more);
            messages += 1;
        }
        // Twice in one queue after a crash while it was turned.
        keys.sort_unstable();
        keys.dedup();
        let live = |key: &Key| Some((*key, Arc::clone(&inner.live.get(key)?.0)));
        let part: Vec<(Key, Parked)> = keys.iter().filter_map(live).collect();
        if !part.is_empty() {
            let into = if inner.current == number { [number, 0] } else { [inner.current, number] };
            let mut sent = inner.send(into[0], &part)? || inner.send(into[1], &part)?;
            if !sent && let Some(spare) = inner.spare() {
                sent = inner.send(spare, &part)?;
            }
            if !sent {
                sent = self.add(inner)? && inner.send(inner.current, &part)?;
            }
            if !sent {
                return Err(no_more());
            }
        }
        let Some(pair) = inner.pairs.get_mut(&number) else { return Ok(0) };
        for _ in 0..messages {
            pair.drop_first()?;
        }
        Ok(left - messages)
    }

    /// Adds a pair and makes it the current one. `false`: the store is full.
    fn add(&self, inner: &mut Inner) -> Result<bool, Error> {
        let number = inner.last + 1;
        inner.last = number;
        let mut pair = Pair::new(number, format!("{PREFIX}{number}"))?;
        pair.stored = self.store.put(&pair)?;
        // Where nothing is stored at all, a pair that is not stored is as good as the others.
        if !pair.stored && inner.is_kept() {
            return Ok(false);
        }
        inner.pairs.insert(number, pair);
        inner.current = number;
        Ok(true)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why nothing more can be parked.
pub(super) const NO_MORE: &str =
    "the file descriptor store of the service manager is full (FileDescriptorStoreMax=)";

fn no_more() -> Error {
    Error::Full(NO_MORE)
}

impl Inner {
    fn is_kept(&self) -> bool {
        self.pairs.values().any(|pair| pair.stored)
    }

    /// Sends into a pair, and notes it. `false`: there is no room, or no such pair.
    fn send(&mut self, number: u64, part: &[(Key, Parked)]) -> Result<bool, Error> {
        let Some(pair) = self.pairs.get_mut(&number) else { return Ok(false) };
        let borrowed: Vec<_> = part.iter().map(|(key, parked)| (*key, parked.as_fd())).collect();
        let sent = pair.send(&borrowed)?;
        if sent {
            for (key, parked) in part {
                self.live.insert(*key, (Arc::clone(parked), number));
            }
        }
        Ok(sent)
    }

    fn forget(&mut self, key: Key) {
        if let Some((parked, number)) = self.live.remove(&key) {
            self.unclean.insert(number);
            self.dead.push(parked);
        }
    }

    /// An empty pair that is not the current one.
    fn spare(&self) -> Option<u64> {
        let spare = |pair: &&Pair| pair.number != self.current && pair.queue.is_empty();
        self.pairs.values().find(spare).map(|pair| pair.number)
    }
}

#[cfg(test)]
mod tests;
