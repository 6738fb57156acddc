//! `unlock`: the end of what `lock` began.

use std::ffi::OsString;

use clap::Args;

use super::code::Code;
use super::error::Error;
use super::find::{self, Target};
use super::link::Link;
use super::row;
use crate::client::{Options, Row, lists};

const EXAMPLE: &str = "\
Ends what 'vmlockctl lock' began. A disk that a living machine holds is let
alone; to take it away, see 'vmlockctl release --help'.";

/// Unlock what 'vmlockctl lock' has locked
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Arguments {
    /// UUID (or its first digits) or name of an owner, or a disk: /PATH or ./PATH;
    /// or a lease: lease:DIRECTORY/KEY
    #[arg(value_name = "OWNER|PATH")]
    target: OsString,
}

/// Does it.
pub(super) async fn perform(link: &Link, arguments: Arguments) -> Result<Code, Error> {
    let owners = lists::owners(&link.manager().await?).await?;
    match Target::path_or_text(arguments.target)? {
        Target::Path(path) => {
            let lock = find::lock_on(link, &path, Some(link.uid)).await?;
            let path = row::text(&lock, "owner");
            let owner = owners.iter().find(|owner| row::text(owner, "owner") == path);
            let Some(owner) = owner else {
                return Err(Error::Missing("the owner of this disk has just ended".to_owned()));
            };
            refuse_if_alive(owner)?;
            if row::number(owner, "locks") > 1 {
                let lock = link.lock(row::text(&lock, "lock")).await?;
                link.ask::<_, ()>(lock.inner(), "Release", &(Options::new(),)).await?;
            } else {
                close(link, owner).await?;
            }
        }
        Target::Text(text) => {
            let owner = find::owner(&owners, &text, link.uid)?;
            refuse_if_alive(owner)?;
            close(link, owner).await?;
        }
    }
    Ok(Code::SUCCESS)
}

async fn close(link: &Link, owner: &Row) -> Result<(), Error> {
    let owner = link.owner(row::text(owner, "owner")).await?;
    link.ask(owner.inner(), "Close", &(Options::new(),)).await
}

/// Unlocking must not be the way to take a disk from a machine that runs.
fn refuse_if_alive(owner: &Row) -> Result<(), Error> {
    let alive =
        row::words(owner, "anchors").iter().any(|anchor| matches!(*anchor, "lifeline" | "process"));
    if !alive {
        return Ok(());
    }
    let (name, uuid) = (row::text(owner, "name"), row::text(owner, "uuid"));
    let pid = match row::number(owner, "pid") {
        0 => String::new(),
        pid => format!(", pid {pid}"),
    };
    let advice = "end it, or take a lock from it with 'vmlockctl release'";
    Err(Error::Failed(format!("VM \"{name}\" ({uuid}{pid}) is alive: {advice}")))
}
