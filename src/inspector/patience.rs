//! How long an answer of the inspector is waited for.

use std::time::Duration;

/// For a refusal by a foreign holder: it is better without a name than late.
#[must_use]
pub fn refusal() -> Duration {
    or_as_told(Duration::from_millis(300))
}

/// For what a refusal says besides, whose holder is known: who has the disk open.
#[must_use]
pub fn remark() -> Duration {
    or_as_told(Duration::from_millis(50))
}

/// For a question whose answer is what the caller asked for.
#[must_use]
pub fn question() -> Duration {
    or_as_told(Duration::from_secs(2))
}

/// For what a caller sees, without which a name that it sends is refused. It is long, since a name
/// that is refused may keep a virtual machine from starting, and only callers of one user wait for each
/// other.
#[must_use]
pub fn view() -> Duration {
    Duration::from_secs(5)
}

/// In a build for tests, `$VMLOCKD_INSPECTOR_MS` replaces all of these, so that a test of what is
/// named does not depend on the load of the machine.
#[cfg(debug_assertions)]
fn or_as_told(usual: Duration) -> Duration {
    let told = std::env::var("VMLOCKD_INSPECTOR_MS").ok().and_then(|text| text.parse().ok());
    told.map_or(usual, Duration::from_millis)
}

#[cfg(not(debug_assertions))]
fn or_as_told(usual: Duration) -> Duration {
    usual
}
