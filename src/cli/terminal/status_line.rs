//! One line on standard error that says how things stand, and is gone when they are over.

use std::io::{self, IsTerminal, Write};

use nix::unistd::{getpgrp, tcgetpgrp};

use crate::cli::format::wording::{Wording, fitted};
use crate::cli::terminal::output::{complain, is_quiet};

/// Erases the screen from the cursor on.
const ERASE: &str = "\x1b[J";
/// Has the terminal not wrap a text that turns out to be too wide, since it was resized meanwhile.
const NO_WRAP: &str = "\x1b[?7l";
/// Has it wrap again.
const WRAP: &str = "\x1b[?7h";

/// The line. On a terminal it is written over and over; elsewhere it is said once.
#[derive(Debug)]
pub(crate) struct Line {
    terminal: bool,
    said: bool,
    /// Something of it stands on the terminal.
    stands: bool,
}

impl Line {
    /// A line that says nothing yet. What is in the background is no terminal's business.
    pub(crate) fn new() -> Self {
        let knows = std::env::var_os("TERM").is_none_or(|kind| kind != "dumb");
        let terminal = io::stderr().is_terminal() && knows && is_in_front();
        let quiet = is_quiet();
        Self { terminal: terminal && !quiet, said: quiet, stands: false }
    }

    /// Whether it is worth saying how things stand now.
    pub(crate) fn wants_more(&self) -> bool {
        self.terminal || !self.said
    }

    /// Says what goes on, in the first of these wordings that has room, and how it stands.
    ///
    /// The cursor stays at the beginning of the line. Where a terminal that has become narrower wraps
    /// the line, the cursor is then on the first of its rows, and all of them are erased with the rest
    /// of the screen.
    pub(crate) fn say(&mut self, wordings: &[Wording], stand: &str) {
        if !self.terminal {
            if !std::mem::replace(&mut self.said, true) {
                complain(&wordings.first().map(Wording::full).unwrap_or_default());
            }
            return;
        }
        if !is_in_front() {
            return;
        }
        let text = fitted(wordings, stand, columns());
        // There is nowhere to report that standard error can't be written.
        let _ = write!(io::stderr(), "{NO_WRAP}\r{text}{ERASE}\r{WRAP}");
        self.stands = true;
    }

    /// Takes it away.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.stands) && is_in_front() {
            let _ = write!(io::stderr(), "\r{ERASE}");
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Whether no other process group has the terminal.
fn is_in_front() -> bool {
    tcgetpgrp(io::stderr()).map_or(true, |group| group == getpgrp())
}

/// How much goes on one line. The last column stays free: some terminals would begin another line.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stderr());
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { 79 } else { columns - 1 }
}
