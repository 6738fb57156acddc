//! `--watch`: a list is printed again whenever it changes.
//!
//! The signals of the service tell that something has changed, and the list is read again then; there is
//! no polling. Changes that no signal tells of are seen with the next one.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};
use zbus::MatchRule;

use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::error::exit_code::Code;
use crate::cli::format::json;
use crate::cli::terminal::output::{inform, print, reader_gone, remark};
use crate::cli::terminal::signals::Signals;
use crate::client::{Event, MANAGER_PATH, Subscription};

/// How long a change is awaited after the first one: many come together, and cost one list.
const GATHER: Duration = Duration::from_millis(100);

/// Whether to go on.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Watch {
    /// Print the list again whenever it changes, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// A list, read once.
#[derive(Debug)]
pub(crate) enum Page {
    /// For a program.
    Json(Value),
    /// For a person.
    Table(String),
    /// For a person, where there is nothing to list: what to say instead.
    Nothing(Cow<'static, str>),
}

impl Watch {
    /// Whether the list is printed again.
    pub(crate) fn is_wanted(self) -> bool {
        self.watch
    }

    /// Prints the list that `read` returns: once, or again whenever it changes.
    pub(crate) async fn show(
        self,
        link: &Link,
        read: impl AsyncFn() -> Result<Page, Error>,
    ) -> Result<Code, Error> {
        if self.watch {
            return follow(link, read).await;
        }
        match read().await? {
            Page::Json(list) => print(&json::document(&list))?,
            Page::Table(text) => print(&text)?,
            Page::Nothing(text) => inform(&text),
        }
        Ok(Code::SUCCESS)
    }
}

/// Prints the list whenever it changes, until a signal or the end of the reader. A service that stops is
/// awaited.
async fn follow(link: &Link, read: impl AsyncFn() -> Result<Page, Error>) -> Result<Code, Error> {
    let mut signals = Signals::catch()?;
    let rule = MatchRule::builder().path_namespace(MANAGER_PATH);
    let mut events = Subscription::new(link.bus().await?, rule).await?;
    let gone = reader_gone();
    tokio::pin!(gone);
    let mut screen = Screen::new();
    // When the list is read next. `None`: at the next event.
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
            _ = signals.next() => return Ok(Code::SUCCESS),
            () = &mut gone => return Ok(Code::SUCCESS),
            () = read_again => {
                due = None;
                let page = tokio::select! {
                    biased;
                    _ = signals.next() => return Ok(Code::SUCCESS),
                    page = read() => page,
                };
                match page {
                    Ok(page) => screen.show(&page)?,
                    // What comes next is the end of the connection, or of the name's owner.
                    Err(error) if error.is_absence() => screen.remark(link, false),
                    Err(error) => return Err(error),
                }
            }
            event = events.next() => match event.ok_or(Error::Lost)? {
                Event::Signal(_) => due = due.or_else(|| Some(Instant::now() + GATHER)),
                Event::Owner(None) => {
                    due = None;
                    screen.remark(link, false);
                }
                Event::Owner(Some(_)) => {
                    due = Some(Instant::now());
                    screen.remark(link, true);
                }
            },
        }
    }
}

/// Where the lists are printed.
#[derive(Debug)]
struct Screen {
    /// Whether a list takes the place of the one before: standard output is a terminal.
    redraws: bool,
    /// How many lines of the last list are on the terminal.
    lines: usize,
    /// What was printed last.
    last: Option<String>,
    /// Whether the service was running when this was last remarked.
    is_there: bool,
}

impl Screen {
    fn new() -> Self {
        let knows = std::env::var_os("TERM").is_none_or(|kind| kind != "dumb");
        let redraws = io::stdout().is_terminal() && knows;
        Self { redraws, lines: 0, last: None, is_there: true }
    }

    /// Prints a list, if it is another one than the last.
    fn show(&mut self, page: &Page) -> Result<(), Error> {
        let text = match page {
            Page::Json(list) => format!("{list}\n"),
            Page::Table(text) => text.clone(),
            Page::Nothing(text) => format!("{text}\n"),
        };
        self.is_there = true;
        if self.last.as_ref() == Some(&text) {
            return Ok(());
        }
        if self.redraws && !matches!(page, Page::Json(_)) {
            let (drawn, lines) = redrawn(&text, self.lines, height());
            print(&drawn)?;
            self.lines = lines;
        } else {
            // An empty line ends a list; a list for a program is a line.
            let end = if matches!(page, Page::Json(_)) { "" } else { "\n" };
            print(&format!("{text}{end}"))?;
        }
        self.last = Some(text);
        Ok(())
    }

    /// Says on standard error that the service has stopped, or runs again.
    fn remark(&mut self, link: &Link, is_there: bool) {
        if std::mem::replace(&mut self.is_there, is_there) == is_there {
            return;
        }
        // The next list is printed below the remark.
        self.lines = 0;
        self.last = None;
        remark_presence(link, is_there);
    }
}

/// Says on standard error that the service has stopped, or runs again.
pub(crate) fn remark_presence(link: &Link, is_there: bool) {
    let bus = link.bus.as_str();
    remark(&if is_there {
        format!("vmlockd is running on the {bus} bus again")
    } else {
        format!("vmlockd is not running on the {bus} bus; waiting for it")
    });
}

/// A list with what puts it into the place of one with so many lines, and how many lines it has then. The
/// lines that do not fit on the terminal are counted.
fn redrawn(text: &str, before: usize, height: usize) -> (String, usize) {
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
    // A line that is too long is cut at the edge, so that it takes one line.
    (format!("{up}\r\x1b[J\x1b[?7l{}\n\x1b[?7h", lines.join("\n")), count)
}

/// How many lines the terminal has.
fn height() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stdout());
    size.map_or(0, |size| usize::from(size.ws_row)).max(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_takes_the_place_of_the_one_before() {
        assert_eq!(redrawn("a\nb\n", 0, 24), ("\r\x1b[J\x1b[?7la\nb\n\x1b[?7h".to_owned(), 2));
        assert_eq!(redrawn("a\n", 2, 24), ("\x1b[2A\r\x1b[J\x1b[?7la\n\x1b[?7h".to_owned(), 1));
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let (drawn, lines) = redrawn("a\nb\nc\nd\n", 0, 4);
        assert!(drawn.contains("a\nb\n... and 2 more lines\n"), "{drawn:?}");
        assert_eq!(lines, 3);
        assert_eq!(redrawn("a\nb\nc\n", 0, 4).1, 3);
    }
}
