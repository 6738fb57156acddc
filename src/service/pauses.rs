//! The pauses before a stranger's lock is tried again.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// How long they are, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Each is about twice as long as the one before, and no two waiters' are alike: who all began to wait
/// at one time would else come at one time for ever.
#[derive(Debug, Default)]
pub(super) struct Pauses(u32);

impl Pauses {
    pub(super) fn next(&mut self) -> Duration {
        let (first, longest) = PAUSE;
        let pause = first.saturating_mul(1 << self.0.min(16)).min(longest);
        self.0 += 1;
        // Between three quarters and the whole of it.
        let dice = u32::try_from(RandomState::new().hash_one(self.0) % 256).unwrap_or_default();
        pause.saturating_sub(pause / 4 * dice / 256).max(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound() {
        let mut pauses = Pauses::default();
        let all: Vec<Duration> = (0..40).map(|_| pauses.next()).collect();
        assert!(all.iter().all(|pause| *pause >= PAUSE.0 && *pause <= PAUSE.1), "{all:?}");
        assert!(all[0] == PAUSE.0 && all[39] > PAUSE.1 / 2, "{all:?}");
    }
}
