//! Compaction: removes stale descriptors from the queues.
//!
//! Only the first message of a queue can be removed. Compaction therefore *rotates* a queue: it
//! sends the live descriptors of the first messages once more, packed into one message, and only
//! then drops these messages.
//!
//! Invariant: every live descriptor is in a queue at any time. A crash during compaction leaves two
//! copies of some descriptors, which does no harm.

use std::sync::Arc;

use super::key::StashKey;
use super::pair::MESSAGE;
use super::pairs::{Pairs, SharedFd, queues_full, store_full};
use super::policy::Policy;
use crate::keep::Error;

/// The maximum number of descriptors in a pair that is compacted at once, while a request waits.
/// The number of messages is no measure: a single message may hold a few hundred descriptors, which
/// would be sent again for each one that is discarded.
const FEW: usize = 16;

impl Pairs {
    /// Compacts the pairs that hold few descriptors, so that the file system of a released disk can
    /// be unmounted at once.
    pub(super) fn compact_small(&mut self) {
        let numbers: Vec<u64> = self.uncompacted.iter().copied().collect();
        for number in numbers {
            let queue = self.by_number.get(&number).map(|pair| &pair.queue);
            let size = queue.into_iter().flatten().take(FEW + 1).map(Vec::len).sum::<usize>();
            let mut left = self.length(number);
            // The later, complete compaction retries and reports a failure.
            while size <= FEW && (1..=FEW).contains(&left) {
                left = self.rotate(number, left).map_or(usize::MAX, |(left, _)| left);
            }
            if left == 0 {
                self.uncompacted.remove(&number);
            }
        }
    }

    /// Rotates the first messages of a queue, at most `left`. Returns the number of messages that
    /// are then left, and the descriptors that were sent: the caller closes them after it has
    /// unlocked the mutex, since closing may block.
    ///
    /// With [`Policy::StashOnly`], one message is rotated, and its descriptor is opened for that
    /// only if it is live.
    ///
    /// # Errors
    ///
    /// An error if a descriptor cannot be sent; no message is dropped then.
    pub(super) fn rotate(
        &mut self,
        number: u64,
        left: usize,
    ) -> Result<(usize, Vec<SharedFd>), Error> {
        let Some(pair) = self.by_number.get(&number).filter(|pair| !pair.queue.is_empty()) else {
            // Another thread has compacted it in the meantime.
            return Ok((0, Vec::new()));
        };
        let at_most = match self.policy {
            Policy::KeepOpen => left,
            Policy::StashOnly => left.min(1),
        };
        let (mut keys, mut messages) = (Vec::new(), 0);
        for message in pair.queue.iter().take(at_most) {
            let is_live = |key: &&StashKey| self.is_live_in(key, number);
            let mut live: Vec<StashKey> = message.iter().filter(is_live).copied().collect();
            if keys.len() + live.len() > MESSAGE {
                break;
            }
            keys.append(&mut live);
            messages += 1;
        }
        // An interrupted compaction leaves two copies in one queue.
        keys.sort_unstable();
        keys.dedup();
        if self.policy == Policy::StashOnly {
            // The later copy stays. It need not be opened to be sent again.
            keys.retain(|key| !pair.queue.iter().skip(1).any(|message| message.contains(key)));
        }
        let mut part: Vec<(StashKey, SharedFd)> = Vec::with_capacity(keys.len());
        for key in keys {
            let open = self.live.get(&key).and_then(|live| live.open.as_ref());
            let fd = match open {
                Some(open) => Arc::clone(open),
                None => Arc::new(pair.fetch(0)?),
            };
            part.push((key, fd));
        }
        if !part.is_empty() {
            self.send_again(number, &part)?;
        }
        let Some(pair) = self.by_number.get_mut(&number) else { return Ok((0, Vec::new())) };
        for _ in 0..messages {
            pair.drop_first()?;
        }
        Ok((left - messages, part.into_iter().map(|(_, fd)| fd).collect()))
    }

    /// Sends live descriptors of a pair once more.
    fn send_again(&mut self, number: u64, part: &[(StashKey, SharedFd)]) -> Result<(), Error> {
        if self.policy == Policy::StashOnly {
            return if self.send(number, part)? { Ok(()) } else { Err(queues_full()) };
        }
        let current = self.current;
        let mut sent =
            self.send(current, part)? || (current != number && self.send(number, part)?);
        if !sent && let Some(spare) = self.spare() {
            sent = self.send(spare, part)?;
        }
        if !sent && let Some(added) = self.add(None)? {
            sent = self.send(added, part)?;
        }
        if sent { Ok(()) } else { Err(store_full()) }
    }

    /// Makes room in [`Policy::KeepOpen`] when the current pair is full: compacts it into the spare
    /// pair. If that does not free enough, adds a pair.
    ///
    /// # Errors
    ///
    /// [`Error::Full`]; [`Error::System`] if the system fails.
    pub(super) fn make_room(&mut self) -> Result<(), Error> {
        let full = self.current;
        let messages = self.length(full);
        let Some(spare) = self.spare() else {
            return self.add(None)?.map(drop).ok_or_else(store_full);
        };
        self.current = spare;
        let mut left = messages;
        while left > 0 {
            (left, _) = self.rotate(full, left)?;
        }
        if self.length(spare) * 4 < messages {
            return Ok(());
        }
        // The full pair was packed already. Use it next, since it is empty now, and add a spare
        // one. If the store is full, there is no spare one, and this is the last pair that can be
        // used.
        self.add(None)?;
        self.current = full;
        Ok(())
    }
}
