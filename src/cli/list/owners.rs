//! `owners`: prints the owners of all users.

use clap::Args;

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::format::json;
use crate::cli::format::row;
use crate::cli::format::table::{Alignment, Table};
use crate::cli::list::watch::{Page, WatchOption};
use crate::cli::terminal::output::OutputFormat;
use crate::client::{Row, lists};

/// List the owners: the virtual machines that can hold locks
#[derive(Debug, Args)]
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

/// Prints the owners.
pub(crate) async fn perform(
    service: &ServiceConnection,
    arguments: Arguments,
    format: OutputFormat,
) -> Result<Exit, Error> {
    let read = async || {
        let owners = lists::owners(&service.manager().await?).await?;
        Ok(match format {
            OutputFormat::Json => Page::Json(json::objects(&owners)),
            OutputFormat::Text if owners.is_empty() => Page::Empty("no owners".into()),
            OutputFormat::Text => Page::Table(table(&owners).to_string()),
        })
    };
    arguments.watch.print_list(service, read).await
}

fn table(owners: &[Row]) -> Table<8> {
    let mut table = Table::new([
        ("OWNER", Alignment::Left),
        ("VM", Alignment::Left),
        ("USER", Alignment::Left),
        ("PID", Alignment::Right),
        ("STATE", Alignment::Left),
        ("LOCKS", Alignment::Right),
        ("ANCHORS", Alignment::Left),
        ("SINCE", Alignment::Left),
    ]);
    for owner in owners {
        let anchors = row::strings(owner, "anchors");
        table.push([
            row::short_uuid(owner),
            row::text(owner, "name").to_owned(),
            row::user(owner),
            row::pid(owner),
            row::text(owner, "state").to_owned(),
            row::number(owner, "locks").to_string(),
            if anchors.is_empty() { "-".to_owned() } else { anchors.join(",") },
            row::since(owner),
        ]);
    }
    table
}
