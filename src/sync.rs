//! Synchronization primitives that several rooms share.

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

#[cfg(test)]
mod tests {
    use super::*;

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
