//! A line on standard error that shows the state of a wait, and is erased at its end.

use std::io::{self, IsTerminal, Write};

use crate::cli::format::tty;
use crate::cli::format::wording::{Wording, fit_line};
use crate::cli::terminal::output::{is_quiet, print_message};

/// Erases the screen after the cursor.
const ERASE: &str = "\x1b[J";
/// Turns line wrapping off: the text may be too wide if the terminal was resized meanwhile.
const NO_WRAP: &str = "\x1b[?7l";
/// Turns line wrapping on.
const WRAP: &str = "\x1b[?7h";

/// The status line. On a terminal it is redrawn; elsewhere the first text is printed once.
#[derive(Debug)]
pub(crate) struct StatusLine {
    /// Whether standard error is a terminal on which the line can be redrawn.
    terminal: bool,
    /// Whether the line was printed, or is not to be printed.
    was_shown: bool,
    /// Whether the terminal shows the line.
    is_drawn: bool,
}

impl StatusLine {
    /// Creates an empty line. A background process does not draw on the terminal.
    pub(crate) fn new() -> Self {
        let terminal = io::stderr().is_terminal() && tty::is_smart() && is_foreground();
        let quiet = is_quiet();
        Self { terminal: terminal && !quiet, was_shown: quiet, is_drawn: false }
    }

    /// Whether [`show`](Self::show) has an effect.
    pub(crate) fn needs_update(&self) -> bool {
        self.terminal || !self.was_shown
    }

    /// Shows the first of the wordings that fits, with `elapsed` at its end.
    ///
    /// The cursor stays at the beginning of the line. If a terminal that has become narrower wraps
    /// the line, the cursor is on the first of its rows, and all of them are erased with the rest
    /// of the screen.
    pub(crate) fn show(&mut self, wordings: &[Wording], elapsed: &str) {
        if !self.terminal {
            if !std::mem::replace(&mut self.was_shown, true) {
                print_message(&wordings.first().map(Wording::full).unwrap_or_default());
            }
            return;
        }
        if !is_foreground() {
            return;
        }
        let text = fit_line(wordings, elapsed, columns());
        // A failure to write to standard error cannot be reported anywhere.
        let _ = write!(io::stderr(), "{NO_WRAP}\r{text}{ERASE}\r{WRAP}");
        self.is_drawn = true;
    }

    /// Erases the line.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.is_drawn) && is_foreground() {
            let _ = write!(io::stderr(), "\r{ERASE}");
        }
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Whether no other process group is in the foreground of the terminal.
fn is_foreground() -> bool {
    tty::is_foreground(io::stderr()) != Some(false)
}

/// Returns the number of usable columns. The last column stays free, since some terminals begin a
/// new line after it.
fn columns() -> usize {
    let (_, columns) = tty::size(io::stderr());
    if columns == 0 { 79 } else { columns - 1 }
}
