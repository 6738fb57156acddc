//! A count of messages that are not sent yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The count. A cheap handle.
#[derive(Debug, Clone, Default)]
pub(super) struct Count(Arc<AtomicUsize>);

impl Count {
    /// Counts a message until the returned value is dropped.
    pub(super) fn add(&self) -> Unsent {
        self.0.fetch_add(1, Ordering::Relaxed);
        Unsent(self.clone())
    }

    /// Whether all messages are sent or dropped.
    pub(super) fn is_zero(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// One message of the count.
#[derive(Debug)]
pub(super) struct Unsent(Count);

impl Drop for Unsent {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
