//! Throttle for the lifelines that the service sends to a user.
//!
//! dbus-daemon stops reading from a connection that has sent 64 descriptors which their receivers
//! have not read yet (`max_incoming_unix_fds`). The throttle keeps a single user from causing that.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::service::Error;

/// The number of lifelines that one user may receive within [`WINDOW`].
const PER_USER: usize = 32;
/// The length of the sliding window.
const WINDOW: Duration = Duration::from_secs(10);

/// The times at which each user received its recent lifelines.
#[derive(Debug, Default)]
pub(super) struct LifelineThrottle(HashMap<u32, VecDeque<Instant>>);

impl LifelineThrottle {
    /// Counts a lifeline that is about to be sent to a user.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] if this user has received too many within the window.
    pub(super) fn count(&mut self, uid: u32, now: Instant) -> Result<(), Error> {
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < WINDOW;
        self.0.retain(|_, sent| sent.back().is_some_and(is_recent));
        let sent = self.0.entry(uid).or_default();
        while sent.front().is_some_and(|at| !is_recent(at)) {
            sent.pop_front();
        }
        if sent.len() >= PER_USER {
            let whose = format!("in {} s for uid {uid}", WINDOW.as_secs());
            return Err(Error::Limit { what: "lifelines", limit: PER_USER, whose });
        }
        sent.push_back(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_receives_a_bounded_number_within_a_window() {
        let (mut throttle, start) = (LifelineThrottle::default(), Instant::now());
        let later = start + WINDOW / 2;
        for n in 0..PER_USER {
            throttle.count(1, if n < 3 { start } else { later }).unwrap();
        }
        assert!(throttle.count(1, later).is_err());
        assert!(throttle.count(2, later).is_ok());
        let next = start + WINDOW;
        assert!((0..3).all(|_| throttle.count(1, next).is_ok()));
        assert!(throttle.count(1, next).is_err());
        throttle.count(3, next + WINDOW * 2).unwrap();
        assert_eq!(throttle.0.len(), 1);
    }
}
