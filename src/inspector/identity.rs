//! The identity of a process.

use serde::{Deserialize, Serialize};

/// The start time and the users of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The start time, in ticks since boot.
    pub start: u64,
    /// The real, effective, saved and file system user.
    pub uids: [u32; 4],
}

impl ProcessIdentity {
    /// Returns whether all users of the process are `uid`. This is false for a set-user-ID program
    /// that the user has started.
    #[must_use]
    pub fn belongs_to(&self, uid: u32) -> bool {
        self.uids.iter().all(|field| *field == uid)
    }

    /// Returns the user that runs the process.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uids[0]
    }
}
