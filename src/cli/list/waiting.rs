//! `waiting`: prints the waiting requests.

use std::collections::BTreeSet;

use clap::Args;

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::format::clock;
use crate::cli::format::json;
use crate::cli::format::row;
use crate::cli::format::table::{Alignment, Table};
use crate::cli::list::watch::{Page, WatchOption};
use crate::cli::terminal::output::OutputFormat;
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
    watch: WatchOption,
}

impl Arguments {
    /// Whether the list is printed again after each change.
    pub(crate) fn watches(&self) -> bool {
        self.watch.is_wanted()
    }
}

/// Prints the waiting requests.
pub(crate) async fn perform(
    service: &ServiceConnection,
    arguments: Arguments,
    format: OutputFormat,
) -> Result<Exit, Error> {
    let read = async || {
        let waiters = lists::waiting(&service.manager().await?, Options::new()).await?;
        Ok(match format {
            OutputFormat::Json => Page::Json(json::objects(&waiters)),
            OutputFormat::Text if waiters.is_empty() => Page::Empty("no requests wait".into()),
            OutputFormat::Text => Page::Table(table(&waiters) + &reservations(&waiters)),
        })
    };
    arguments.watch.print_list(service, read).await
}

/// Formats a line for each resource of each request, in the order in which the requests are
/// granted.
fn table(waiters: &[Row]) -> String {
    let mut table = Table::new([
        ("PLACE", Alignment::Right),
        ("VM", Alignment::Left),
        ("OWNER", Alignment::Left),
        ("USER", Alignment::Left),
        ("PID", Alignment::Right),
        ("MODE", Alignment::Left),
        ("RESOURCE", Alignment::Left),
        ("SINCE", Alignment::Left),
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

/// Formats a line for each resource that is reserved for the VM that released it.
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

/// Returns the ticket of the request, which is higher than those of earlier requests.
fn ticket(waiter: &Row) -> u64 {
    row::number(waiter, "ticket")
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::{OwnedVariant, Variant};

    #[test]
    fn a_request_for_two_disks_has_two_lines_and_one_position() {
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
