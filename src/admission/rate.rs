//! How fast something may happen.
//!
//! A token bucket: it holds as many tokens as may be used at once, and fills up at a steady rate. It
//! reads no clock; the time is passed in.

use std::time::{Duration, Instant};

/// A rate, and how much of it may be used at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    /// Tokens that are added in a second.
    pub(super) per_second: usize,
    /// The most tokens that there are.
    pub(super) burst: usize,
}

impl Rate {
    /// As much at once as in a second.
    pub(super) fn per_second(per_second: usize) -> Self {
        Self { per_second, burst: per_second }
    }

    fn capacity(self) -> u64 {
        (self.burst as u64).saturating_mul(TOKEN)
    }
}

/// A bucket of tokens.
#[derive(Debug)]
pub(super) struct Bucket {
    /// What is left, in thousandths of a token.
    left: u64,
    /// Up to when it was filled.
    at: Instant,
}

/// Thousandths of a token in a token.
const TOKEN: u64 = 1000;

impl Bucket {
    /// A full bucket.
    pub(super) fn full(rate: Rate, now: Instant) -> Self {
        Self { left: rate.capacity(), at: now }
    }

    /// Takes a token. Returns `false` if none is left.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        self.fill(rate, now);
        let enough = self.left >= TOKEN;
        if enough {
            self.left -= TOKEN;
        }
        enough
    }

    /// Whether it is full, and so need not be remembered.
    pub(super) fn is_full(&mut self, rate: Rate, now: Instant) -> bool {
        self.fill(rate, now);
        self.left >= rate.capacity()
    }

    /// How long it takes until there is a token.
    pub(super) fn delay(&self, rate: Rate) -> Duration {
        let missing = TOKEN.saturating_sub(self.left);
        // Thousandths of a token in each millisecond are tokens in each second.
        Duration::from_millis(missing.div_ceil((rate.per_second as u64).max(1)))
    }

    fn fill(&mut self, rate: Rate, now: Instant) {
        let since = now.saturating_duration_since(self.at);
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let more = millis.saturating_mul(rate.per_second as u64);
        if more > 0 {
            self.left = self.left.saturating_add(more).min(rate.capacity());
            self.at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allows_a_burst_and_then_the_rate() {
        let (start, rate) = (Instant::now(), Rate::per_second(200));
        let mut bucket = Bucket::full(rate, start);
        assert!((0..200).all(|_| bucket.take(rate, start)));
        assert!(!bucket.take(rate, start));
        assert_eq!(bucket.delay(rate), Duration::from_millis(5));
        let later = start + Duration::from_millis(10);
        assert!((0..2).all(|_| bucket.take(rate, later)));
        assert!(!bucket.take(rate, later));
        assert!(!bucket.is_full(rate, later));
        let much_later = start + Duration::from_secs(60);
        assert!(bucket.is_full(rate, much_later));
        assert!((0..200).all(|_| bucket.take(rate, much_later)));
        assert!(!bucket.take(rate, much_later));
    }
}
