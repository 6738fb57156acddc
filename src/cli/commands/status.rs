//! `status`: the state of the service on one screen.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::cli::connection::ServiceConnection;
use crate::cli::connection::lists::has_fd_store;
use crate::cli::doctor;
use crate::cli::doctor::report::{Finding, Severity};
use crate::cli::doctor::service::VERSION;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::format::clock;
use crate::cli::format::json;
use crate::cli::format::row;
use crate::cli::format::table::pairs;
use crate::cli::process::libvirt_socket::LibvirtSocket;
use crate::cli::process::starter::{self, Starter};
use crate::cli::process::unit::Unit;
use crate::cli::terminal::output::{OutputFormat, print, print_message};
use crate::client::{Bus, ManagerProxy, Options, PRIVATE_SOCKET};
use crate::lock::text::escape::shown_path;

const AFTER_HELP: &str = "\
A stopped service is not started.

Exit codes:
   0  the service is running
  69  the service is not running, or the bus cannot be
      reached";

/// Show the state of the service on one screen
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {}

/// The timeout of calls to the bus and systemd, which only some lines of the output need.
const BUS_TIMEOUT: Duration = Duration::from_secs(5);
/// The timeout of the checks of `doctor`.
const CHECKS_TIMEOUT: Duration = Duration::from_secs(15);

/// The state of a running service.
#[derive(Debug)]
struct Status {
    bus: Bus,
    /// Whether it was called on the private socket.
    private: bool,
    version: String,
    /// The installed executable, if it is not the file that the service executes.
    replaced: Option<PathBuf>,
    pid: Option<u32>,
    starter: Starter,
    /// The time of its start, in microseconds since 1970.
    since: Option<u64>,
    owners: u32,
    locks: u32,
    lost: Option<u64>,
    waiting: u32,
    /// Whether its locks survive a crash.
    is_crash_safe: bool,
    libvirt: LibvirtSocket,
    /// The most severe finding of `doctor`, or the reason why there is none.
    finding: Result<Finding, String>,
}

/// Prints the state of the service, or that it is not running.
pub(crate) async fn perform(bus: Bus, format: OutputFormat) -> Result<Exit, Error> {
    let status = async {
        let service = ServiceConnection::connect(bus).await?.without_activation();
        match service.manager().await {
            Ok(manager) => read_status(&service, &manager).await,
            Err(error) => Err(add_unit_state(&service, error).await),
        }
    };
    match status.await {
        Ok(status) => {
            print(&match format {
                OutputFormat::Json => json::document(&status.to_json()),
                OutputFormat::Text => status.text(),
            })?;
            Ok(Exit::SUCCESS)
        }
        Err(error) if error.is_unavailable() && format == OutputFormat::Json => {
            print(&json::document(&json!({ "running": false, "bus": bus.as_str() })))?;
            print_message(&error.message(bus).unwrap_or_default());
            Ok(error.exit())
        }
        Err(error) => Err(error),
    }
}

/// Adds the state of the unit to the error for a service that is not running.
async fn add_unit_state(service: &ServiceConnection, error: Error) -> Error {
    match timeout(BUS_TIMEOUT, Unit::read(service)).await {
        Ok(Ok(Some(unit))) if error.is_unavailable() && !unit.active.is_empty() => error
            .with_advice(
                service.bus,
                &format!("the state of vmlockd.service is '{}'", unit.active),
            ),
        _ => error,
    }
}

async fn read_status(
    service: &ServiceConnection,
    manager: &ManagerProxy<'_>,
) -> Result<Status, Error> {
    let version = manager.version().await?;
    let is_crash_safe = has_fd_store(manager).await?;
    let (owners, locks) = (manager.n_owners().await?, manager.n_locks().await?);
    let waiting = manager.n_waiting().await?;
    let (since, lost) = start_time_and_lost(manager).await;
    // On the private socket, root gets the status even if the bus does not respond.
    let read_process = async {
        let pid = service.pid().await.ok();
        (pid, Unit::read(service).await.ok().flatten())
    };
    let (pid, unit) = timeout(BUS_TIMEOUT, read_process).await.unwrap_or_default();
    Ok(Status {
        bus: service.bus,
        private: service.is_private(),
        version,
        replaced: pid.and_then(starter::replaced_executable),
        pid,
        starter: Starter::of(pid, unit.as_ref()),
        since,
        owners,
        locks,
        lost,
        waiting,
        is_crash_safe,
        libvirt: LibvirtSocket::detect(service.bus, pid),
        finding: most_severe_finding(service).await,
    })
}

/// Returns the time at which the service was started, and the number of lost locks. The service may
/// not authorize this user for its metrics.
async fn start_time_and_lost(manager: &ManagerProxy<'_>) -> (Option<u64>, Option<u64>) {
    let Ok(metrics) = manager.get_metrics(Options::new()).await else { return (None, None) };
    let number = |key| metrics.contains_key(key).then(|| row::number(&metrics, key));
    (number("since-usec"), number("lost"))
}

/// Returns the most severe finding of `doctor`; the first one if there are several.
async fn most_severe_finding(service: &ServiceConnection) -> Result<Finding, String> {
    let mut findings = Vec::new();
    match timeout(CHECKS_TIMEOUT, doctor::run_checks(service, &mut findings)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(error.message(service.bus).unwrap_or_default()),
        Err(_) => return Err("the checks did not end in time".to_owned()),
    }
    let more_severe = |a: Finding, b: Finding| if b.severity > a.severity { b } else { a };
    findings.into_iter().reduce(more_severe).ok_or_else(|| "nothing was checked".to_owned())
}

