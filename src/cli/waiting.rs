//! `waiting`: the requests that wait.

use std::collections::BTreeSet;

use super::code::Code;
use super::error::Error;
use super::link::Link;
use super::output::{Form, print, say};
use super::table::{Lean, Table};
use super::{clock, json, row};
use crate::client::{Options, Row, lists};

/// Prints the waiting requests.
pub(super) async fn perform(link: &Link, form: Form) -> Result<Code, Error> {
    let waiters = lists::waiting(&link.manager().await?, Options::new()).await?;
    if form == Form::Json {
        print(&json::document(&json::objects(&waiters)))?;
        return Ok(Code::SUCCESS);
    }
    if waiters.is_empty() {
        say("no requests wait");
        return Ok(Code::SUCCESS);
    }
    print(&(table(&waiters) + &reservations(&waiters)))?;
    Ok(Code::SUCCESS)
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
