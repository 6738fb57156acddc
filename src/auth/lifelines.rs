//! How many lifelines a user is handed in a short time.
//!
//! dbus-daemon stops reading a connection from which 64 descriptors came that their receivers have not
//! read (`max_incoming_unix_fds`). So one user does not get that many at once.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::service::Error;

/// How many lifelines one user is handed in [`WINDOW`].
const PER_USER: usize = 32;
/// The time in which they are counted.
const WINDOW: Duration = Duration::from_secs(10);

/// When lifelines were handed to which user.
#[derive(Debug, Default)]
pub(super) struct Lifelines(HashMap<u32, VecDeque<Instant>>);

impl Lifelines {
    /// Counts one more.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] if this user was handed too many.
    pub(super) fn count(&mut self, uid: u32, now: Instant) -> Result<(), Error> {
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < WINDOW;
        self.0.retain(|_, handed| handed.back().is_some_and(is_recent));
        let handed = self.0.entry(uid).or_default();
        while handed.front().is_some_and(|at| !is_recent(at)) {
            handed.pop_front();
        }
        if handed.len() >= PER_USER {
            let whose = format!("in {} s for uid {uid}", WINDOW.as_secs());
            return Err(Error::Limit { what: "lifelines", limit: PER_USER, whose });
        }
        handed.push_back(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_gets_so_many_in_a_window() {
        let (mut lifelines, start) = (Lifelines::default(), Instant::now());
        let later = start + WINDOW / 2;
        for n in 0..PER_USER {
            lifelines.count(1, if n < 3 { start } else { later }).unwrap();
        }
        assert!(lifelines.count(1, later).is_err());
        assert!(lifelines.count(2, later).is_ok());
        let next = start + WINDOW;
        assert!((0..3).all(|_| lifelines.count(1, next).is_ok()));
        assert!(lifelines.count(1, next).is_err());
        lifelines.count(3, next + WINDOW * 2).unwrap();
        assert_eq!(lifelines.0.len(), 1);
    }
}
