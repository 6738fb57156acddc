//! Bounds a rate by a token bucket.
//!
//! The bucket holds at most as many tokens as may be used at once, and refills at a constant rate.
//! The time is passed in.

use std::time::{Duration, Instant};

/// A rate, and the maximum burst.
#[derive(Debug, Clone, Copy)]
pub(in crate::admission) struct Rate {
    /// The number of tokens added in a second.
    pub(in crate::admission) per_second: usize,
    /// The maximum number of tokens in the bucket.
    pub(in crate::admission) burst: usize,
}

impl Rate {
    /// Creates a rate whose burst is the number of tokens in one second.
    pub(in crate::admission) fn per_second(per_second: usize) -> Self {
        Self { per_second, burst: per_second }
    }

    fn capacity(self) -> u64 {
        (self.burst as u64).saturating_mul(MILLIS_PER_TOKEN)
    }
}

/// A token bucket.
#[derive(Debug)]
pub(in crate::admission) struct TokenBucket {
    /// The tokens in the bucket, in thousandths.
    tokens: u64,
    /// The time of the last refill.
    filled_at: Instant,
}

/// The number of thousandths in a token.
const MILLIS_PER_TOKEN: u64 = 1000;

impl TokenBucket {
    /// Creates a full bucket.
    pub(in crate::admission) fn full(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.capacity(), filled_at: now }
    }

    /// Removes a token. Returns `false` if the bucket has none.
    pub(in crate::admission) fn try_take(&mut self, rate: Rate, now: Instant) -> bool {
        self.fill(rate, now);
        let enough = self.tokens >= MILLIS_PER_TOKEN;
        if enough {
            self.tokens -= MILLIS_PER_TOKEN;
        }
        enough
    }

    /// Returns whether the bucket is full. A full bucket need not be remembered.
    pub(in crate::admission) fn is_full(&mut self, rate: Rate, now: Instant) -> bool {
        self.fill(rate, now);
        self.tokens >= rate.capacity()
    }

    /// Returns the time until the bucket has a token.
    pub(in crate::admission) fn delay(&self, rate: Rate) -> Duration {
        let missing = MILLIS_PER_TOKEN.saturating_sub(self.tokens);
        // Thousandths of a token in a millisecond equal tokens in a second.
        Duration::from_millis(missing.div_ceil((rate.per_second as u64).max(1)))
    }

    fn fill(&mut self, rate: Rate, now: Instant) {
        let since = now.saturating_duration_since(self.filled_at);
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let more = millis.saturating_mul(rate.per_second as u64);
        if more > 0 {
            self.tokens = self.tokens.saturating_add(more).min(rate.capacity());
            self.filled_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allows_a_burst_and_then_the_rate() {
        let (start, rate) = (Instant::now(), Rate::per_second(200));
        let mut bucket = TokenBucket::full(rate, start);
        assert!((0..200).all(|_| bucket.try_take(rate, start)));
        assert!(!bucket.try_take(rate, start));
        assert_eq!(bucket.delay(rate), Duration::from_millis(5));
        let later = start + Duration::from_millis(10);
        assert!((0..2).all(|_| bucket.try_take(rate, later)));
        assert!(!bucket.try_take(rate, later));
        assert!(!bucket.is_full(rate, later));
        let much_later = start + Duration::from_secs(60);
        assert!(bucket.is_full(rate, much_later));
        assert!((0..200).all(|_| bucket.try_take(rate, much_later)));
        assert!(!bucket.try_take(rate, much_later));
    }
}
