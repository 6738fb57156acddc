//! How fast one user may call.
//!
//! A bucket of tokens for each user: it holds as many as he may use in a second, and fills up
//! again at that rate. What is refused for it was not begun. Knows no clock; the time comes in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The buckets of all users who called lately.
#[derive(Debug, Default)]
pub(super) struct Rates(HashMap<u32, Bucket>);

#[derive(Debug)]
struct Bucket {
    /// What is left, in thousandths of a call.
    left: u64,
    /// Up to when it was filled.
    at: Instant,
}

/// Thousandths of a call in a call.
const CALL: u64 = 1000;

impl Rates {
    /// Takes a token for one call. `false`: there is none left.
    pub(super) fn take(&mut self, uid: u32, per_second: usize, now: Instant) -> bool {
        let full = per_second as u64 * CALL;
        // A bucket that would be full by now says nothing, so it need not be kept.
        self.0.retain(|_, bucket| now.duration_since(bucket.at) < Duration::from_secs(1));
        let bucket = self.0.entry(uid).or_insert(Bucket { left: full, at: now });
        let since = now.duration_since(bucket.at);
        // Thousandths of a call for each millisecond are calls for each second.
        let more =
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_mul(per_second as u64);
        if more > 0 {
            bucket.left = bucket.left.saturating_add(more).min(full);
            bucket.at = now;
        }
        let enough = bucket.left >= CALL;
        if enough {
            bucket.left -= CALL;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate_and_users_apart() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        assert!((0..200).all(|_| rates.take(1, 200, start)));
        assert!(!rates.take(1, 200, start));
        assert!(rates.take(2, 200, start), "another user has his own");
        let later = start + Duration::from_millis(10);
        assert!((0..2).all(|_| rates.take(1, 200, later)));
        assert!(!rates.take(1, 200, later));
        let much_later = start + Duration::from_secs(60);
        assert!((0..200).all(|_| rates.take(1, 200, much_later)));
        assert_eq!(rates.0.len(), 1, "who is quiet is forgotten");
    }
}
