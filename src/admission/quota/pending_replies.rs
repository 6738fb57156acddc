//! The service's own calls to which a reply is pending.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a reply is pending. The longest that the service waits for one is a dialog of polkit's.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Calls that are not answered. A bus may drop replies, so no call stays here for ever.
#[derive(Debug, Default)]
pub(in crate::admission) struct PendingReplies(BTreeMap<u32, Instant>);

impl PendingReplies {
    /// Enters a call that is sent now.
    pub(in crate::admission) fn insert(&mut self, serial: u32, now: Instant) {
        // Serial numbers grow.
        while let Some(first) = self.0.first_entry()
            && now.saturating_duration_since(*first.get()) > TIMEOUT
        {
            first.remove();
        }
        self.0.insert(serial, now);
    }

    /// Whether this is the serial number of a call that is not answered; it is answered then.
    pub(in crate::admission) fn remove(&mut self, serial: u32) -> bool {
        self.0.remove(&serial).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_whose_reply_was_lost_are_forgotten() {
        let (mut pending, start) = (PendingReplies::default(), Instant::now());
        pending.insert(1, start);
        pending.insert(2, start);
        assert!(pending.remove(2));
        assert!(!pending.remove(2));
        pending.insert(3, start + TIMEOUT + Duration::from_secs(1));
        assert!(!pending.remove(1));
        assert!(pending.remove(3));
    }
}
