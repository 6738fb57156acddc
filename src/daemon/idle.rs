//! Ending when nobody needs the service: for one that was started on demand.

use std::time::{Duration, Instant};

use tokio::time::sleep;

/// How often is looked.
const LOOK: Duration = Duration::from_secs(1);

/// Since when nobody has needed the service.
pub(super) struct Idle {
    limit: Option<Duration>,
    since: Option<Instant>,
}

impl Idle {
    /// Without a limit it never ends for that.
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self { limit, since: None }
    }

    /// Returns once nobody has needed the service for as long as is allowed.
    pub(super) async fn is_over(&mut self, is_idle: impl Fn() -> bool) {
        let Some(limit) = self.limit else { return std::future::pending().await };
        loop {
            if is_idle() {
                let since = *self.since.get_or_insert_with(Instant::now);
                if since.elapsed() >= limit {
                    return;
                }
            } else {
                self.since = None;
            }
            sleep(LOOK.min(limit)).await;
        }
    }
}
