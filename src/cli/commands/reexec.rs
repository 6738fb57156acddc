//! `reexec`: re-executes the service from the installed program.
//!
//! The service replies once the new program has confirmed that it can take over. It then leaves the
//! bus and returns with another unique name. Whether it was replaced is determined after that.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt;
use serde_json::json;
use tokio::time::timeout;
use zbus::fdo::{DBusProxy, NameOwnerChangedStream};
use zbus::names::{BusName, OwnedUniqueName};

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::format::json;
use crate::cli::process::lock_file;
use crate::cli::terminal::output::{OutputFormat, print_result};
use crate::client::{Bus, ManagerProxy, Options, SERVICE};

/// The time for the service to return. It waits some seconds for running requests before it leaves
/// the bus.
const RETURN_TIMEOUT: Duration = Duration::from_secs(30);

const AFTER_HELP: &str = "\
Run it after an upgrade. The service first checks that the installed program can \
take over; if not, it continues to run unchanged. All locks are held throughout. \
On the system bus, users other than root need an administrator's password.";

/// Re-execute the service from the installed program, keeping all locks
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The service's runtime directory, to find its process if the bus cannot be reached
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
}

/// A request that the service has accepted, with the state of the service before it.
struct PendingReexec {
    changes: NameOwnerChangedStream,
    first: OwnedUniqueName,
    version: String,
    /// The start time, as [`start_time`] returns it.
    since: Option<u64>,
}

/// Re-executes the service, waits for it, and prints both versions.
pub(crate) async fn perform(
    bus: Bus,
    arguments: Arguments,
    format: OutputFormat,
) -> Result<Exit, Error> {
    let pending = async {
        let service = ServiceConnection::connect_via_bus(bus).await?.without_activation();
        let pending = request_reexec(&service).await?;
        Ok((service, pending))
    };
    let (service, pending) = pending.await.map_err(|error: Error| {
        if error.is_unavailable() || error.is_unknown_method() {
            let directory = arguments.runtime_dir.or_else(|| lock_file::default_directory(bus));
            return error.with_advice(bus, &lock_file::reexec_advice(directory.as_deref()));
        }
        error
    })?;
    let (before, since) = (pending.version.clone(), pending.since);
    wait_for_return(pending).await?;
    let manager = service.manager().await?;
    let after = manager.version().await?;
    let same_run = since.is_some() && start_time(&manager).await == since;
    let pid = service.pid().await?;
    if same_run || is_executable_deleted(pid) {
        let text = format!(
            "vmlockd {after} was not replaced and still runs as process {pid}; its log names the cause"
        );
        return Err(Error::Failed(text));
    }
    let text = match format {
        OutputFormat::Json => {
            json::document(&json!({ "before": before, "after": after, "pid": pid }))
        }
        OutputFormat::Text => {
            format!("vmlockd {before} was replaced by vmlockd {after}, in process {pid}\n")
        }
    };
    print_result(format, &text)?;
    Ok(Exit::SUCCESS)
}

/// Calls `Reexecute`, without activating a stopped service.
async fn request_reexec(service: &ServiceConnection) -> Result<PendingReexec, Error> {
    let bus = DBusProxy::new(service.bus_connection().await?).await?;
    let changes = bus.receive_name_owner_changed_with_args(&[(0, SERVICE)]).await?;
    let first = bus.get_name_owner(BusName::try_from(SERVICE)?).await?;
    let manager = service.manager().await?;
    let version = manager.version().await?;
    let since = start_time(&manager).await;
    service.call_method::<_, ()>(manager.inner(), "Reexecute", &(Options::new(),)).await?;
    Ok(PendingReexec { changes, first, version, since })
}

/// Waits until the name on the bus has a new owner.
async fn wait_for_return(pending: PendingReexec) -> Result<(), Error> {
    let PendingReexec { mut changes, first, .. } = pending;
    let back = async {
        while let Some(change) = changes.next().await {
            if change.args()?.new_owner().as_ref().is_some_and(|owner| *owner != first) {
                return Ok(());
            }
        }
        Err(Error::ConnectionLost)
    };
    timeout(RETURN_TIMEOUT, back).await.unwrap_or_else(|_| {
        let limit = RETURN_TIMEOUT.as_secs();
        let text = format!("vmlockd left the bus {limit} s ago and has not returned");
        Err(Error::Unavailable(format!("{text}; its log names the cause")))
    })
}

/// Returns the time at which the service was started, in microseconds since 1970. It changes with
/// each exec. `None` if the service does not report it, or does not authorize this user for its
/// metrics.
async fn start_time(manager: &ManagerProxy<'_>) -> Option<u64> {
    let metrics = manager.get_metrics(Options::new()).await.ok()?;
    u64::try_from(&**metrics.get("since-usec")?).ok()
}

/// Whether the executable of a process was unlinked, so that the process itself was not replaced.
/// False if this user may not see it.
fn is_executable_deleted(pid: u32) -> bool {
    let program = fs::read_link(format!("/proc/{pid}/exe"));
    program.is_ok_and(|path| path.to_string_lossy().ends_with(" (deleted)"))
}
