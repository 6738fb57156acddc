//! The service's own calls to which a reply is expected.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a reply is expected. The longest that the service waits for one is a dialog of polkit's.
const LONGEST: Duration = Duration::from_secs(600);

/// Calls that are not answered. A bus may drop replies, so no call stays here for ever.
#[derive(Debug, Default)]
pub(super) struct Expected(BTreeMap<u32, Instant>);

impl Expected {
    /// Enters a call that is sent now.
    pub(super) fn insert(&mut self, serial: u32, now: Instant) {
        // Serial numbers grow.
        while let Some(first) = self.0.first_entry()
            && now.saturating_duration_since(*first.get()) > LONGEST
        {
            first.remove();
        }
        self.0.insert(serial, now);
    }

    /// Whether this is the serial number of a call that is not answered; it is answered then.
    pub(super) fn remove(&mut self, serial: u32) -> bool {
        self.0.remove(&serial).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_whose_reply_was_lost_are_forgotten() {
        let (mut expected, start) = (Expected::default(), Instant::now());
        expected.insert(1, start);
        expected.insert(2, start);
        assert!(expected.remove(2));
        assert!(!expected.remove(2));
        expected.insert(3, start + LONGEST + Duration::from_secs(1));
        assert!(!expected.remove(1));
        assert!(expected.remove(3));
    }
}
