//! The signals of the service, and the interval of systemd's watchdog.

use std::time::Duration;

use nix::sys::signal::kill;
use nix::unistd::getpid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, interval, sleep};

use super::Error;
use crate::{notify, reexec};

/// The signal handlers, and the interval at which to notify systemd's watchdog.
pub(super) struct Signals {
    pub(super) terminate: Signal,
    pub(super) interrupt: Signal,
    pub(super) hang_up: Signal,
    pub(super) user1: Signal,
    pub(super) watchdog: Option<Interval>,
}

impl Signals {
    /// Installs the handlers, and unblocks the signals. Must be called before anything else: until then
    /// each signal would end the process.
    pub(super) fn install() -> Result<Self, Error> {
        let install = |kind| {
            signal(kind).map_err(|cause| Error::System { doing: "install a signal handler", cause })
        };
        let signals = Self {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
            hang_up: install(SignalKind::hangup())?,
            user1: install(SignalKind::user_defined1())?,
            watchdog: notify::watchdog_interval().map(interval),
        };
        reexec::unblock_signals()
            .map_err(|cause| Error::System { doing: "unblock signals", cause })?;
        Ok(signals)
    }

    /// Blocks all signals for the program that replaces this one, and raises those again that have
    /// arrived but were not handled yet.
    pub(super) async fn block_and_requeue(&mut self) -> std::io::Result<()> {
        reexec::block_signals()?;
        // Lets the event loop run once, which delivers the signals that have arrived.
        sleep(Duration::from_millis(1)).await;
        let all = [&mut self.terminate, &mut self.interrupt, &mut self.hang_up, &mut self.user1];
        for (signal, kind) in all.into_iter().zip(reexec::SIGNALS) {
            let has_arrived = tokio::select! {
                biased;
                _ = signal.recv() => true,
                () = std::future::ready(()) => false,
            };
            if has_arrived {
                kill(getpid(), kind)?;
            }
        }
        Ok(())
    }
}

/// Waits for the next tick of an interval; forever if there is none.
pub(super) async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}
