//! `release`: releases locks of any owner.

use std::ffi::OsString;

use clap::Args;

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::format::row;
use crate::cli::target::lookup;
use crate::cli::target::{self, Target};
use crate::client::{LOCKS_PATH, Options};

const AFTER_HELP: &str = "\
For an owner, all of its locks are released. The VM is not notified and continues to use \
the disk, so make sure first that it does not. With --force, locks of running VMs \
that another user opened are released, too; users other than root need an \
administrator's password for that.";

/// Take a lock away from its owner; with --force also from another user's VM
#[derive(Debug, Args)]
#[command(after_help = target::help(AFTER_HELP))]
pub(crate) struct Arguments {
    /// Break the lock of a running VM that another user opened
    #[arg(long)]
    force: bool,
    /// The lock or disk to release, or the owner whose locks to release
    #[arg(value_name = "OWNER|LOCK|PATH")]
    target: OsString,
}

/// Releases a lock, or all locks of an owner.
pub(crate) async fn perform(
    service: &ServiceConnection,
    arguments: Arguments,
) -> Result<Exit, Error> {
    let force = arguments.force;
    match Target::parse(arguments.target)? {
        Target::Lock(number) => {
            match release(service, &format!("{LOCKS_PATH}/{number}"), force).await {
                Err(error) if error.is_no_such_object() => return Err(target::no_lock(number)),
                released => released?,
            }
        }
        Target::Path(path) => {
            let lock = lookup::lock_on(service, &path, None).await?;
            release(service, row::text(&lock, "lock"), force).await?;
        }
        Target::Owner(text) => {
            for lock in target::locks_of(service, &text).await? {
                match release(service, row::text(&lock, "lock"), force).await {
                    // The lock was released meanwhile.
                    Err(error) if error.is_no_such_object() => {}
                    released => released?,
                }
            }
        }
    }
    Ok(Exit::SUCCESS)
}

async fn release(service: &ServiceConnection, path: &str, force: bool) -> Result<(), Error> {
    let lock = service.lock(path).await?;
    let options = Options::from([("force", force.into())]);
    service.call_method(lock.inner(), "Release", &(options,)).await
}
