//! `waiting`: the requests that wait.

use std::collections::BTreeSet;

use clap::Args;

use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::error::exit_code::Code;
use crate::cli::format::clock;
use crate::cli::format::json;
use crate::cli::format::row;
use crate::cli::format::table::{Lean, Table};
use crate::cli::list::watch::{Page, Watch};
use crate::cli::terminal::output::Form;
use crate::client::{Options, Row, lists};

const AFTER_HELP: &str = "\
With --watch, the list is read again at each signal of the service. No signal \
tells that a request is cancelled or times out, or begins to wait for a foreign \
holder: this is seen with the next signal.";

/// List the requests that wait, in order of arrival
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(flatten)]
    watch: Watch,
}

impl Arguments {
    /// Whether the list is printed again when it changes.
    pub(crate) fn watches(&self) -> bool {
        self.watch.is_wanted()
    }
}

/// Prints the waiting requests.
pub(crate) async fn perform(link: &Link, arguments: Arguments, form: Form) -> Result<Code, Error> {
    let read = async || {
        let waiters = lists::waiting(&link.manager().await?, Options::new()).await?;
        Ok(match form {
            Form::Json => Page::Json(json::objects(&waiters)),
            Form::Text if waiters.is_empty() => Page::Nothing("no requests wait".into()),
            Form::Text => Page::Table(table(&waiters) + &reservations(&waiters)),
        })
    };
    arguments.watch.show(link, read).await
}

/// A line for each resource, as the service tells of them: in the order in which they are served.
fn table(waiters: &[Row]) -> String {
    let mut table = Table::new([
        ("PLACE", Lean::Right),
        ("VM", Lean::Left),
        ("OWNER", Lean::Left),
        ("USER", Lean::Left),
        ("PID", Lean::Right),
        ("MODE", Lean::Left),
        ("RESOURCE", Lean::Left),
        ("SINCE", Lean::Left),
    ]);
    let tickets: BTreeSet<u64> = waiters.iter().map(ticket).collect();
    for waiter in waiters {
        table.push([
            (tickets.range(..=ticket(waiter)).count()).to_string(),
            row::text(waiter, "name").to_owned(),
            row::short_uuid(waiter),
            row::user(waiter),
            row::pid(waiter),
            row::text(waiter, "mode").to_owned(),
            row::text(waiter, "resource").to_owned(),
            row::since(waiter),
        ]);
    }
    table.to_string()
}

/// A line for each resource that is reserved for the VM that released it.
fn reservations(waiters: &[Row]) -> String {
    let mut lines = Vec::new();
    for waiter in waiters.iter().filter(|waiter| waiter.contains_key("reserved-for")) {
        let word = |key| row::text(waiter, key);
        let pid = match row::number(waiter, "reserved-pid") {
            0 => String::new(),
            pid => format!(", pid {pid}"),
        };
        let line = format!(
            "{} is reserved for VM \"{}\" ({}{pid}) until {}\n",
            word("resource"),
            word("reserved-name"),
            word("reserved-uuid"),
            clock::second(row::number(waiter, "reserved-until-usec")),
        );
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.concat()
}

/// Says which request it is; those that came earlier have lower numbers.
fn ticket(waiter: &Row) -> u64 {
    row::number(waiter, "ticket")
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::{OwnedVariant, Variant};

    #[test]
    fn a_request_for_two_disks_has_two_lines_and_one_place() {
        let row = |ticket: u64, name: &'static str, resource: &'static str, mode: &'static str| {
            let row = [
                ("ticket", Variant::from(ticket)),
                ("name", name.into()),
                ("uuid", "4dea22b3-1d52-d8f3-2516-782e98ab3fa0".into()),
                ("resource", resource.into()),
                ("mode", mode.into()),
            ];
            let owned = |value: Variant<'_>| OwnedVariant::try_from(value).unwrap();
            Row::from(row.map(|(key, value)| (key.to_owned(), owned(value))))
        };
        let text = table(&[
            row(7, "web1", "/a", "exclusive"),
            row(7, "web1", "/b", "shared"),
            row(9, "web2", "/a", "shared"),
        ]);
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..7], ["1", "web1", "4dea22b3", "root", "-", "exclusive", "/a"]);
        assert_eq!((lines[2][0], lines[2][6]), ("1", "/b"));
        assert_eq!((lines[3][0], lines[3][1]), ("2", "web2"));
    }
}
