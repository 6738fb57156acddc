//! The queue of callers whose visibility polkit has yet to decide, with admission control: a
//! bounded number of checks in progress, in total and for each user.

use std::collections::VecDeque;

use super::caller::Caller;
use crate::sync::KeyedCounts;

/// The number of checks in progress at one time.
const TOTAL: usize = 8;
/// The number of checks in progress for one user, so that a user with many connections does not
/// delay others.
const PER_USER: usize = 2;

/// Callers in order of arrival, and the checks in progress.
#[derive(Debug, Default)]
pub(super) struct CheckQueue {
    waiting: VecDeque<Caller>,
    in_progress: KeyedCounts<u32>,
}

impl CheckQueue {
    /// Appends a caller.
    pub(super) fn push(&mut self, caller: Caller) {
        self.waiting.push_back(caller);
    }

    /// Removes the first caller whose check may start now, and counts that check as in progress.
    pub(super) fn pop(&mut self) -> Option<Caller> {
        if self.in_progress.total() >= TOTAL {
            return None;
        }
        let may_start = |caller: &Caller| self.in_progress.of(&caller.uid) < PER_USER;
        let index = self.waiting.iter().position(may_start)?;
        let caller = self.waiting.remove(index)?;
        self.in_progress.increment(caller.uid);
        Some(caller)
    }

    /// Counts the end of a check for this user.
    pub(super) fn finish(&mut self, uid: u32) {
        self.in_progress.decrement(&uid);
    }
}
