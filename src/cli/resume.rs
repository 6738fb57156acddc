//! `resume`: a suspended owner acquires again what it has released.

use std::pin::pin;
use std::time::Instant;

use clap::Args;
use zbus::OwnedObjectPath;

use super::code::Code;
use super::disks::Disk;
use super::error::Error;
use super::line::Line;
use super::link::Link;
use super::output::{self, Form};
use super::row;
use super::signals::Signals;
use super::span::Span;
use super::suspend::{find_owner, report, suspended_locks};
use super::wait::{Begun, Wait, return_of_service, tell, unique_name};
use crate::client::{Options, OwnerProxy, Row, lists};

const AFTER_HELP: &str = "\
Acquires all locks that the owner had when it was suspended, or none of them, and \
prints the acquired locks. If it fails, the owner stays suspended. An owner that \
is not suspended stays as it is.

For the owner of another user, users other than root need an administrator's \
password.";

/// Acquire again what a suspended owner has released
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    wait: Wait,
    /// UUID (or its first digits) or name of the owner
    #[arg(value_name = "OWNER")]
    owner: String,
}

impl Arguments {
    /// Whether it waits for disks that other owners hold.
    pub(super) fn waits(&self) -> bool {
        self.wait.span().is_some()
    }
}

/// Resumes the owner and prints what it has acquired.
pub(super) async fn perform(link: &Link, arguments: Arguments, form: Form) -> Result<Code, Error> {
    let mut signals = Signals::catch()?;
    let owner = find_owner(link, &arguments.owner).await?;
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
