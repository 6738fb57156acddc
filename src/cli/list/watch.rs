//! The option `--watch`: prints a list again after each change.
//!
//! The list is read again after a signal of the service; there is no polling. A change without a
//! signal is detected with the next signal.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};
use zbus::MatchRule;

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::format::{json, tty};
use crate::cli::terminal::output::{output_closed, print, print_info, print_presence};
use crate::cli::terminal::signals::Signals;
use crate::client::{Bus, Event, MANAGER_PATH, Subscription};

/// The delay between the first signal and the next reading of the list, so that a burst of signals
/// causes one reading.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// The option `--watch`.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct WatchOption {
    /// Print the list again whenever it changes, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// A list that was read once.
#[derive(Debug)]
pub(crate) enum Page {
    /// JSON, for programs.
    Json(Value),
    /// A table, for people.
    Table(String),
    /// The text for people in place of an empty table.
    Empty(Cow<'static, str>),
}

impl WatchOption {
    /// Whether the list is printed again after each change.
    pub(crate) fn is_wanted(self) -> bool {
        self.watch
    }

    /// Prints the list that `read` returns: once, or again after each change.
    pub(crate) async fn print_list(
        self,
        service: &ServiceConnection,
        read: impl AsyncFn() -> Result<Page, Error>,
    ) -> Result<Exit, Error> {
        if self.watch {
            return print_changes(service, read).await;
        }
        match read().await? {
            Page::Json(list) => print(&json::document(&list))?,
            Page::Table(text) => print(&text)?,
            Page::Empty(text) => print_info(&text),
        }
        Ok(Exit::SUCCESS)
    }
}

/// Prints the list after each change, until a signal arrives or the reader closes the pipe. If the
/// service stops, waits until it runs again.
async fn print_changes(
    service: &ServiceConnection,
    read: impl AsyncFn() -> Result<Page, Error>,
) -> Result<Exit, Error> {
    let mut signals = Signals::catch()?;
    let rule = MatchRule::builder().path_namespace(MANAGER_PATH);
    let mut events = Subscription::new(service.bus_connection().await?, rule).await?;
    let closed = output_closed();
    tokio::pin!(closed);
    let mut screen = Screen::new();
    // The time of the next reading; `None` until the next event.
    let mut due = Some(Instant::now());
    loop {
        let read_again = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = signals.next() => return Ok(Exit::SUCCESS),
            () = &mut closed => return Ok(Exit::SUCCESS),
            () = read_again => {
                due = None;
                let page = tokio::select! {
                    biased;
                    _ = signals.next() => return Ok(Exit::SUCCESS),
                    page = read() => page,
                };
                match page {
                    Ok(page) => screen.print(&page)?,
                    // The next event is the end of the connection, or a change of the name's owner.
                    Err(error) if error.is_unavailable() => screen.print_presence(service.bus, false),
                    Err(error) => return Err(error),
                }
            }
            event = events.next() => match event.ok_or(Error::ConnectionLost)? {
                Event::Signal(_) => due = due.or_else(|| Some(Instant::now() + DEBOUNCE)),
                Event::Owner(None) => {
                    due = None;
                    screen.print_presence(service.bus, false);
                }
                Event::Owner(Some(_)) => {
                    due = Some(Instant::now());
                    screen.print_presence(service.bus, true);
                }
            },
        }
    }
}

/// The output of the lists.
#[derive(Debug)]
struct Screen {
    /// Whether a list replaces the previous one on the terminal.
    redraws: bool,
    /// The number of lines of the last list on the terminal.
    lines: usize,
    /// The last list.
    last: Option<String>,
    /// Whether the service was running, according to the last message or list.
    is_running: bool,
}

impl Screen {
    fn new() -> Self {
        let redraws = io::stdout().is_terminal() && tty::is_smart();
        Self { redraws, lines: 0, last: None, is_running: true }
    }

    /// Prints a list, unless it is the same as the last one.
    fn print(&mut self, page: &Page) -> Result<(), Error> {
        let text = match page {
            Page::Json(list) => format!("{list}\n"),
            Page::Table(text) => text.clone(),
            Page::Empty(text) => format!("{text}\n"),
        };
        self.is_running = true;
        if self.last.as_ref() == Some(&text) {
            return Ok(());
        }
        if self.redraws && !matches!(page, Page::Json(_)) {
            let (drawn, lines) = redraw(&text, self.lines, height());
            print(&drawn)?;
            self.lines = lines;
        } else {
            // A table ends with an empty line; a list in JSON is one line.
            let end = if matches!(page, Page::Json(_)) { "" } else { "\n" };
            print(&format!("{text}{end}"))?;
        }
        self.last = Some(text);
        Ok(())
    }

    /// Prints to standard error that the service has stopped, or runs again.
    fn print_presence(&mut self, bus: Bus, is_running: bool) {
        if std::mem::replace(&mut self.is_running, is_running) == is_running {
            return;
        }
        // The next list is printed below the message.
        self.lines = 0;
        self.last = None;
        print_presence(bus, is_running);
    }
}

/// Returns the output that replaces a list of `before` lines on the terminal, and its number of
/// lines. Lines that do not fit on the terminal are counted.
fn redraw(text: &str, before: usize, height: usize) -> (String, usize) {
    let all = text.lines().count();
    // One line for the cursor.
    let room = height.saturating_sub(1).max(2);
    let mut lines: Vec<String> = text.lines().take(room).map(str::to_owned).collect();
    if all > room {
        lines.truncate(room - 1);
        lines.push(format!("... and {} more lines", all - (room - 1)));
    }
    let up = if before == 0 { String::new() } else { format!("\x1b[{before}A") };
    let count = lines.len();
    // Without line wrapping, each line occupies one row.
    (format!("{up}\r\x1b[J\x1b[?7l{}\n\x1b[?7h", lines.join("\n")), count)
}

/// Returns the number of rows of the terminal.
fn height() -> usize {
    let (rows, _) = tty::size(io::stdout());
    rows.max(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_replaces_the_previous_one() {
        assert_eq!(redraw("a\nb\n", 0, 24), ("\r\x1b[J\x1b[?7la\nb\n\x1b[?7h".to_owned(), 2));
        assert_eq!(redraw("a\n", 2, 24), ("\x1b[2A\r\x1b[J\x1b[?7la\n\x1b[?7h".to_owned(), 1));
    }

    #[test]
    fn lines_that_do_not_fit_are_counted() {
        let (drawn, lines) = redraw("a\nb\nc\nd\n", 0, 4);
        assert!(drawn.contains("a\nb\n... and 2 more lines\n"), "{drawn:?}");
        assert_eq!(lines, 3);
        assert_eq!(redraw("a\nb\nc\n", 0, 4).1, 3);
    }
}
