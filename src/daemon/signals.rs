//! What the service is told from outside: signals, and systemd's watchdog's clock.

use std::time::Duration;

use nix::sys::signal::kill;
use nix::unistd::getpid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, interval, sleep};

use super::Error;
use crate::{notify, reexec};

/// The signals that the service knows, and a clock for systemd's watchdog.
pub(super) struct Signals {
    pub(super) terminate: Signal,
    pub(super) interrupt: Signal,
    pub(super) hang_up: Signal,
    pub(super) user1: Signal,
    pub(super) watchdog: Option<Interval>,
}

impl Signals {
    /// Installed before anything else can be asked of the service: until then each would kill it.
    pub(super) fn install() -> Result<Self, Error> {
        let install = |kind| {
            signal(kind).map_err(|cause| Error::System { doing: "install a signal handler", cause })
        };
        let signals = Self {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
            hang_up: install(SignalKind::hangup())?,
            user1: install(SignalKind::user_defined1())?,
            watchdog: notify::watchdog().map(interval),
        };
        reexec::let_signals_through()
            .map_err(|cause| Error::System { doing: "unblock signals", cause })?;
        Ok(signals)
    }

    /// Leaves all signals to the program that replaces this one, those too that have come by now
    /// and that nobody has seen to: a second one, or one to end.
    pub(super) async fn leave(&mut self) -> std::io::Result<()> {
        reexec::hold_signals()?;
        // For a turn of the event loop, which is when those that have come are noticed.
        sleep(Duration::from_millis(1)).await;
        let all = [&mut self.terminate, &mut self.interrupt, &mut self.hang_up, &mut self.user1];
        for (signal, kind) in all.into_iter().zip(reexec::SIGNALS) {
            let come = tokio::select! {
                biased;
                _ = signal.recv() => true,
                () = std::future::ready(()) => false,
            };
            if come {
                kill(getpid(), kind)?;
            }
        }
        Ok(())
    }
}

/// Returns at the next beat of a clock, never where there is none.
pub(super) async fn tick(clock: &mut Option<Interval>) {
    match clock {
        Some(clock) => drop(clock.tick().await),
        None => std::future::pending().await,
    }
}
