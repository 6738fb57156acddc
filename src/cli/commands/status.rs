//! `status`: the state of the service on one screen.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::timeout;
use zbus::fdo::DBusProxy;
use zbus::names::BusName;

use crate::cli::connection::Link;
use crate::cli::doctor;
use crate::cli::doctor::finding::{Grade, Remark};
use crate::cli::error::Error;
use crate::cli::error::exit_code::Code;
use crate::cli::format::clock;
use crate::cli::format::json;
use crate::cli::format::row;
use crate::cli::format::table::pairs;
use crate::cli::service_process::libvirt_socket::Libvirt;
use crate::cli::service_process::origin::{self, Origin};
use crate::cli::service_process::unit::Unit;
use crate::cli::terminal::output::{Form, complain, print};
use crate::client::{Bus, ManagerProxy, Options, PRIVATE_SOCKET, SERVICE};
use crate::lock::printable::shown_path;

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

/// What this tool is.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How long the bus and systemd may take. Only some lines need their answers.
const LIMIT: Duration = Duration::from_secs(5);
/// How long the checks of `doctor` may take.
const CHECKS_LIMIT: Duration = Duration::from_secs(15);

/// What is known of a service that is running.
#[derive(Debug)]
struct Status {
    bus: Bus,
    /// Whether it was asked on the private socket.
    private: bool,
    version: String,
    /// The installed executable, if it is another file than the one that runs.
    replaced: Option<PathBuf>,
    pid: Option<u32>,
    origin: Origin,
    /// Since when it runs, in microseconds since the epoch.
    since: Option<u64>,
    owners: u32,
    locks: u32,
    lost: Option<u64>,
    waiting: u32,
    /// Whether its locks outlive a crash.
    kept: bool,
    libvirt: Libvirt,
    /// The gravest remark of `doctor`, or why there is none.
    finding: Result<Remark, String>,
}

/// Prints the state of the service, or that it is not running.
pub(crate) async fn perform(bus: Bus, form: Form) -> Result<Code, Error> {
    let asked = async {
        let link = Link::open_private(bus).await?.into_running();
        match link.manager().await {
            Ok(manager) => look(&link, &manager).await,
            Err(error) => Err(with_unit(&link, error).await),
        }
    };
    match asked.await {
        Ok(status) => {
            print(&match form {
                Form::Json => json::document(&status.object()),
                Form::Text => status.text(),
            })?;
            Ok(Code::SUCCESS)
        }
        Err(error) if error.is_absence() && form == Form::Json => {
            print(&json::document(&json!({ "running": false, "bus": bus.as_str() })))?;
            complain(&error.message(bus).unwrap_or_default());
            Ok(error.code())
        }
        Err(error) => Err(error),
    }
}

/// Adds to the error that the service is not running what systemd says of its unit.
async fn with_unit(link: &Link, error: Error) -> Error {
    match timeout(LIMIT, Unit::look(link)).await {
        Ok(Ok(Some(unit))) if error.is_absence() && !unit.active.is_empty() => error
            .with_advice(link.bus, &format!("the state of vmlockd.service is '{}'", unit.active)),
        _ => error,
    }
}

async fn look(link: &Link, manager: &ManagerProxy<'_>) -> Result<Status, Error> {
    let version = manager.version().await?;
    let kept = manager.features().await?.iter().any(|feature| feature == "fd-store");
    let (owners, locks) = (manager.n_owners().await?, manager.n_locks().await?);
    let waiting = manager.n_waiting().await?;
    let (since, lost) = from_metrics(manager).await;
    // Root is answered on the private socket also while the bus is not.
    let seen = async {
        let pid = pid(link).await.ok();
        (pid, Unit::look(link).await.ok().flatten())
    };
    let (pid, unit) = timeout(LIMIT, seen).await.unwrap_or_default();
    Ok(Status {
        bus: link.bus,
        private: link.is_private(),
        version,
        replaced: pid.and_then(origin::replaced),
        pid,
        origin: Origin::of(pid, unit.as_ref()),
        since,
        owners,
        locks,
        lost,
        waiting,
        kept,
        libvirt: Libvirt::look(link.bus, pid),
        finding: worst(link).await,
    })
}

/// Since when the service runs, and how many locks are lost. The service may refuse to tell a user.
async fn from_metrics(manager: &ManagerProxy<'_>) -> (Option<u64>, Option<u64>) {
    let Ok(metrics) = manager.get_metrics(Options::new()).await else { return (None, None) };
    let number = |key| metrics.contains_key(key).then(|| row::number(&metrics, key));
    (number("since-usec"), number("lost"))
}

