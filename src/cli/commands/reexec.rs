//! `reexec`: re-executes the service from the installed program.
//!
//! The service replies once the new program has confirmed that it can take over. It then leaves the bus
//! and returns under another unique name; only its state after that counts.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt;
use serde_json::json;
use tokio::time::timeout;
use zbus::fdo::{DBusProxy, NameOwnerChangedStream};
use zbus::names::{BusName, OwnedUniqueName};

use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::error::exit_code::Code;
use crate::cli::format::json;
use crate::cli::service_process::lock_file;
use crate::cli::terminal::output::{Form, report};
use crate::client::{Bus, ManagerProxy, Options, SERVICE};

/// How long the service may be away. It waits some seconds for requests that are under way.
const LIMIT: Duration = Duration::from_secs(30);

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

/// A service that has accepted the request.
struct Asked {
    changes: NameOwnerChangedStream,
    first: OwnedUniqueName,
    version: String,
    /// When it was started, as [`started`] returns it.
    since: Option<u64>,
}

/// Re-executes the service, waits for it, and prints both versions.
pub(crate) async fn perform(bus: Bus, arguments: Arguments, form: Form) -> Result<Code, Error> {
    let asked = async {
        let link = Link::open(bus).await?.into_running();
        let asked = ask(&link).await?;
        Ok((link, asked))
    };
    let (link, asked) = asked.await.map_err(|error: Error| {
        if error.is_absence() || error.is_unknown_method() {
            let directory = arguments.runtime_dir.or_else(|| lock_file::directory(bus));
            return error.with_advice(bus, &lock_file::advice(directory.as_deref()));
        }
        error
    })?;
    let (before, since) = (asked.version.clone(), asked.since);
    come_back(asked).await?;
    let manager = link.manager().await?;
    let after = manager.version().await?;
    let same_run = since.is_some() && started(&manager).await == since;
    let name = BusName::try_from(SERVICE)?;
    let pid = DBusProxy::new(link.bus().await?).await?.get_connection_unix_process_id(name).await?;
    if same_run || is_left_over(pid) {
        let text = format!(
            "vmlockd {after} was not replaced and still runs as process {pid}; its log names the cause"
        );
        return Err(Error::Failed(text));
    }
    let text = match form {
        Form::Json => json::document(&json!({ "before": before, "after": after, "pid": pid })),
        Form::Text => {
            format!("vmlockd {before} was replaced by vmlockd {after}, in process {pid}\n")
        }
    };
    report(form, &text)?;
    Ok(Code::SUCCESS)
}

/// Calls the service. A stopped service is not started.
async fn ask(link: &Link) -> Result<Asked, Error> {
    let bus = DBusProxy::new(link.bus().await?).await?;
    let changes = bus.receive_name_owner_changed_with_args(&[(0, SERVICE)]).await?;
    let first = bus.get_name_owner(BusName::try_from(SERVICE)?).await?;
    let manager = link.manager().await?;
    let version = manager.version().await?;
    let since = started(&manager).await;
    link.ask::<_, ()>(manager.inner(), "Reexecute", &(Options::new(),)).await?;
    Ok(Asked { changes, first, version, since })
}

/// Waits until the name is owned anew.
async fn come_back(asked: Asked) -> Result<(), Error> {
    let Asked { mut changes, first, .. } = asked;
    let back = async {
        while let Some(change) = changes.next().await {
            if change.args()?.new_owner().as_ref().is_some_and(|owner| *owner != first) {
                return Ok(());
            }
        }
        Err(Error::Lost)
    };
    timeout(LIMIT, back).await.unwrap_or_else(|_| {
        let limit = LIMIT.as_secs();
        let text = format!("vmlockd left the bus {limit} s ago and has not returned");
        Err(Error::Absent(format!("{text}; its log names the cause")))
    })
}

/// Returns when the service was started, in microseconds since 1970: a time that is new after each
/// exec. `None` where the service does not say, such as to a user that may not see its metrics.
async fn started(manager: &ManagerProxy<'_>) -> Option<u64> {
    let metrics = manager.get_metrics(Options::new()).await.ok()?;
    u64::try_from(&**metrics.get("since-usec")?).ok()
}

/// Whether the program of a process was replaced on disk: then the process was not replaced. False if
/// this user may not see it.
fn is_left_over(pid: u32) -> bool {
    let program = fs::read_link(format!("/proc/{pid}/exe"));
    program.is_ok_and(|path| path.to_string_lossy().ends_with(" (deleted)"))
}
