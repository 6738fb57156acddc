//! The clocks of the service, and durations in messages.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Returns microseconds since 1970; 0 if the clock is before that.
pub(in crate::service) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Returns microseconds since boot, independent of clock changes; 0 if the kernel does not report
/// them.
pub(in crate::service) fn since_boot() -> u64 {
    let now = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// Converts an instant from microseconds since boot to microseconds since 1970.
#[must_use]
pub fn wall_clock_of(instant: u64) -> u64 {
    let (boot, wall) = (since_boot(), now());
    wall.saturating_add(instant).saturating_sub(boot)
}

/// Formats a duration for a message: `0.3 s`, `75 s`.
pub(in crate::service) fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(10) {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} s", time.as_secs())
    }
}
