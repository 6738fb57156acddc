//! What systemd is told (`sd_notify(3)`); nothing where it did not ask.

use std::time::Duration;

use sd_notify::NotifyState;

/// The service can be used.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// The configuration is being loaded again. To be followed by [`ready`].
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot read the monotonic clock"),
    }
}

/// The service ends.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// The service lives.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// How often systemd wants to hear that the service lives: twice within its patience.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|patience| patience / 2)
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
