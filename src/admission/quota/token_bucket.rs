//! How fast something may happen.
//!
//! A token bucket: it holds as many tokens as may be used at once, and fills up at a steady rate. It
//! reads no clock; the time is passed in.

use std::time::{Duration, Instant};

/// A rate, and how much of it may be used at once.
#[derive(Debug, Clone, Copy)]
pub(in crate::admission) struct Rate {
    /// Tokens that are added in a second.
    pub(in crate::admission) per_second: usize,
    /// The most tokens that there are.
    pub(in crate::admission) burst: usize,
}

impl Rate {
    /// As much at once as in a second.
    pub(in crate::admission) fn per_second(per_second: usize) -> Self {
        Self { per_second, burst: per_second }
    }

    fn capacity(self) -> u64 {
        (self.burst as u64).saturating_mul(MILLIS_PER_TOKEN)
    }
}

/// A bucket of tokens.
#[derive(Debug)]
pub(in crate::admission) struct TokenBucket {
    /// What is tokens, in thousandths of a token.
    tokens: u64,
    /// Up to when it was filled.
    filled_at: Instant,
}

/// Thousandths of a token in a token.
const MILLIS_PER_TOKEN: u64 = 1000;

impl TokenBucket {
    /// A full bucket.
    pub(in crate::admission) fn full(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.capacity(), filled_at: now }
    }

    /// Takes a token. Returns `false` if none is tokens.
    pub(in crate::admission) fn try_take(&mut self, rate: Rate, now: Instant) -> bool {
        self.fill(rate, now);
        let enough = self.tokens >= MILLIS_PER_TOKEN;
        if enough {
            self.tokens -= MILLIS_PER_TOKEN;
        }
        enough
    }

    /// Whether it is full, and so need not be remembered.
    pub(in crate::admission) fn is_full(&mut self, rate: Rate, now: Instant) -> bool {
        self.fill(rate, now);
        self.tokens >= rate.capacity()
    }

    /// How long it takes until there is a token.
    pub(in crate::admission) fn delay(&self, rate: Rate) -> Duration {
        let missing = MILLIS_PER_TOKEN.saturating_sub(self.tokens);
        // Thousandths of a token in each millisecond are tokens in each second.
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
