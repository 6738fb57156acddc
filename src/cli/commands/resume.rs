//! `resume`: a suspended owner acquires again what it has released.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Instant;

use clap::Args;
use zbus::OwnedObjectPath;

use crate::cli::acquire::wait::{Begun, Wait, return_of_service, tell, unique_name};
use crate::cli::commands::suspend::{report, suspended_locks};
use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::error::exit_code::Code;
use crate::cli::format::duration::Span;
use crate::cli::format::row;
use crate::cli::target::disk::Disk;
use crate::cli::target::{self, Target};
use crate::cli::terminal::output::{self, Form};
use crate::cli::terminal::signals::Signals;
use crate::cli::terminal::slow_reply::report_slow_files;
use crate::cli::terminal::status_line::Line;
use crate::client::{Options, OwnerProxy, Row, lists};
use crate::lock::lease::spoken;
use crate::lock::printable::shown_path;

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
    wait: Wait,
    /// The owner, or a disk that it held when it was suspended
    #[arg(value_name = "OWNER|LOCK|PATH")]
    target: OsString,
}

impl Arguments {
    /// Whether it waits for disks that other owners hold.
    pub(crate) fn waits(&self) -> bool {
        self.wait.span().is_some()
    }
}

/// Resumes the owner and prints what it has acquired.
pub(crate) async fn perform(link: &Link, arguments: Arguments, form: Form) -> Result<Code, Error> {
    let mut signals = Signals::catch()?;
    let owner = find_owner(link, Target::parse(arguments.target)?).await?;
    let proxy = link.owner(row::text(&owner, "owner")).await?;
    let resumed = async {
        match arguments.wait.span() {
            Some(span) => {
                let locks = suspended_locks(link, &owner).await?;
                wait(link, &proxy, &locks.iter().filter_map(disk).collect::<Vec<_>>(), span).await
            }
            None => resume(link, &proxy, Options::new()).await,
        }
    };
    let acquired = tokio::select! {
        resumed = resumed => resumed?,
        // The service withdraws the request when the connection closes.
        signal = signals.next() => return Err(Error::Interrupted(signal as i32)),
    };
    let filter = lists::path_option("owner", proxy.inner().path());
    let mut locks = lists::locks(&link.manager().await?, filter).await?;
    locks.retain(|lock| acquired.iter().any(|path| path.as_str() == row::text(lock, "lock")));
    let outcome = match acquired.as_slice() {
        [] => "is not suspended",
        _ => "is resumed; it has acquired",
    };
    output::report(form, &report(form, &owner, outcome, &locks))?;
    Ok(Code::SUCCESS)
}

/// Returns the owner that a target names. A disk names the owner that was suspended while it held
/// the disk, if there is one, and otherwise the owner that holds the disk.
async fn find_owner(link: &Link, target: Target) -> Result<Row, Error> {
    let Target::Path(path) = &target else { return target.owner(link).await };
    let mut found = Vec::new();
    for owner in lists::owners(&link.manager().await?).await? {
        if row::text(&owner, "state") == "suspended" {
            let locks = suspended_locks(link, &owner).await?;
            if locks.iter().any(|lock| is_named(row::text(lock, "resource"), path)) {
                found.push(owner);
            }
        }
    }
    let disk = spoken(&shown_path(path));
    match found.as_slice() {
        [owner] => Ok(owner.clone()),
        [] => target.owner(link).await.map_err(|error| match error {
            Error::Missing(_) => Error::Missing(format!(
                "no suspended owner held {disk}; 'vmlockctl owners' lists the owners"
            )),
            error => error,
        }),
        owners => {
            let name = |owner: &Row| {
                format!("{} ({})", row::text(owner, "uuid"), row::text(owner, "name"))
            };
            let names = owners.iter().map(name).collect::<Vec<_>>().join(", ");
            Err(Error::Usage(format!(
                "{disk} was held by each of the suspended owners {names}; give the UUID of one"
            )))
        }
    }
}

/// Whether a disk has this name, or a symbolic link leads to it.
fn is_named(resource: &str, path: &Path) -> bool {
    let real = || report_slow_files([path], || fs::canonicalize(path));
    Path::new(resource) == path || real().is_ok_and(|real: PathBuf| real == Path::new(resource))
}

/// Calls `Resume`.
async fn resume(
    link: &Link,
    owner: &OwnerProxy<'_>,
    options: Options<'_>,
) -> Result<Vec<OwnedObjectPath>, Error> {
    link.ask(owner.inner(), "Resume", &(options,)).await
}

/// Calls `Resume` with a timeout and reports what it waits for. If the service restarts meanwhile, the
/// call is repeated for the time that is left.
async fn wait(
    link: &Link,
    owner: &OwnerProxy<'_>,
    disks: &[Disk],
    span: Span,
) -> Result<Vec<OwnedObjectPath>, Error> {
    let begun = Begun { at: Instant::now(), span };
    let mut line = Line::new();
    loop {
        let asked = unique_name(link).await;
        let mut reply = pin!(resume(link, owner, begun.options()));
        let reply = tokio::select! {
            reply = &mut reply => reply,
            never = tell(link, owner, disks, begun, &mut line) => match never {},
        };
        match reply {
            Err(error) if error.is_end_of_service() && !begun.is_over() => {
                if !return_of_service(link, owner, asked, begun, &mut line).await? {
                    return Err(error);
                }
            }
            reply => return reply,
        }
    }
}

/// A suspended lock as a disk that is waited for.
fn disk(lock: &Row) -> Option<Disk> {
    let mode = row::text(lock, "mode").parse().ok()?;
    Some(Disk { path: row::text(lock, "resource").into(), mode })
}
