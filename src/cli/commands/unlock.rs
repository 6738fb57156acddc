//! `unlock`: release what `lock` has locked.

use std::ffi::OsString;
use std::path::Path;

use clap::Args;

use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::error::exit_code::Code;
use crate::cli::format::row;
use crate::cli::target::lookup;
use crate::cli::target::{self, Target};
use crate::client::{Options, Row, lists};
use crate::lock::printable::shown_path;

const EXAMPLE: &str = "\
For a path or a lock, one disk is released; for an owner, all of its disks, and \
the owner ends. The disks of a running VM are refused; to take a lock away from \
a VM, see 'vmlockctl release --help'.";

/// Unlock what 'vmlockctl lock' has locked
#[derive(Debug, Args)]
#[command(after_help = target::help(EXAMPLE))]
pub(crate) struct Arguments {
    /// Also unlock what another user has locked
    #[arg(long)]
    force: bool,
    /// The owner to end, or the lock or disk to release
    #[arg(value_name = "OWNER|LOCK|PATH")]
    target: OsString,
}

/// Releases one lock, or closes an owner.
pub(crate) async fn perform(link: &Link, arguments: Arguments) -> Result<Code, Error> {
    let Arguments { force, target } = arguments;
    let written = shown_path(Path::new(&target));
    let target = Target::parse(target)?;
    let owners = lists::owners(&link.manager().await?).await?;
    let (owner, lock) = match &target {
        Target::Path(path) => {
            let lock = match lookup::lock_on(link, path, Some(link.uid)).await {
                // Root and 'force' also reach the locks of other users.
                Err(Error::Missing(why)) if force || link.uid == 0 => {
                    let lock = lookup::lock_on(link, path, None).await;
                    lock.map_err(|_| Error::Missing(why))?
                }
                lock => lock?,
            };
            (owner_of(&lock, &owners)?, Some(lock))
        }
        Target::Lock(number) => {
            let lock = target::lock(link, *number).await?;
            (owner_of(&lock, &owners)?, Some(lock))
        }
        Target::Owner(text) => (lookup::owner(&owners, text, link.uid)?, None),
    };
    refuse_if_alive(owner, lock.as_ref())?;
    let options = Options::from([("force", force.into())]);
    let unlocked = match lock {
        Some(lock) if row::number(owner, "locks") > 1 => {
            let lock = link.lock(row::text(&lock, "lock")).await?;
            link.ask::<_, ()>(lock.inner(), "Release", &(options,)).await
        }
        _ => {
            let owner = link.owner(row::text(owner, "owner")).await?;
            link.ask::<_, ()>(owner.inner(), "Close", &(options,)).await
        }
    };
    unlocked.map_err(|error| {
        if error.needs_force() { of_other(owner, &written, &error) } else { error }
    })?;
    Ok(Code::SUCCESS)
}

/// Returns the owner that holds a lock.
fn owner_of<'o>(lock: &Row, owners: &'o [Row]) -> Result<&'o Row, Error> {
    let path = row::text(lock, "owner");
    let owner = owners.iter().find(|owner| row::text(owner, "owner") == path);
    owner.ok_or_else(|| Error::Missing("the owner of this lock has just ended".to_owned()))
}

/// The error for an owner that another user has opened, in place of the error of the service.
fn of_other(owner: &Row, target: &str, error: &Error) -> Error {
    let (name, uuid, user) = (row::text(owner, "name"), row::text(owner, "uuid"), row::user(owner));
    let message = format!(
        "VM \"{name}\" ({uuid}) belongs to user {user}; 'vmlockctl unlock --force {target}' unlocks its \
         disks"
    );
    Error::Answered(message, error.code())
}

/// Fails for an owner whose VM runs: `unlock` must not take a disk away from it.
fn refuse_if_alive(owner: &Row, lock: Option<&Row>) -> Result<(), Error> {
    let alive =
        row::words(owner, "anchors").iter().any(|anchor| matches!(*anchor, "lifeline" | "process"));
    if !alive {
        return Ok(());
    }
    let (name, uuid, user) = (row::text(owner, "name"), row::text(owner, "uuid"), row::user(owner));
    let process = match row::number(owner, "pid") {
        0 => format!("a process of user {user}"),
        pid => format!("process {pid} of user {user}"),
    };
    let (target, its) = match lock {
        Some(lock) => (row::lock_number(lock), "lock"),
        None => (uuid.to_owned(), "locks"),
    };
    Err(Error::Failed(format!(
        "VM \"{name}\" ({uuid}) is running ({process}); end it, or 'vmlockctl release --force {target}' \
         breaks its {its}"
    )))
}
