//! Standard output and standard error.

use std::future::pending;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::oneshot;

use super::error::Error;

/// For whom something is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A person.
    Text,
    /// A program.
    Json,
}

/// Prints a text, which brings its own line ends, at once.
pub(super) fn print(text: &str) -> Result<(), Error> {
    written(io::stdout().lock().write_all(text.as_bytes()))
}

/// Flushes standard output after this was written. Returns the first error.
pub(super) fn written(result: io::Result<()>) -> Result<(), Error> {
    match result.and_then(|()| io::stdout().flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::ReaderGone),
        Err(error) => Err(Error::system("writing to standard output", error)),
    }
}

/// Returns once nobody can read any more what is printed: the other end of a pipe is closed. Never
/// where standard output is something else.
pub(super) async fn reader_gone() {
    let (gone, told) = oneshot::channel();
    // A thread of its own, which nobody has to wait for in the end. Asked for nothing, poll tells
    // only of what is wrong with it.
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
            // Nobody waits for it who has ended meanwhile.
            let _ = gone.send(());
        }
    };
    if thread::Builder::new().spawn(watch).is_ok() && told.await.is_ok() {
        return;
    }
    pending::<()>().await;
}

/// Says something to the person; standard output is for what was asked for.
pub(super) fn say(text: &str) {
    // There is nowhere to report that standard error can't be written.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Says what is wrong.
pub(super) fn complain(text: &str) {
    say(&format!("vmlockctl: {text}"));
}