impl Status {
    /// Formats the status for people.
    fn text(&self) -> String {
        let mut lines = vec![(
            "Service",
            format!("vmlockd {} is running on the {} bus", self.version, self.bus.as_str()),
        )];
        if self.version != VERSION {
            let text = format!("vmlockctl is {VERSION}; 'vmlockctl reexec' updates the service");
            lines.push(("Version", text));
        }
        if let Some(path) = &self.replaced {
            let path = shown_path(path);
            let text = format!("{path} was replaced; 'vmlockctl reexec' updates the service");
            lines.push(("Executable", text));
        }
        if self.private {
            lines.push(("Connection", format!("private socket {PRIVATE_SOCKET}")));
        }
        lines.push(("Started", self.starter.text()));
        lines.extend(self.pid.map(|pid| ("PID", pid.to_string())));
        lines.extend(self.since.map(|since| ("Since", clock::exact(since))));
        lines.push(("Owners", self.owners.to_string()));
        let lost = match self.lost {
            None | Some(0) => String::new(),
            Some(lost) => format!(" ({lost} LOST)"),
        };
        lines.push(("Locks", format!("{}{lost}", self.locks)));
        lines.push(("Waiting", self.waiting.to_string()));
        let is_crash_safe = if self.is_crash_safe {
            "yes (locks are kept if the service crashes)"
        } else {
            "no (if the service crashes, all disks are unlocked until it runs again)"
        };
        lines.push(("Crash-safe", is_crash_safe.to_owned()));
        lines.push(("libvirt", self.libvirt.text()));
        lines.push(("Checks", self.finding_text()));
        let owned = |(name, value): (&str, String)| (name.to_owned(), value);
        pairs(&lines.into_iter().map(owned).collect::<Vec<_>>())
    }

    fn finding_text(&self) -> String {
        match &self.finding {
            Ok(finding) if finding.severity == Severity::Ok => "ok".to_owned(),
            Ok(finding) => {
                let (severity, message) = (finding.severity.shown(), finding.message());
                format!("{severity}: {message}; run 'vmlockctl doctor'")
            }
            Err(cause) => format!("incomplete: {cause}; run 'vmlockctl doctor'"),
        }
    }

    /// Converts the status to JSON.
    fn to_json(&self) -> Value {
        let (unit_state, unit_file_state) = match &self.starter {
            Starter::Systemd { active, file } => (Some(active), Some(file)),
            _ => (None, None),
        };
        let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let finding = match &self.finding {
            Ok(finding) => finding.to_json(),
            Err(_) => Value::Null,
        };
        json!({
            "running": true,
            "bus": self.bus.as_str(),
            "private-socket": self.private,
            "version": self.version,
            "vmlockctl-version": VERSION,
            "replaced-executable": self.replaced.as_deref().map(path),
            "started-by": self.starter.as_str(),
            "unit-state": unit_state,
            "unit-file-state": unit_file_state,
            "pid": self.pid,
            "since-usec": self.since,
            "owners": self.owners,
            "locks": self.locks,
            "lost": self.lost,
            "waiting": self.waiting,
            "keeps-locks": self.is_crash_safe,
            "serves-libvirt": self.libvirt.is_served(),
            "libvirt-socket": self.libvirt.socket().map(path),
            "worst-finding": finding,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            bus: Bus::System,
            private: true,
            version: VERSION.to_owned(),
            replaced: None,
            pid: Some(7),
            starter: Starter::Systemd { active: "active".into(), file: "enabled".into() },
            since: Some(1_000_000_000_000_000),
            owners: 2,
            locks: 5,
            lost: Some(0),
            waiting: 1,
            is_crash_safe: true,
            libvirt: LibvirtSocket::Unserved,
            finding: Ok(Finding::new(Severity::Ok, "service", "it answers")),
        }
    }

    #[test]
    fn a_normal_status_is_short() {
        let text = status().text();
        assert!(text.starts_with(&format!("Service:    vmlockd {VERSION} is running")), "{text}");
        assert!(text.contains("\nStarted:    by systemd (vmlockd.service: active, enabled)\n"));
        assert!(
            text.contains("\nLocks:      5\n") && text.ends_with("\nChecks:     ok\n"),
            "{text}"
        );
        assert!(!text.contains("reexec"), "{text}");
        let object = status().to_json();
        assert_eq!((&object["running"], &object["pid"]), (&true.into(), &7.into()));
        assert_eq!(object["worst-finding"]["state"], "ok");
        assert_eq!(object["replaced-executable"], Value::Null);
    }

    #[test]
    fn problems_are_reported_with_advice() {
        let status = Status {
            version: "0.0.1".into(),
            replaced: Some("/usr/sbin/vmlockd".into()),
            lost: Some(3),
            is_crash_safe: false,
            finding: Ok(Finding::new(Severity::Danger, "lock", "lock 3 is LOST")),
            ..status()
        };
        let text = status.text();
        for words in [
            "vmlockctl is ",
            "Executable: /usr/sbin/vmlockd was replaced; 'vmlockctl reexec' updates the service",
            "5 (3 LOST)",
            "Crash-safe: no (if the service crashes, all disks are unlocked until it runs again)",
            "DANGER: lock 3 is LOST; run 'vmlockctl doctor'",
        ] {
            assert!(text.contains(words), "no {words} in {text}");
        }
        let unfinished = Status { finding: Err("not authorized".into()), ..status };
        assert!(unfinished.text().contains("incomplete: not authorized; run"), "no cause");
    }
}
