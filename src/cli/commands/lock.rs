//! `lock`: disks stay locked until `unlock`, for maintenance.

use std::os::fd::OwnedFd;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::timeout;
use uuid::Uuid;
use zbus::{MatchRule, OwnedObjectPath};

use crate::cli::acquire::open::{Opened, Opening, check_name, check_uuid};
use crate::cli::acquire::wait::Wait;
use crate::cli::acquire::why::Why;
use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::error::exit_code::Code;
use crate::cli::format::json;
use crate::cli::format::row;
use crate::cli::format::table::{Lean, Table};
use crate::cli::target::disk::Disk;
use crate::cli::terminal::output::{self, Form};
use crate::cli::terminal::signals::Signals;
use crate::client::{Options, Row, Subscription, lists};
use crate::lock::on_lost::OnLost;

/// How long an answer is awaited that is no longer wanted.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the service has to see that the lifeline is closed.
const LIMIT: Duration = Duration::from_secs(5);

const EXAMPLE: &str = "\
Example:
  vmlockctl lock --name backup --why 'nightly backup' \\
      web1.qcow2
  …
  vmlockctl unlock ./web1.qcow2

Such a lock is not bound to a process: it stays until 'vmlockctl unlock' or until \
the host reboots. To lock disks while a command runs, use 'vmlockctl run'.

Prints the UUID of the owner, and its locks.";

/// Lock disks until 'vmlockctl unlock', for maintenance
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// The owner's name
    #[arg(long, default_value = "vmlockctl lock", value_parser = check_name)]
    name: String,
    /// The owner's UUID [default: a new one]
    #[arg(long, value_parser = check_uuid)]
    uuid: Option<String>,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    wait: Wait,
    /// Also lock disks that this host itself uses
    #[arg(long)]
    in_use: bool,
    /// Disk images, block devices or leases (lease:DIRECTORY/KEY); MODE is 'exclusive' (default) or
    /// 'shared'
    #[arg(required = true, value_name = "PATH[:MODE]", value_parser = Disk::parser())]
    disks: Vec<Disk>,
}

impl Arguments {
    /// How many disks are to be locked.
    pub(crate) fn disks(&self) -> usize {
        self.disks.len()
    }

    /// Whether it waits for what others hold.
    pub(crate) fn waits(&self) -> bool {
        self.wait.span().is_some()
    }
}

/// Locks the disks, and prints the owner and its locks.
pub(crate) async fn perform(link: &Link, args: Arguments, form: Form) -> Result<Code, Error> {
    let uuid = args.uuid.unwrap_or_else(|| Uuid::new_v4().to_string());
    let mut signals = Signals::catch()?;
    let (name, disks, wait) = (&args.name, &args.disks[..], args.wait.span());
    // There is no process to pause or kill.
    let (in_use, on_lost) = (args.in_use, OnLost::Notify);
    let (uuid, why) = (&uuid, args.why.text());
    let opening = Opening { name, why, uuid, manual: true, disks, in_use, on_lost, wait };
    let mut request = Box::pin(opening.open(link));
    let Opened { path, lifeline } = tokio::select! {
        opened = &mut request => opened?,
        signal = signals.next() => {
            if wait.is_some() {
                let _ = timeout(PATIENCE, opening.give_up(link)).await;
            }
            // The caller does not learn of locks that are granted now. If the service waits for a
            // password, it withdraws the request when the connection ends.
            if let Ok(Ok(opened)) = timeout(PATIENCE, &mut request).await {
                link.owner(&opened.path).await?.close(Options::new()).await?;
            }
            return Err(Error::Interrupted(signal as i32));
        }
    };
    match report(link, &path, uuid, lifeline, form).await {
        Ok(()) => Ok(Code::SUCCESS),
        Err(error) => Err(withdraw(link, &path, uuid, error).await),
    }
}

/// Prints the owner and its locks.
async fn report(
    link: &Link,
    path: &OwnedObjectPath,
    uuid: &str,
    lifeline: OwnedFd,
    form: Form,
) -> Result<(), Error> {
    // Nothing is wrong if that is not seen in time: the locks are there.
    let _ = timeout(LIMIT, give_back(link, path, lifeline)).await;
    let filter = lists::path_option("owner", path);
    let locks = lists::locks(&link.manager().await?, filter).await?;
    let ours = |lock: &Row| row::text(lock, "owner") == path.as_str();
    let locks: Vec<Row> = locks.into_iter().filter(ours).collect();
    let text = match form {
        Form::Json => {
            let locks = json::objects(&locks);
            json::document(&json!({ "owner": path.as_str(), "uuid": uuid, "locks": locks }))
        }
        Form::Text => text(uuid, &locks),
    };
    output::report(form, &text)
}

/// Closes an owner that could not be reported: a caller that is told of a failure does not expect
/// locks. Returns the error to report.
async fn withdraw(link: &Link, path: &OwnedObjectPath, uuid: &str, error: Error) -> Error {
    let closed = async { Ok::<_, Error>(link.owner(path).await?.close(Options::new()).await?) };
    let closed = timeout(LIMIT, closed).await;
    let outcome = match closed {
        Ok(Ok(())) => "nothing is locked".to_owned(),
        _ => format!("the disks may still be locked; 'vmlockctl unlock {uuid}' unlocks them"),
    };
    let why = match error {
        Error::ReaderGone => "cannot write to standard output: Broken pipe".to_owned(),
        error => error.message(link.bus).unwrap_or_default(),
    };
    Error::Failed(format!("{why}; {outcome}"))
}

/// Closes the lifeline, which such an owner does not need, and waits until that is seen: `unlock`
/// takes an owner with a lifeline for a living machine.
async fn give_back(link: &Link, path: &OwnedObjectPath, lifeline: OwnedFd) -> Result<(), Error> {
    let rule = MatchRule::builder()
        .path(path)
        .interface("org.freedesktop.DBus.Properties")
        .member("PropertiesChanged");
    let mut changes = Subscription::new(link.bus().await?, rule).await?;
    drop(lifeline);
    let owner = link.owner(path).await?;
    while owner.anchors().await?.iter().any(|anchor| anchor == "lifeline") {
        changes.next().await;
    }
    Ok(())
}

fn text(uuid: &str, locks: &[Row]) -> String {
    let mut table =
        Table::new([("LOCK", Lean::Right), ("MODE", Lean::Left), ("RESOURCE", Lean::Left)]);
    for lock in locks {
        let word = |key| row::text(lock, key).to_owned();
        table.push([row::lock_number(lock), word("mode"), word("resource")]);
    }
    format!("{uuid}\n{table}")
}
