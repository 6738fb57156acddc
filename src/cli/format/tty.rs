//! Properties of the terminal.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::process::getpgrp;
use rustix::termios::tcgetpgrp;

/// Whether the terminal of this type (`TERM`) interprets escape sequences. True if the type is not
/// set.
pub(crate) fn has_escape_sequences(term: Option<&OsStr>) -> bool {
    term.is_none_or(|term| term != "dumb")
}

/// Whether `TERM` names a terminal that interprets escape sequences.
pub(crate) fn is_smart() -> bool {
    has_escape_sequences(std::env::var_os("TERM").as_deref())
}

/// Whether this process is in the foreground process group of a terminal. `None` if the file is not
/// the controlling terminal of this process.
pub(crate) fn is_foreground(terminal: impl AsFd) -> Option<bool> {
    match tcgetpgrp(terminal) {
        Ok(group) => Some(group == getpgrp()),
        // A process group of another pid namespace, whose id is 0.
        Err(Errno::OPNOTSUPP) => Some(false),
        Err(_) => None,
    }
}

/// Returns the number of rows and columns of a terminal; 0 if it is not known.
pub(crate) fn size(terminal: impl AsFd) -> (usize, usize) {
    rustix::termios::tcgetwinsize(terminal)
        .map_or((0, 0), |size| (usize::from(size.ws_row), usize::from(size.ws_col)))
}
