//! How many operations each user has in progress, for admission control.

use std::collections::HashMap;

/// The numbers of operations in progress, by user. Users without operations are not stored.
#[derive(Debug, Default)]
pub(super) struct UserCounts(HashMap<u32, usize>);

impl UserCounts {
    /// Returns the number of operations of a user.
    pub(super) fn of(&self, uid: u32) -> usize {
        self.0.get(&uid).copied().unwrap_or_default()
    }

    /// Returns the number of operations of all users.
    pub(super) fn total(&self) -> usize {
        self.0.values().sum()
    }

    /// Counts the start of an operation.
    pub(super) fn increment(&mut self, uid: u32) {
        *self.0.entry(uid).or_default() += 1;
    }

    /// Counts the end of an operation.
    pub(super) fn decrement(&mut self, uid: u32) {
        if let Some(count) = self.0.get_mut(&uid) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&uid);
            }
        }
    }
}
