//! The signals that end or inform a command that waits.

use std::fs;
use std::future::poll_fn;
use std::io;
use std::task::Poll;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use nix::unistd::{getpgrp, tcgetpgrp};
use tokio::signal::unix::{self, SignalKind};

use crate::cli::error::Error;

/// What ends or informs a program; what the kernel does by itself is not among them.
const WATCHED: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Catches signals instead of dying of them.
#[derive(Debug)]
pub(crate) struct Signals {
    watched: Vec<(Signal, unix::Signal)>,
    /// Where it is ignored, as some parents pass it on, the kernel forgets how a child ended.
    child: unix::Signal,
}

impl Signals {
    /// Begins to catch. What is ignored stays so: nohup and shells that put a command into the
    /// background mean its children too, and those would not inherit it from a handler.
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

    /// The next signal. Never returns where there is none to come.
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

/// Makes a write beyond the limit on file sizes an error instead of the end of the program, for as
/// long as the process lives. The programs that it starts find the signal as it was.
pub(crate) fn catch_file_size() -> Result<Option<unix::Signal>, Error> {
    if ignored() & bit(Signal::SIGXFSZ) != 0 {
        return Ok(None);
    }
    let caught = unix::signal(SignalKind::from_raw(Signal::SIGXFSZ as i32));
    caught.map(Some).map_err(|error| Error::system("catch signals", error))
}

/// Whether the terminal sends this signal to its whole foreground process group, and this process is in
/// it: then its children have received the signal themselves.
pub(crate) fn is_for_the_group(signal: Signal) -> bool {
    matches!(signal, Signal::SIGINT | Signal::SIGQUIT)
        && fs::File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(terminal) == Ok(getpgrp()))
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as i32 - 1)
}

/// The signals that are ignored; none where `/proc` does not tell.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    parse_ignored(&status).unwrap_or_default()
}

fn parse_ignored(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// Ends this process by a signal, for the parent to see: a shell stops a script at Ctrl-C only if the
/// command died of it, and a service manager tells a signal from an exit status. Returns if this
/// signal does not end a process.
pub(crate) fn die_by(signal: i32) {
    let Ok(signal) = Signal::try_from(signal) else { return };
    // The command has left the core dump, if one was to be.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    // SIGKILL always has its default effect.
    if signal != Signal::SIGKILL && reset(signal).is_err() {
        return;
    }
    let mut set = SigSet::empty();
    set.add(signal);
    let _ = set.thread_unblock();
    // Of this thread, so that it does not return before the signal is delivered.
    let _ = raise(signal);
}

/// Gives a signal its default effect again.
#[allow(unsafe_code)]
fn reset(signal: Signal) -> nix::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of this process, and nothing here relies on the handler
    // that it replaces: the process ends now.
    unsafe { sigaction(signal, &default) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001003\n";
        let ignored = parse_ignored(status).unwrap();
        assert!(ignored & bit(Signal::SIGHUP) != 0 && ignored & bit(Signal::SIGINT) != 0);
        assert_eq!(ignored & bit(Signal::SIGTERM), 0);
        assert_eq!(parse_ignored("Name:\tx\n"), None);
    }
}
