//! `owners`: the owners of all users.

use super::code::Code;
use super::error::Error;
use super::link::Link;
use super::output::{Form, print, say};
use super::table::{Lean, Table};
use super::{json, row};
use crate::client::lists;

/// Prints the owners.
pub(super) async fn perform(link: &Link, form: Form) -> Result<Code, Error> {
    let owners = lists::owners(&link.manager().await?).await?;
    if form == Form::Json {
        print(&json::document(&json::objects(&owners)))?;
        return Ok(Code::SUCCESS);
    }
    if owners.is_empty() {
        say("no owners");
        return Ok(Code::SUCCESS);
    }
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
    for owner in &owners {
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
    print(&table.to_string())?;
    Ok(Code::SUCCESS)
}
