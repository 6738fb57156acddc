//! `unlock`: release what `lock` has locked.

use std::ffi::OsString;

use clap::Args;

use super::code::Code;
use super::error::Error;
use super::find;
use super::link::Link;
use super::row;
use super::target::{self, Target};
use crate::client::{Options, Row, lists};

const EXAMPLE: &str = "\
For a path or a lock, one disk is released; for an owner, all of its disks, and \
the owner ends. The disks of a running VM are refused; to take a lock away from \
a VM, see 'vmlockctl release --help'.";

/// Unlock what 'vmlockctl lock' has locked
#[derive(Debug, Args)]
#[command(after_help = target::help(EXAMPLE))]
pub(super) struct Arguments {
    /// The owner to end, or the lock or disk to release
    #[arg(value_name = "OWNER|LOCK|PATH")]
    target: OsString,
}

/// Releases one lock, or closes an owner.
pub(super) async fn perform(link: &Link, arguments: Arguments) -> Result<Code, Error> {
    let target = Target::parse(arguments.target)?;
    let owners = lists::owners(&link.manager().await?).await?;
    match target {
        Target::Path(path) => {
            let lock = find::lock_on(link, &path, Some(link.uid)).await?;
            unlock(link, &lock, &owners).await?;
        }
        Target::Lock(number) => {
            let lock = target::lock(link, number).await?;
            unlock(link, &lock, &owners).await?;
        }
        Target::Owner(text) => {
            let owner = find::owner(&owners, &text, link.uid)?;
            refuse_if_alive(owner)?;
            close(link, owner).await?;
        }
    }
    Ok(Code::SUCCESS)
}

/// Releases a lock, and closes its owner if that holds nothing else.
async fn unlock(link: &Link, lock: &Row, owners: &[Row]) -> Result<(), Error> {
    let path = row::text(lock, "owner");
    let owner = owners.iter().find(|owner| row::text(owner, "owner") == path);
    let Some(owner) = owner else {
        return Err(Error::Missing("the owner of this lock has just ended".to_owned()));
    };
    refuse_if_alive(owner)?;
    if row::number(owner, "locks") > 1 {
        let lock = link.lock(row::text(lock, "lock")).await?;
        link.ask(lock.inner(), "Release", &(Options::new(),)).await
    } else {
        close(link, owner).await
    }
}

/// Closes an owner.
async fn close(link: &Link, owner: &Row) -> Result<(), Error> {
    let owner = link.owner(row::text(owner, "owner")).await?;
    link.ask(owner.inner(), "Close", &(Options::new(),)).await
}

/// Fails for an owner whose VM runs: `unlock` must not take a disk away from it.
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
    let advice = "end it, or take a lock away from it with 'vmlockctl release'";
    Err(Error::Failed(format!("VM \"{name}\" ({uuid}{pid}) is alive; {advice}")))
}
