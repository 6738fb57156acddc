//! `unlock`: releases disks that were locked by `lock`.

use std::ffi::OsString;
use std::path::Path;

use clap::Args;

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::format::row;
use crate::cli::target::lookup;
use crate::cli::target::{self, Target};
use crate::client::{Options, Row, lists};
use crate::lock::text::escape::shown_path;

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
pub(crate) async fn perform(
    service: &ServiceConnection,
    arguments: Arguments,
) -> Result<Exit, Error> {
    let Arguments { force, target } = arguments;
    let argument = shown_path(Path::new(&target));
    let target = Target::parse(target)?;
    let owners = lists::owners(&service.manager().await?).await?;
    let (owner, lock) = match &target {
        Target::Path(path) => {
            let lock = match lookup::lock_on(service, path, Some(service.uid)).await {
                // With root or 'force', locks of other users can be unlocked, too.
                Err(Error::Missing(why)) if force || service.uid == 0 => {
                    let lock = lookup::lock_on(service, path, None).await;
                    lock.map_err(|_| Error::Missing(why))?
                }
                lock => lock?,
            };
            (owner_of(&lock, &owners)?, Some(lock))
        }
        Target::Lock(number) => {
            let lock = target::lock(service, *number).await?;
            (owner_of(&lock, &owners)?, Some(lock))
        }
        Target::Owner(text) => (lookup::owner(&owners, text, service.uid)?, None),
    };
    check_not_alive(owner, lock.as_ref())?;
    let options = Options::from([("force", force.into())]);
    let unlocked = match lock {
        Some(lock) if row::number(owner, "locks") > 1 => {
            let lock = service.lock(row::text(&lock, "lock")).await?;
            service.call_method::<_, ()>(lock.inner(), "Release", &(options,)).await
        }
        _ => {
            let owner = service.owner(row::text(owner, "owner")).await?;
            service.call_method::<_, ()>(owner.inner(), "Close", &(options,)).await
        }
    };
    unlocked.map_err(|error| {
        if error.needs_force() { foreign_owner_error(owner, &argument, &error) } else { error }
    })?;
    Ok(Exit::SUCCESS)
}

/// Returns the owner that holds a lock.
fn owner_of<'o>(lock: &Row, owners: &'o [Row]) -> Result<&'o Row, Error> {
    let path = row::text(lock, "owner");
    let owner = owners.iter().find(|owner| row::text(owner, "owner") == path);
    owner.ok_or_else(|| Error::Missing("the owner of this lock has just ended".to_owned()))
}

/// Returns the error for the owner of another user, in place of the error of the service.
fn foreign_owner_error(owner: &Row, target: &str, error: &Error) -> Error {
    let (vm, user) = (row::vm(owner), row::user(owner));
    let message = format!(
        "{vm} belongs to user {user}; 'vmlockctl unlock --force {target}' unlocks its \
         disks"
    );
    Error::Reworded(message, error.exit())
}

/// Refuses an owner whose VM is running, since `unlock` must not release its disks.
fn check_not_alive(owner: &Row, lock: Option<&Row>) -> Result<(), Error> {
    let alive = row::strings(owner, "anchors")
        .iter()
        .any(|anchor| matches!(*anchor, "lifeline" | "process"));
    if !alive {
        return Ok(());
    }
    let user = row::user(owner);
    let process = match row::number(owner, "pid") {
        0 => format!("a process of user {user}"),
        pid => format!("process {pid} of user {user}"),
    };
    let (target, its) = match lock {
        Some(lock) => (row::lock_number(lock), "lock"),
        None => (row::text(owner, "uuid").to_owned(), "locks"),
    };
    Err(Error::Failed(format!(
        "{} is running ({process}); end it, or 'vmlockctl release --force {target}' \
         breaks its {its}",
        row::vm(owner)
    )))
}
