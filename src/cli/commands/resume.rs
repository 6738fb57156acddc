//! `resume`: acquires the locks of a suspended owner again.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::pin::pin;

use clap::Args;
use zbus::OwnedObjectPath;

use crate::cli::acquire::restart::{service_bus_name, wait_for_service};
use crate::cli::acquire::timer::{WaitOption, WaitTimer};
use crate::cli::acquire::wait_status::show_wait_status;
use crate::cli::commands::suspend::format_outcome;
use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::format::duration::TimeLimit;
use crate::cli::format::row;
use crate::cli::target::disk::Disk;
use crate::cli::target::{self, Target};
use crate::cli::terminal::output::{self, OutputFormat};
use crate::cli::terminal::signals::Signals;
use crate::cli::terminal::slow_reply::report_slow_files;
use crate::cli::terminal::status_line::StatusLine;
use crate::client::{Options, OwnerProxy, Row, lists};
use crate::lock::model::lease_name::spoken;
use crate::lock::text::escape::shown_path;

const AFTER_HELP: &str = "\
Acquires all locks that the owner had when it was suspended, or none of them, and \
prints the acquired locks. If it fails, the owner stays suspended. An owner that \
is not suspended stays as it is.

For the owner of another user, users other than root need an administrator's \
password.";

/// Acquire again what a suspended owner has released
#[derive(Debug, Args)]
#[command(after_help = target::help(AFTER_HELP))]
pub(crate) struct Arguments {
    #[command(flatten)]
    wait: WaitOption,
    /// The owner, or a disk that it held when it was suspended
    #[arg(value_name = "OWNER|LOCK|PATH")]
    target: OsString,
}

impl Arguments {
    /// Whether the command waits for disks that are locked by other owners.
    pub(crate) fn waits(&self) -> bool {
        self.wait.is_wanted()
    }
}

/// Resumes the owner and prints the acquired locks.
pub(crate) async fn perform(
    service: &ServiceConnection,
    arguments: Arguments,
    format: OutputFormat,
) -> Result<Exit, Error> {
    let mut signals = Signals::catch()?;
    let owner = find_owner(service, Target::parse(arguments.target)?).await?;
    let proxy = service.owner(row::text(&owner, "owner")).await?;
    let resumed = async {
        match arguments.wait.limit() {
            Some(limit) => {
                let locks = service.suspended_locks(&owner).await?;
                wait(service, &proxy, &locks.iter().filter_map(disk).collect::<Vec<_>>(), limit)
                    .await
            }
            None => resume(service, &proxy, Options::new()).await,
        }
    };
    let acquired = tokio::select! {
        resumed = resumed => resumed?,
        // The service withdraws the request when the connection closes.
        signal = signals.next() => return Err(Error::Interrupted(signal as i32)),
    };
    let filter = lists::path_option("owner", proxy.inner().path());
    let mut locks = lists::locks(&service.manager().await?, filter).await?;
    locks.retain(|lock| acquired.iter().any(|path| path.as_str() == row::text(lock, "lock")));
    let outcome = match acquired.as_slice() {
        [] => "is not suspended",
        _ => "is resumed; it has acquired",
    };
    output::print_result(format, &format_outcome(format, &owner, outcome, &locks))?;
    Ok(Exit::SUCCESS)
}

/// Returns the owner that a target names. For a disk this is the owner that was suspended while it
/// held the disk, or, if there is none, the current holder.
async fn find_owner(service: &ServiceConnection, target: Target) -> Result<Row, Error> {
    let Target::Path(path) = &target else { return target.owner(service).await };
    let mut found = Vec::new();
    for owner in lists::owners(&service.manager().await?).await? {
        if row::text(&owner, "state") == "suspended" {
            let locks = service.suspended_locks(&owner).await?;
            if locks.iter().any(|lock| is_named(row::text(lock, "resource"), path)) {
                found.push(owner);
            }
        }
    }
    let disk = spoken(&shown_path(path));
    match found.as_slice() {
        [owner] => Ok(owner.clone()),
        [] => target.owner(service).await.map_err(|error| match error {
            Error::Missing(_) => Error::Missing(format!(
                "no suspended owner held {disk}; 'vmlockctl owners' lists the owners"
            )),
            error => error,
        }),
        owners => {
            let names = row::owner_names(owners);
            Err(Error::Usage(format!(
                "{disk} was held by each of the suspended owners {names}; give the UUID of one"
            )))
        }
    }
}

/// Whether a path is the name of a disk, or a symbolic link to it.
fn is_named(resource: &str, path: &Path) -> bool {
    let real = || report_slow_files([path], || fs::canonicalize(path));
    Path::new(resource) == path || real().is_ok_and(|real: PathBuf| real == Path::new(resource))
}

/// Calls `Resume`.
async fn resume(
    service: &ServiceConnection,
    owner: &OwnerProxy<'_>,
    options: Options<'_>,
) -> Result<Vec<OwnedObjectPath>, Error> {
    service.call_method(owner.inner(), "Resume", &(options,)).await
}

/// Calls `Resume` with a timeout and shows the status of the wait. If the service restarts
/// meanwhile, repeats the call for the time that is left.
async fn wait(
    service: &ServiceConnection,
    owner: &OwnerProxy<'_>,
    disks: &[Disk],
    limit: TimeLimit,
) -> Result<Vec<OwnedObjectPath>, Error> {
    let timer = WaitTimer::start(limit);
    let mut line = StatusLine::new();
    loop {
        let bus_name = service_bus_name(service).await;
        let mut reply = pin!(resume(service, owner, timer.options()));
        let reply = tokio::select! {
            reply = &mut reply => reply,
            never = show_wait_status(service, owner, disks, timer, &mut line) => match never {},
        };
        match reply {
            Err(error) if error.is_service_gone() && !timer.is_over() => {
                if !wait_for_service(service, owner, bus_name, timer, &mut line).await? {
                    return Err(error);
                }
            }
            reply => return reply,
        }
    }
}

/// Returns the disk of a suspended lock.
fn disk(lock: &Row) -> Option<Disk> {
    let mode = row::text(lock, "mode").parse().ok()?;
    Some(Disk { path: row::text(lock, "resource").into(), mode })
}
