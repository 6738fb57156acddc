//! Ends a service that was started on demand once it is idle.

use std::time::{Duration, Instant};

use tokio::time::sleep;

/// How often the service is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A timer that expires once the service has been idle for a time.
pub(super) struct IdleTimer {
    timeout: Option<Duration>,
    idle_since: Option<Instant>,
}

impl IdleTimer {
    /// Returns a timer, which never expires without a timeout.
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        Self { timeout, idle_since: None }
    }

    /// Returns once `is_idle` has been true for the timeout. May be canceled and called again.
    pub(super) async fn expired(&mut self, is_idle: impl Fn() -> bool) {
        let Some(timeout) = self.timeout else { return std::future::pending().await };
        loop {
            if is_idle() {
                let since = *self.idle_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= timeout {
                    return;
                }
            } else {
                self.idle_since = None;
            }
            sleep(CHECK_INTERVAL.min(timeout)).await;
        }
    }
}
