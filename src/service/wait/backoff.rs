//! Backoff: the delay before a retry where no event reports a change.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Initial and maximum delay before a foreign holder's lock is tried again.
const FOREIGN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Initial and maximum delay before the names of a waiting request are looked up again.
const NAMES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));
/// Initial and maximum delay before a failed write of the state file is retried.
const STATE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// An exponential backoff with jitter: each delay is about twice the previous one, and waiters that
/// began at the same time do not retry at the same time.
#[derive(Debug)]
pub(in crate::service) struct BackoffDelays {
    first: Duration,
    longest: Duration,
    /// The number of delays so far.
    count: u32,
}

impl BackoffDelays {
    /// Returns the backoff for the lock of a foreign holder.
    pub(in crate::service) fn for_foreign_holder() -> Self {
        Self { first: FOREIGN.0, longest: FOREIGN.1, count: 0 }
    }

    /// Returns the backoff for the names of a waiting request.
    pub(in crate::service) fn for_names() -> Self {
        Self { first: NAMES.0, longest: NAMES.1, count: 0 }
    }

    /// Returns the backoff for a state file that cannot be written.
    pub(in crate::service) fn for_state() -> Self {
        Self { first: STATE.0, longest: STATE.1, count: 0 }
    }

    pub(in crate::service) fn next(&mut self) -> Duration {
        let Self { first, longest, .. } = *self;
        let pause = first.saturating_mul(1 << self.count.min(16)).min(longest);
        self.count += 1;
        // Jitter: between three quarters of the delay and all of it.
        let dice = RandomState::new().hash_one(self.count) % 256;
        let dice = u32::try_from(dice).unwrap_or_default();
        pause.saturating_sub(pause / 4 * dice / 256).max(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_grows_up_to_a_bound() {
        for (mut pauses, (first, longest)) in
            [(BackoffDelays::for_foreign_holder(), FOREIGN), (BackoffDelays::for_names(), NAMES)]
        {
            let all: Vec<Duration> = (0..40).map(|_| pauses.next()).collect();
            assert!(all.iter().all(|pause| *pause >= first && *pause <= longest), "{all:?}");
            assert!(all[0] == first && all[39] > longest / 2, "{all:?}");
        }
    }
}
