//! Standard output and standard error.

use std::future::pending;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::oneshot;

use crate::cli::error::Error;
use crate::client::Bus;

/// The output format of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutputFormat {
    /// Text, for people.
    Text,
    /// JSON, for programs.
    Json,
}

/// Whether `--quiet` was given.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Suppresses the output of [`print_info`], [`print_notice`] and [`print_result`].
pub(crate) fn set_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Whether informational output is suppressed.
pub(crate) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Prints a text, which includes its newlines, to standard output and flushes it.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    flush_after(io::stdout().lock().write_all(text.as_bytes()))
}

/// Flushes standard output after a write with this result. Returns the first error.
pub(crate) fn flush_after(result: io::Result<()>) -> Result<(), Error> {
    match result.and_then(|()| io::stdout().flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::OutputClosed),
        Err(error) => Err(Error::system("write to standard output", error)),
    }
}

/// Returns when standard output is a pipe whose reader has closed it. Otherwise never returns.
pub(crate) async fn output_closed() {
    let (sender, receiver) = oneshot::channel();
    // The thread is not joined. Without requested events, poll(2) reports only errors and hang-ups.
    let watch = move || {
        let out = io::stdout();
        let mut descriptors = [PollFd::new(&out, PollFlags::empty())];
        let result = loop {
            match poll(&mut descriptors, None) {
                Err(Errno::INTR) => {}
                result => break result,
            }
        };
        if result.is_ok() {
            // The receiver may have been dropped.
            let _ = sender.send(());
        }
    };
    if thread::Builder::new().spawn(watch).is_ok() && receiver.await.is_ok() {
        return;
    }
    pending::<()>().await;
}

/// Prints a line to standard error, as standard output is for results.
pub(crate) fn print_stderr(text: &str) {
    // A failure to write to standard error cannot be reported anywhere.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints an error or a warning to standard error.
pub(crate) fn print_message(text: &str) {
    print_stderr(&format!("vmlockctl: {text}"));
}

/// Prints a line without the name of the tool, such as `no locks`, to standard error, unless
/// `--quiet` was given.
pub(crate) fn print_info(text: &str) {
    if !is_quiet() {
        print_stderr(text);
    }
}

/// Prints to standard error that the service has stopped, or runs again, unless `--quiet` was
/// given.
pub(crate) fn print_presence(bus: Bus, is_running: bool) {
    let bus = bus.as_str();
    print_notice(&if is_running {
        format!("vmlockd is running on the {bus} bus again")
    } else {
        format!("vmlockd is not running on the {bus} bus; waiting for it")
    });
}

/// Prints a message that is neither an error nor a warning to standard error, unless `--quiet` was
/// given.
pub(crate) fn print_notice(text: &str) {
    if !is_quiet() {
        print_message(text);
    }
}

/// Prints what a command has done to standard output. `--quiet` suppresses the text, but not the
/// output of `--json`, which was requested explicitly.
pub(crate) fn print_result(format: OutputFormat, text: &str) -> Result<(), Error> {
    if format == OutputFormat::Text && is_quiet() { Ok(()) } else { print(text) }
}
