//! Callers about which polkit is to be asked, in the order in which they are.

use std::collections::{HashMap, VecDeque};

use super::caller::Caller;

/// How many questions are open at one time.
const TOTAL: usize = 8;
/// How many of them are about connections of one user, so that others are not waited for.
const PER_USER: usize = 2;

/// The callers, and how many questions are open.
#[derive(Debug, Default)]
pub(super) struct Questions {
    waiting: VecDeque<Caller>,
    open: HashMap<u32, usize>,
}

impl Questions {
    /// Adds a caller.
    pub(super) fn push(&mut self, caller: Caller) {
        self.waiting.push_back(caller);
    }

    /// Takes the next caller about which polkit may be asked now.
    pub(super) fn take(&mut self) -> Option<Caller> {
        if self.open.values().sum::<usize>() >= TOTAL {
            return None;
        }
        let open = |caller: &Caller| self.open.get(&caller.uid).copied().unwrap_or_default();
        let place = self.waiting.iter().position(|caller| open(caller) < PER_USER)?;
        let caller = self.waiting.remove(place)?;
        *self.open.entry(caller.uid).or_default() += 1;
        Some(caller)
    }

    /// Enters that the question about a caller of this user is answered.
    pub(super) fn answered(&mut self, uid: u32) {
        if let Some(count) = self.open.get_mut(&uid) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&uid);
            }
        }
    }
}
