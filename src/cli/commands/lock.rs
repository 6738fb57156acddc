//! `lock`: locks disks until `unlock`, for maintenance.

use std::os::fd::OwnedFd;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::timeout;
use uuid::Uuid;
use zbus::{MatchRule, OwnedObjectPath};

use crate::cli::acquire::open::{OpenedOwner, OwnerRequest, check_name, check_uuid};
use crate::cli::acquire::request::DiskRequest;
use crate::cli::acquire::timer::WaitOption;
use crate::cli::acquire::why::WhyOption;
use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::format::json;
use crate::cli::format::row;
use crate::cli::format::table::lock_table;
use crate::cli::target::disk::Disk;
use crate::cli::terminal::output::{self, OutputFormat};
use crate::cli::terminal::signals::Signals;
use crate::client::{Options, Row, Subscription, lists};
use crate::lock::model::loss_action::OnLost;

/// The time to wait for the reply to a request that was interrupted.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);
/// The time for the service to detect that the lifeline is closed.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(5);

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
    why: WhyOption,
    #[command(flatten)]
    wait: WaitOption,
    /// Also lock disks that this host itself uses
    #[arg(long)]
    in_use: bool,
    /// Disk images, block devices or leases (lease:DIRECTORY/KEY); MODE is 'exclusive' (default) or
    /// 'shared'
    #[arg(required = true, value_name = "PATH[:MODE]", value_parser = Disk::parser())]
    disks: Vec<Disk>,
}

impl Arguments {
    /// Returns the number of disks to lock.
    pub(crate) fn disks(&self) -> usize {
        self.disks.len()
    }

    /// Whether the command waits for disks that are locked by other owners.
    pub(crate) fn waits(&self) -> bool {
        self.wait.is_wanted()
    }
}

/// Locks the disks, and prints the owner and its locks.
pub(crate) async fn perform(
    service: &ServiceConnection,
    args: Arguments,
    format: OutputFormat,
) -> Result<Exit, Error> {
    let uuid = args.uuid.unwrap_or_else(|| Uuid::new_v4().to_string());
    let mut signals = Signals::catch()?;
    let (name, wait) = (&args.name, args.wait.limit());
    let disks = DiskRequest { disks: &args.disks, in_use: args.in_use };
    // The owner has no process that could be paused or killed.
    let on_lost = OnLost::Notify;
    let (uuid, why) = (&uuid, args.why.text());
    let request = OwnerRequest { name, why, uuid, manual: true, disks, on_lost, wait };
    let mut opening = Box::pin(request.open(service));
    let OpenedOwner { path, lifeline } = tokio::select! {
        opened = &mut opening => opened?,
        signal = signals.next() => {
            if wait.is_some() {
                let _ = timeout(CANCEL_TIMEOUT, request.close_pending(service)).await;
            }
            // The user would not know of locks that are granted now. If the service is waiting for
            // a password, it cancels the request when the connection ends.
            if let Ok(Ok(opened)) = timeout(CANCEL_TIMEOUT, &mut opening).await {
                service.owner(&opened.path).await?.close(Options::new()).await?;
            }
            return Err(Error::Interrupted(signal as i32));
        }
    };
    match report(service, &path, uuid, lifeline, format).await {
        Ok(()) => Ok(Exit::SUCCESS),
        Err(error) => Err(close_owner(service, &path, uuid, error).await),
    }
}

/// Prints the owner and its locks.
async fn report(
    service: &ServiceConnection,
    path: &OwnedObjectPath,
    uuid: &str,
    lifeline: OwnedFd,
    format: OutputFormat,
) -> Result<(), Error> {
    // A timeout is not an error: the locks are held.
    let _ = timeout(SERVICE_TIMEOUT, close_lifeline(service, path, lifeline)).await;
    let filter = lists::path_option("owner", path);
    let locks = lists::locks(&service.manager().await?, filter).await?;
    let ours = |lock: &Row| row::text(lock, "owner") == path.as_str();
    let locks: Vec<Row> = locks.into_iter().filter(ours).collect();
    let text = match format {
        OutputFormat::Json => {
            let locks = json::objects(&locks);
            json::document(&json!({ "owner": path.as_str(), "uuid": uuid, "locks": locks }))
        }
        OutputFormat::Text => format!("{uuid}\n{}", lock_table(&locks)),
    };
    output::print_result(format, &text)
}

/// Closes an owner after its report failed, since the user does not expect locks after a failure.
/// Returns the error to report.
async fn close_owner(
    service: &ServiceConnection,
    path: &OwnedObjectPath,
    uuid: &str,
    error: Error,
) -> Error {
    let closed = async { Ok::<_, Error>(service.owner(path).await?.close(Options::new()).await?) };
    let closed = timeout(SERVICE_TIMEOUT, closed).await;
    let outcome = match closed {
        Ok(Ok(())) => "nothing is locked".to_owned(),
        _ => format!("the disks may still be locked; 'vmlockctl unlock {uuid}' unlocks them"),
    };
    let why = match error {
        Error::OutputClosed => "cannot write to standard output: Broken pipe".to_owned(),
        error => error.message(service.bus).unwrap_or_default(),
    };
    Error::Failed(format!("{why}; {outcome}"))
}

/// Closes the lifeline, which a manual owner does not need, and waits until the service has
/// detected it: `unlock` refuses an owner with a lifeline, whose VM may be running.
async fn close_lifeline(
    service: &ServiceConnection,
    path: &OwnedObjectPath,
    lifeline: OwnedFd,
) -> Result<(), Error> {
    let rule = MatchRule::builder()
        .path(path)
        .interface("org.freedesktop.DBus.Properties")
        .member("PropertiesChanged");
    let mut changes = Subscription::new(service.bus_connection().await?, rule).await?;
    drop(lifeline);
    let owner = service.owner(path).await?;
    while owner.anchors().await?.iter().any(|anchor| anchor == "lifeline") {
        changes.next().await;
    }
    Ok(())
}
