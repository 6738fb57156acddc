//! The service's own calls to which a reply is pending.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a reply is accepted. The longest call of the service waits for a dialog of polkit.
const TIMEOUT: Duration = Duration::from_secs(600);

/// The calls that are not answered yet. Each call is removed after [`TIMEOUT`], since a bus may
/// drop its reply.
#[derive(Debug, Default)]
pub(in crate::admission) struct PendingReplies(BTreeMap<u32, Instant>);

impl PendingReplies {
    /// Adds a call that is being sent.
    pub(in crate::admission) fn insert(&mut self, serial: u32, now: Instant) {
        // Serial numbers grow, so the first entry is the oldest.
        while let Some(first) = self.0.first_entry()
            && now.saturating_duration_since(*first.get()) > TIMEOUT
        {
            first.remove();
        }
        self.0.insert(serial, now);
    }

    /// Removes a call. Returns whether its reply was pending.
    pub(in crate::admission) fn remove(&mut self, serial: u32) -> bool {
        self.0.remove(&serial).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_whose_reply_was_lost_time_out() {
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
