//! Notifications to the service manager (`sd_notify(3)`). Without `$NOTIFY_SOCKET` they do nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// Notifies that the service is ready.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// Notifies that the configuration is being reloaded. [`ready`] must follow.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot read the monotonic clock"),
    }
}

/// Notifies that the service is stopping.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Notifies the watchdog that the service is alive.
pub fn watchdog_alive() {
    send(&[NotifyState::Watchdog]);
}

/// Returns the interval at which to notify the watchdog: half of its timeout. `None` without a watchdog.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|timeout| timeout / 2)
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
