//! `list`: all locks.

use super::code::Code;
use super::error::Error;
use super::link::Link;
use super::output::{Form, print, say};
use super::table::{Lean, Table};
use super::{json, row};

/// Does it.
pub(super) async fn perform(link: &Link, form: Form) -> Result<Code, Error> {
    let locks = link.locks().await?;
    if form == Form::Json {
        print(&json::document(&json::objects(&locks)))?;
        return Ok(Code::SUCCESS);
    }
    if locks.is_empty() {
        say("no locks");
        return Ok(Code::SUCCESS);
    }
    let mut table = Table::new([
        ("LOCK", Lean::Right),
        ("MODE", Lean::Left),
        // Only there where something is wrong.
        ("STATE", Lean::Left),
        ("RESOURCE", Lean::Left),
        ("VM", Lean::Left),
        ("OWNER", Lean::Left),
        ("PID", Lean::Right),
        ("SINCE", Lean::Left),
    ]);
    for lock in &locks {
        let word = |key| row::text(lock, key).to_owned();
        table.push([
            row::lock_number(lock),
            word("mode"),
            row::trouble(lock).to_owned(),
            word("resource"),
            word("name"),
            row::short_uuid(lock),
            row::pid(lock),
            row::since(lock),
        ]);
    }
    print(&table.to_string())?;
    Ok(Code::SUCCESS)
}
