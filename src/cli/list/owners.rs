//! `owners`: the owners of all users.

use clap::Args;

use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::error::exit_code::Code;
use crate::cli::format::json;
use crate::cli::format::row;
use crate::cli::format::table::{Lean, Table};
use crate::cli::list::watch::{Page, Watch};
use crate::cli::terminal::output::Form;
use crate::client::{Row, lists};

/// List the owners: the virtual machines that can hold locks
#[derive(Debug, Args)]
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

/// Prints the owners.
pub(crate) async fn perform(link: &Link, arguments: Arguments, form: Form) -> Result<Code, Error> {
    let read = async || {
        let owners = lists::owners(&link.manager().await?).await?;
        Ok(match form {
            Form::Json => Page::Json(json::objects(&owners)),
            Form::Text if owners.is_empty() => Page::Nothing("no owners".into()),
            Form::Text => Page::Table(table(&owners).to_string()),
        })
    };
    arguments.watch.show(link, read).await
}

fn table(owners: &[Row]) -> Table<8> {
    let mut table = Table::new([
        ("OWNER", Lean::Left),
        ("VM", Lean::Left),
        ("USER", Lean::Left),
        ("PID", Lean::Right),
        ("STATE", Lean::Left),
        ("LOCKS", Lean::Right),
        ("ANCHORS", Lean::Left),
        ("SINCE", Lean::Left),
    ]);
    for owner in owners {
        let anchors = row::words(owner, "anchors");
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
