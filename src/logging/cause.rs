//! The cause of a failure: a field, which is also appended to the message, since `journalctl` prints
//! messages without fields.

use std::fmt::{self, Write as _};

use tracing::Event;
use tracing::field::{Field, Visit};

/// Whether a field contains the cause of a failure.
pub(super) fn is_cause(name: &str) -> bool {
    matches!(name, "error" | "failure")
}

/// The end of a message: a colon and the cause, or nothing.
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
