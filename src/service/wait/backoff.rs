//! Back-off: how long to wait before something is tried again that nothing reports.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Before a foreign holder's lock is tried again, at first and at most.
const FOREIGN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Before the names of a waiting request are looked up again, at first and at most.
const NAMES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));
/// Before the state file is written again that could not be written, at first and at most.
const STATE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Each is about twice as long as the one before, and no two waiters' are alike: who all began to wait
/// at one time would else come at one time for ever.
#[derive(Debug)]
pub(in crate::service) struct Pauses {
    first: Duration,
    longest: Duration,
    /// How many there were.
    count: u32,
}

impl Pauses {
    /// Returns the back-off for the lock of a foreign holder.
    pub(in crate::service) fn for_foreign_holder() -> Self {
        Self { first: FOREIGN.0, longest: FOREIGN.1, count: 0 }
    }

    /// Returns the back-off for the names of a waiting request.
    pub(in crate::service) fn for_names() -> Self {
        Self { first: NAMES.0, longest: NAMES.1, count: 0 }
    }

    /// Returns the back-off for a state file that can't be written.
    pub(in crate::service) fn for_state() -> Self {
        Self { first: STATE.0, longest: STATE.1, count: 0 }
    }

    pub(in crate::service) fn next(&mut self) -> Duration {
        let Self { first, longest, .. } = *self;
        let pause = first.saturating_mul(1 << self.count.min(16)).min(longest);
        self.count += 1;
        // Between three quarters and the whole of it.
        let dice = RandomState::new().hash_one(self.count) % 256;
        let dice = u32::try_from(dice).unwrap_or_default();
        pause.saturating_sub(pause / 4 * dice / 256).max(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound() {
        for (mut pauses, (first, longest)) in
            [(Pauses::for_foreign_holder(), FOREIGN), (Pauses::for_names(), NAMES)]
        {
            let all: Vec<Duration> = (0..40).map(|_| pauses.next()).collect();
            assert!(all.iter().all(|pause| *pause >= first && *pause <= longest), "{all:?}");
            assert!(all[0] == first && all[39] > longest / 2, "{all:?}");
        }
    }
}
