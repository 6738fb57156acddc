//! The timeouts of queries.

use std::time::Duration;

/// The timeout for a refusal by a foreign holder: it is better without a name than late.
#[must_use]
pub fn refusal() -> Duration {
    unless_overridden(Duration::from_millis(300))
}

/// The timeout for additional information in a refusal whose holder is known: the processes that
/// have the disk open.
#[must_use]
pub fn remark() -> Duration {
    unless_overridden(Duration::from_millis(50))
}

/// The timeout for a query whose answer the caller has requested.
#[must_use]
pub fn query() -> Duration {
    unless_overridden(Duration::from_secs(2))
}

/// The timeout for resolving names as a caller does. Without an answer, a name that the caller
/// sends is refused. The timeout is long, since this may keep a VM from starting, and only callers
/// of one user wait for each other.
#[must_use]
pub fn view() -> Duration {
    Duration::from_secs(5)
}

/// In a debug build, `$VMLOCKD_INSPECTOR_MS` overrides all of these timeouts, so that a test of
/// names in refusals does not depend on the load of the host.
#[cfg(debug_assertions)]
fn unless_overridden(default: Duration) -> Duration {
    let override_value =
        std::env::var("VMLOCKD_INSPECTOR_MS").ok().and_then(|text| text.parse().ok());
    override_value.map_or(default, Duration::from_millis)
}

#[cfg(not(debug_assertions))]
fn unless_overridden(default: Duration) -> Duration {
    default
}
