//! Standard output and standard error.

use std::future::pending;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::oneshot;

use crate::cli::error::Error;

/// How a command prints its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As text, for people.
    Text,
    /// As JSON, for programs.
    Json,
}

/// Whether `--quiet` was given.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Has [`inform`], [`remark`] and [`report`] print nothing from now on.
pub(crate) fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Whether informational output is left out.
pub(crate) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Prints a text, which brings its own line ends, at once.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    written(io::stdout().lock().write_all(text.as_bytes()))
}

/// Flushes standard output after this was written. Returns the first error.
pub(crate) fn written(result: io::Result<()>) -> Result<(), Error> {
    match result.and_then(|()| io::stdout().flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::ReaderGone),
        Err(error) => Err(Error::system("write to standard output", error)),
    }
}

/// Returns once standard output is a pipe whose other end is closed. Otherwise never returns.
pub(crate) async fn reader_gone() {
    let (gone, told) = oneshot::channel();
    // A thread of its own, which is left behind at the end. Without requested events, poll(2) reports
    // only errors and hang-ups.
    let watch = move || {
        let out = io::stdout();
        let mut asked = [PollFd::new(out.as_fd(), PollFlags::empty())];
        let seen = loop {
            match poll(&mut asked, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                seen => break seen,
            }
        };
        if seen.is_ok() {
            // The receiver may be gone.
            let _ = gone.send(());
        }
    };
    if thread::Builder::new().spawn(watch).is_ok() && told.await.is_ok() {
        return;
    }
    pending::<()>().await;
}

/// Writes a line to standard error; standard output is for results.
pub(crate) fn say(text: &str) {
    // There is nowhere to report that standard error can't be written.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Writes a message to standard error.
pub(crate) fn complain(text: &str) {
    say(&format!("vmlockctl: {text}"));
}

/// Prints on standard error that a list is empty, unless `--quiet` was given.
pub(crate) fn inform(text: &str) {
    if !is_quiet() {
        say(text);
    }
}

/// Prints a message that is neither an error nor a warning on standard error, unless `--quiet` was given.
pub(crate) fn remark(text: &str) {
    if !is_quiet() {
        complain(text);
    }
}

/// Prints what a command has done on standard output, unless `--quiet` was given. What is printed for a
/// program was asked for with `--json`.
pub(crate) fn report(form: Form, text: &str) -> Result<(), Error> {
    if form == Form::Text && is_quiet() { Ok(()) } else { print(text) }
}
