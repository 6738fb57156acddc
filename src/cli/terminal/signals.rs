//! Signals: those that interrupt a command, and the end of a child process.

use std::fs;
use std::future::poll_fn;
use std::io;
use std::task::Poll;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::signal::unix::{self, SignalKind};

use crate::cli::error::Error;
use crate::cli::format::tty;

/// The signals that end a program, or whose meaning it defines. Signals for errors of the program
/// itself, such as SIGSEGV, are not caught.
const WATCHED: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// A stream of caught signals.
#[derive(Debug)]
pub(crate) struct Signals {
    watched: Vec<(Signal, unix::Signal)>,
    /// Catches SIGCHLD. If a parent process passed it on as ignored, the kernel would discard the
    /// exit status of a child.
    child: unix::Signal,
}

impl Signals {
    /// Starts to catch signals. An ignored signal stays ignored: nohup(1) and shells that start a
    /// command in the background ignore signals for its children too, and these would not inherit a
    /// handler.
    pub(crate) fn catch() -> Result<Self, Error> {
        let ignored = ignored();
        let watched = WATCHED
            .into_iter()
            .filter(|signal| ignored & bit(*signal) == 0)
            .map(|signal| Ok((signal, unix::signal(SignalKind::from_raw(signal as i32))?)))
            .collect::<io::Result<_>>();
        let failed = |error| Error::system("catch signals", error);
        let child = unix::signal(SignalKind::child()).map_err(failed)?;
        Ok(Self { watched: watched.map_err(failed)?, child })
    }

    /// Returns the next signal, or `None` when a child has ended.
    pub(crate) async fn next_or_child(&mut self) -> Option<Signal> {
        let Self { watched, child } = self;
        tokio::select! {
            signal = next(watched) => Some(signal),
            _ = child.recv() => None,
        }
    }

    /// Returns the next signal.
    pub(crate) async fn next(&mut self) -> Signal {
        next(&mut self.watched).await
    }
}

async fn next(watched: &mut [(Signal, unix::Signal)]) -> Signal {
    poll_fn(|context| {
        for (signal, stream) in &mut *watched {
            if stream.poll_recv(context).is_ready() {
                return Poll::Ready(*signal);
            }
        }
        Poll::Pending
    })
    .await
}

/// Turns a write beyond the limit on file sizes (SIGXFSZ) into an error, until the process ends.
/// Programs that it starts have the default action of the signal.
pub(crate) fn catch_file_size() -> Result<Option<unix::Signal>, Error> {
    if ignored() & bit(Signal::SIGXFSZ) != 0 {
        return Ok(None);
    }
    let caught = unix::signal(SignalKind::from_raw(Signal::SIGXFSZ as i32));
    caught.map(Some).map_err(|error| Error::system("catch signals", error))
}

/// Whether the terminal sends this signal to its foreground process group, and this process is in
/// that group. Its children have then received the signal, too.
pub(crate) fn is_sent_to_group(signal: Signal) -> bool {
    matches!(signal, Signal::SIGINT | Signal::SIGQUIT)
        && fs::File::open("/dev/tty")
            .is_ok_and(|terminal| tty::is_foreground(terminal) == Some(true))
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as i32 - 1)
}

/// Returns the set of ignored signals; the empty set if `/proc` cannot be read.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    parse_ignored(&status).unwrap_or_default()
}

fn parse_ignored(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// Terminates this process by a signal, so that its parent sees it: a shell stops a script at
/// Ctrl-C only if the signal terminated the command, and a service manager distinguishes a signal
/// from an exit code. Returns if the signal does not terminate a process.
pub(crate) fn terminate_by(signal: i32) {
    let Ok(signal) = Signal::try_from(signal) else { return };
    // If a core dump is wanted, the command has written it.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // SIGKILL always has its default action.
    if signal != Signal::SIGKILL && reset(signal).is_err() {
        return;
    }
    let mut set = SigSet::empty();
    set.add(signal);
    let _ = set.thread_unblock();
    // In this thread, so that the function does not return before the signal is delivered.
    let _ = raise(signal);
}

/// Resets a signal to its default action.
#[allow(unsafe_code)]
fn reset(signal: Signal) -> nix::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of this process, and no code relies on the handler
    // that it replaces, since the process ends now.
    unsafe { sigaction(signal, &default) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_parsed() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001003\n";
        let ignored = parse_ignored(status).unwrap();
        assert!(ignored & bit(Signal::SIGHUP) != 0 && ignored & bit(Signal::SIGINT) != 0);
        assert_eq!(ignored & bit(Signal::SIGTERM), 0);
        assert_eq!(parse_ignored("Name:\tx\n"), None);
    }
}
