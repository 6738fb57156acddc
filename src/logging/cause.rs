//! The cause of a failure, which is a field of its own and also the end of the message.
//!
//! `journalctl` prints messages without fields, so a message has to contain the cause.

use std::fmt::{self, Write as _};

use tracing::Event;
use tracing::field::{Field, Visit};

/// Whether a field has the cause of what the message says.
pub(super) fn is_cause(name: &str) -> bool {
    matches!(name, "error" | "failure")
}

/// What goes behind a message: a colon and the cause, or nothing.
#[derive(Debug, Default)]
pub(super) struct Cause(String);

impl Cause {
    /// Returns the cause of an event.
    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut cause = Self::default();
        event.record(&mut cause);
        cause
    }
}

impl Visit for Cause {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if is_cause(field.name()) {
            // Writing to a String has no way to fail.
            let _ = write!(self.0, ": {value:?}");
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