async fn pid(link: &Link) -> Result<u32, Error> {
    let bus = DBusProxy::new(link.bus().await?).await?;
    Ok(bus.get_connection_unix_process_id(BusName::try_from(SERVICE)?).await?)
}

/// The gravest remark of `doctor`: the first of several.
async fn worst(link: &Link) -> Result<Remark, String> {
    let mut remarks = Vec::new();
    match timeout(CHECKS_LIMIT, doctor::examine(link, &mut remarks)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(error.message(link.bus).unwrap_or_default()),
        Err(_) => return Err("the checks did not end in time".to_owned()),
    }
    let gravest = |a: Remark, b: Remark| if b.grade > a.grade { b } else { a };
    remarks.into_iter().reduce(gravest).ok_or_else(|| "nothing was checked".to_owned())
}

impl Status {
    /// For a person.
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
        lines.push(("Started", self.origin.text()));
        lines.extend(self.pid.map(|pid| ("PID", pid.to_string())));
        lines.extend(self.since.map(|since| ("Since", clock::exact(since))));
        lines.push(("Owners", self.owners.to_string()));
        let lost = match self.lost {
            None | Some(0) => String::new(),
            Some(lost) => format!(" ({lost} LOST)"),
        };
        lines.push(("Locks", format!("{}{lost}", self.locks)));
        lines.push(("Waiting", self.waiting.to_string()));
        let kept = if self.kept {
            "yes (locks are kept if the service crashes)"
        } else {
            "no (if the service crashes, all disks are unlocked until it runs again)"
        };
        lines.push(("Crash-safe", kept.to_owned()));
        lines.push(("libvirt", self.libvirt.text()));
        lines.push(("Checks", self.finding_text()));
        let owned = |(name, value): (&str, String)| (name.to_owned(), value);
        pairs(&lines.into_iter().map(owned).collect::<Vec<_>>())
    }

    fn finding_text(&self) -> String {
        match &self.finding {
            Ok(remark) if remark.grade == Grade::Ok => "ok".to_owned(),
            Ok(remark) => {
                let (grade, message) = (remark.grade.shown(), remark.message());
                format!("{grade}: {message}; run 'vmlockctl doctor'")
            }
            Err(cause) => format!("incomplete: {cause}; run 'vmlockctl doctor'"),
        }
    }

    /// For a program.
    fn object(&self) -> Value {
        let (unit_state, unit_file_state) = match &self.origin {
            Origin::Systemd { active, file } => (Some(active), Some(file)),
            _ => (None, None),
        };
        let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let finding = match &self.finding {
            Ok(remark) => remark.object(),
            Err(_) => Value::Null,
        };
        json!({
            "running": true,
            "bus": self.bus.as_str(),
            "private-socket": self.private,
            "version": self.version,
            "vmlockctl-version": VERSION,
            "replaced-executable": self.replaced.as_deref().map(path),
            "started-by": self.origin.word(),
            "unit-state": unit_state,
            "unit-file-state": unit_file_state,
            "pid": self.pid,
            "since-usec": self.since,
            "owners": self.owners,
            "locks": self.locks,
            "lost": self.lost,
            "waiting": self.waiting,
            "keeps-locks": self.kept,
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
            origin: Origin::Systemd { active: "active".into(), file: "enabled".into() },
            since: Some(1_000_000_000_000_000),
            owners: 2,
            locks: 5,
            lost: Some(0),
            waiting: 1,
            kept: true,
            libvirt: Libvirt::Not,
            finding: Ok(Remark::new(Grade::Ok, "service", "it answers")),
        }
    }

    #[test]
    fn what_is_as_it_should_be_is_short() {
        let text = status().text();
        assert!(text.starts_with(&format!("Service:    vmlockd {VERSION} is running")), "{text}");
        assert!(text.contains("\nStarted:    by systemd (vmlockd.service: active, enabled)\n"));
        assert!(
            text.contains("\nLocks:      5\n") && text.ends_with("\nChecks:     ok\n"),
            "{text}"
        );
        assert!(!text.contains("reexec"), "{text}");
        let object = status().object();
        assert_eq!((&object["running"], &object["pid"]), (&true.into(), &7.into()));
        assert_eq!(object["worst-finding"]["state"], "ok");
        assert_eq!(object["replaced-executable"], Value::Null);
    }

    #[test]
    fn what_needs_attention_is_said_with_what_to_do() {
        let status = Status {
            version: "0.0.1".into(),
            replaced: Some("/usr/sbin/vmlockd".into()),
            lost: Some(3),
            kept: false,
            finding: Ok(Remark::new(Grade::Danger, "lock", "lock 3 is LOST")),
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
