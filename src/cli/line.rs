//! One line on standard error that says how things stand, and is gone when they are over.

use std::io::{self, IsTerminal, Write};

use nix::unistd::{getpgrp, tcgetpgrp};

use super::output::complain;
use crate::lock::printable::shown;

/// The line. On a terminal it is written over and over; elsewhere it is said once.
#[derive(Debug)]
pub(super) struct Line {
    terminal: bool,
    said: bool,
    /// Something of it stands on the terminal.
    stands: bool,
}

impl Line {
    /// A line that says nothing yet. What is in the background is no terminal's business.
    pub(super) fn new() -> Self {
        let knows = std::env::var_os("TERM").is_none_or(|kind| kind != "dumb");
        let terminal = io::stderr().is_terminal() && knows && is_in_front();
        Self { terminal, said: false, stands: false }
    }

    /// Whether it is worth saying how things stand now.
    pub(super) fn wants_more(&self) -> bool {
        self.terminal || !self.said
    }

    /// Says what goes on, and how it stands; where there is no room, the former is cut.
    pub(super) fn say(&mut self, what: &str, stand: &str) {
        if !self.terminal {
            if !std::mem::replace(&mut self.said, true) {
                complain(what);
            }
            return;
        }
        if !is_in_front() {
            return;
        }
        let text = fitted(&shown(what), &shown(stand), width());
        // There is nowhere to report that standard error can't be written.
        let _ = write!(io::stderr(), "\r{text}\x1b[K");
        self.stands = true;
    }

    /// Takes it away.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.stands) {
            let _ = write!(io::stderr(), "\r\x1b[K");
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
fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stderr());
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { 79 } else { columns - 1 }
}

fn fitted(what: &str, stand: &str, width: usize) -> String {
    let room = width.saturating_sub(stand.chars().count());
    if what.chars().count() <= room {
        return format!("{what}{stand}");
    }
    let cut: String = what.chars().take(room.saturating_sub(1)).collect();
    format!("{cut}…{stand}").chars().take(width).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line() {
        assert_eq!(fitted("waiting", " — 3 s", 40), "waiting — 3 s");
        assert_eq!(fitted("waiting", " — 3 s", 13), "waiting — 3 s");
        assert_eq!(fitted("waiting", " — 3 s", 12), "waiti… — 3 s");
        assert_eq!(fitted("waiting", " — 3 s", 4), "… — ");
        assert_eq!(fitted("waiting", "", 0), "");
    }
}
