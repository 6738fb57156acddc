//! Standard output and standard error.

use std::io::{self, Write};

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
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::ReaderGone),
        Err(error) => Err(Error::system("writing to standard output", error)),
    }
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
