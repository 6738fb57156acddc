//! The option `--wait`, and the time that is left of a wait.

use std::time::{Duration, Instant};

use clap::Args;

use crate::cli::format::duration::{TimeLimit, format_elapsed};
use crate::client::Options;

/// The option `--wait`.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct WaitOption {
    /// Wait until all disks can be locked, for DURATION ('90s', '2h 30min') or without limit
    #[arg(
        long = "wait",
        value_name = "DURATION",
        value_parser = TimeLimit::parse,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "infinity"
    )]
    limit: Option<TimeLimit>,
}

impl WaitOption {
    /// Returns the limit of the wait; `None` if the command does not wait.
    pub(crate) fn limit(self) -> Option<TimeLimit> {
        self.limit.filter(|limit| *limit != TimeLimit::For(Duration::ZERO))
    }

    /// Whether the command waits for disks that are locked by other owners.
    pub(crate) fn is_wanted(self) -> bool {
        self.limit().is_some()
    }
}

/// A wait that has begun, with its limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitTimer {
    started: Instant,
    limit: TimeLimit,
}

impl WaitTimer {
    /// Starts a wait.
    pub(crate) fn start(limit: TimeLimit) -> Self {
        Self { started: Instant::now(), limit }
    }

    /// Returns the time that is left; `None` if the wait has no limit.
    pub(crate) fn remaining(self) -> Option<Duration> {
        match self.limit {
            TimeLimit::For(limit) => Some(limit.saturating_sub(self.started.elapsed())),
            TimeLimit::Unlimited => None,
        }
    }

    /// Whether no time is left.
    pub(crate) fn is_over(self) -> bool {
        self.remaining() == Some(Duration::ZERO)
    }

    /// Returns the options of a request that waits for the time that is left.
    pub(crate) fn options(self) -> Options<'static> {
        let micros = |left: Duration| u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
        Options::from([match self.remaining() {
            Some(left) => ("timeout-usec", micros(left).into()),
            None => ("no-timeout", true.into()),
        }])
    }

    /// Formats the elapsed time for the end of a status line.
    pub(crate) fn elapsed(self) -> String {
        format!(" — {}", format_elapsed(self.started.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use zbus::Variant;

    use super::*;

    #[test]
    fn a_request_has_the_time_that_is_left() {
        let timeout = |timer: WaitTimer| match timer.options().get("timeout-usec") {
            Some(Variant::U64(micros)) => *micros,
            other => panic!("{other:?}"),
        };
        let unlimited = WaitTimer::start(TimeLimit::Unlimited).options();
        assert_eq!(unlimited, Options::from([("no-timeout", true.into())]));
        let hour = WaitTimer::start(TimeLimit::For(Duration::from_secs(3600)));
        assert!((3_500_000_000..=3_600_000_000).contains(&timeout(hour)) && !hour.is_over());
        let none = WaitTimer::start(TimeLimit::For(Duration::ZERO));
        assert!(none.is_over() && timeout(none) == 0);
        assert_eq!(WaitOption { limit: Some(none.limit) }.limit(), None);
    }
}
