//! Synchronization primitives and counters that several rooms share.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Locks a mutex, also after a thread has panicked while it held the mutex.
///
/// Use it only where each change of the data is complete by itself, so that a panic between two
/// changes leaves the data consistent.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A shared counter of items that exist now. A clone counts the same items.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicUsize>);

impl Counter {
    /// Counts one more item until the returned guard is dropped.
    #[must_use]
    pub fn increment(&self) -> CounterGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        CounterGuard(self.clone())
    }

    /// Returns the number of guards that exist.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns whether no guard exists.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.count() == 0
    }
}

/// One counted item. Decrements its [`Counter`] on drop.
#[derive(Debug)]
pub struct CounterGuard(Counter);

impl Drop for CounterGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The numbers of items that exist now, by key. A key without items is not stored.
#[derive(Debug, Clone)]
pub struct KeyedCounts<K>(HashMap<K, usize>);

impl<K> Default for KeyedCounts<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> KeyedCounts<K> {
    /// Returns the number of items of a key.
    #[must_use]
    pub fn of<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.0.get(key).copied().unwrap_or_default()
    }

    /// Returns the number of items of all keys.
    #[must_use]
    pub fn total(&self) -> usize {
        self.0.values().sum()
    }

    /// Counts one more item of a key.
    pub fn increment(&mut self, key: K) {
        *self.0.entry(key).or_default() += 1;
    }

    /// Counts one item of a key less.
    pub fn decrement<Q: Eq + Hash + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if let Some(count) = self.0.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_without_items_are_removed() {
        let mut counts = KeyedCounts::<u32>::default();
        counts.increment(7);
        counts.increment(7);
        counts.increment(8);
        assert_eq!((counts.of(&7), counts.of(&9), counts.total()), (2, 0, 3));
        counts.decrement(&7);
        counts.decrement(&8);
        counts.decrement(&9);
        assert_eq!((counts.of(&7), counts.0.len()), (1, 1));
    }

    #[test]
    fn a_counter_counts_its_guards() {
        let counter = Counter::default();
        let (first, second) = (counter.increment(), counter.clone().increment());
        assert_eq!(counter.count(), 2);
        drop(first);
        assert!(!counter.is_zero());
        drop(second);
        assert!(counter.is_zero());
    }
}
