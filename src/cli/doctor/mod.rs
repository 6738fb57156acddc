//! `doctor`: diagnoses the service, its storage and its locks.

pub(crate) mod finding;
mod hosts;
mod polkit;
mod self_test;
mod storage;
mod virtlockd_locks;

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use zbus::fdo::DBusProxy;
use zbus::names::BusName;

use crate::cli::connection::Link;
use crate::cli::doctor::finding::{Grade, Remark};
use crate::cli::error::Error;
use crate::cli::error::exit_code::Code;
use crate::cli::format::clock;
use crate::cli::format::json;
use crate::cli::format::row;
use crate::cli::service_process::unit::Unit;
use crate::cli::terminal::output::{Form, print};
use crate::client::{Bus, ManagerProxy, Row, SERVICE, lists};

const AFTER_HELP: &str = "\
Checks that the service runs, has the version of this tool and keeps its locks \
over a restart, and lists locks and owners that need attention. Changes nothing, \
and needs no privileges. A stopped service is not started.

With a directory, this tool itself tests locks on the file system there, with a \
temporary file, and says whether other hosts see them. With a disk, it tests the \
directory of the disk; the disk is not opened.

Exit codes:
   0  no warnings
   1  a disk is in danger, because its lock is lost, its
      owner is not known, locks of two owners cover the
      same data, or locks do not work where it lies
  69  the service does not run or cannot be reached, or the
      bus cannot be reached
  78  no disk is in danger, but there are warnings: locks
      may be lost later";

/// Diagnose the service, its storage and its locks
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Test locks on the file system of this directory or disk instead
    #[arg(value_name = "DIRECTORY|DISK")]
    path: Option<PathBuf>,
}

/// What this tool is.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What the service calls an owner that it has made itself, for locks of which it knows no more.
const RECOVERED: &str = "recovered";
/// The name of the owner of locks that damaged records name.
const SUSPECT: &str = "suspect";

/// Runs the checks and prints the remarks.
pub(crate) async fn perform(bus: Bus, arguments: Arguments, form: Form) -> Result<Code, Error> {
    let mut remarks = Vec::new();
    if let Some(path) = arguments.path {
        self_test::examine(&path, &mut remarks)?;
        return tell(&remarks, form);
    }
    let examined = async {
        let link = Link::open(bus).await?.into_running();
        examine(&link, &mut remarks).await
    };
    let absent = match examined.await {
        Ok(()) => None,
        Err(error) if error.is_absence() => {
            let message = error.message(bus).unwrap_or_default();
            remarks.push(Remark::new(Grade::Danger, "service", message));
            virtlockd_locks::look(bus, &mut remarks);
            Some(error.code())
        }
        Err(error) => return Err(error),
    };
    let code = tell(&remarks, form)?;
    Ok(absent.unwrap_or(code))
}

/// Prints the remarks; returns the exit code for the gravest.
fn tell(remarks: &[Remark], form: Form) -> Result<Code, Error> {
    print(&match form {
        Form::Json => json::document(&remarks.iter().map(Remark::object).collect::<Value>()),
        Form::Text => remarks.iter().map(Remark::line).collect(),
    })?;
    Ok(remarks.iter().map(|remark| remark.grade).max().unwrap_or(Grade::Ok).code())
}

/// Adds the remarks on a service that is running.
pub(crate) async fn examine(link: &Link, remarks: &mut Vec<Remark>) -> Result<(), Error> {
    let manager = link.manager().await?;
    let version = manager.version().await?;
    let answers = format!("vmlockd {version} runs on the {} bus", link.bus.as_str());
    remarks.push(Remark::new(Grade::Ok, "service", answers));
    remarks.push(of_versions(&version));
    of_store(link, &manager, remarks).await?;
    polkit::look(link, remarks).await?;
    storage::look(link, &manager, remarks).await?;
    of_locks(&link.locks().await?, remarks);
    of_owners(&lists::owners(&manager).await?, remarks);
    virtlockd_locks::look(link.bus, remarks);
    Ok(())
}

fn of_versions(version: &str) -> Remark {
    if version == VERSION {
        return Remark::new(
            Grade::Ok,
            "version",
            format!("vmlockctl has the same version, {VERSION}"),
        );
    }
    let message =
        format!("vmlockctl is version {VERSION}, the running service is version {version}");
    let advice =
        "after an upgrade, 'vmlockctl reexec' re-executes the service from the new program";
    Remark::new(Grade::Warning, "version", message).advise(advice)
}

/// Whether locks outlive the service.
async fn of_store(
    link: &Link,
    manager: &ManagerProxy<'_>,
    remarks: &mut Vec<Remark>,
) -> Result<(), Error> {
    let bus = DBusProxy::new(link.bus().await?).await?;
    let pid = bus.get_connection_unix_process_id(BusName::try_from(SERVICE)?).await?;
    let unit = Unit::look(link).await?;
    // The unit says nothing about a service that runs beside it.
    let unit = unit.map(|unit| (unit.main_pid == u64::from(pid), unit));
    let says = manager.features().await?.iter().any(|feature| feature == "fd-store");
    // systemd may have dropped the descriptors that it once accepted.
    let kept = says && !matches!(&unit, Some((true, unit)) if unit.stored == 0);
    if kept {
        let message = "locks survive a crash and a restart of the service";
        remarks.push(Remark::new(Grade::Ok, "store", message));
    } else {
        let (why, advice) = match &unit {
            None => (
                "there is no systemd on this bus to keep them".to_owned(),
                "while VMs run, do not stop the service; upgrade it with 'vmlockctl reexec'",
            ),
            Some((false, _)) => (
                format!("it was not started by systemd (pid {pid})"),
                "when no VM runs, stop it and start it with 'systemctl start vmlockd'",
            ),
            Some((true, unit)) if unit.store_max == 0 => (
                "its unit has FileDescriptorStoreMax=0".to_owned(),
                "set that to 128 with 'systemctl edit vmlockd', and restart the service when no VM \
                 runs",
            ),
            Some((true, _)) => (
                "systemd keeps no descriptor of it".to_owned(),
                "see 'journalctl -u vmlockd' for the cause",
            ),
        };
        let message =
            format!("when the service ends, all disks are unlocked until it runs again: {why}");
        remarks.push(Remark::new(Grade::Warning, "store", message).advise(advice));
    }
    if let Some((true, unit)) = unit
        && kept
    {
        let kept = "locks are kept over 'systemctl stop' until the service is started again";
        remarks.push(unit.loses_at_stop().map_or_else(
            || Remark::new(Grade::Ok, "stop", kept),
            |(why, advice)| Remark::new(Grade::Warning, "stop", why).advise(advice),
        ));
    }
    Ok(())
}

fn of_locks(locks: &[Row], remarks: &mut Vec<Remark>) {
    let troubled: Vec<&Row> = locks.iter().filter(|lock| !row::trouble(lock).is_empty()).collect();
    if troubled.is_empty() {
        let message = match locks.len() {
            0 => "no locks".to_owned(),
            1 => "1 lock, held and verified".to_owned(),
            count => format!("{count} locks, all held and verified"),
        };
        remarks.push(Remark::new(Grade::Ok, "locks", message));
    }
    for lock in troubled {
        let number = row::lock_number(lock);
        let (owner, disk) = (machine(lock), row::text(lock, "resource"));
        let since = clock::minute(row::number(lock, "since-usec"));
        remarks.push(if row::flag(lock, "lost") {
            let message = format!("lock {number} on {disk} of {owner}, held since {since}, is LOST");
            let advice = "another program may be using the disk: stop one of the two; the service's \
                          log names the cause, and the service retries until the lock is held again";
            Remark::new(Grade::Danger, "lock", message).advise(advice).about(lock)
        } else if row::flag(lock, "conflict") {
            let message = format!(
                "lock {number} on {disk} of {owner}, held since {since}, covers data that another owner has \
                 locked"
            );
            let advice = format!(
                "a loop device was set up again, or a file was copied up, while it was locked, and two \
                 VMs may be writing the same data; 'vmlockctl who {disk}' names both: stop one of them"
            );
            Remark::new(Grade::Danger, "lock", message).advise(advice).about(lock)
        } else if let Some(what) = row::name_state(lock) {
            let message = format!("lock {number} on {disk} of {owner}, held since {since}: {what}");
            let advice = "the VM writes to a file that no longer has this name: find it with 'ls -l /proc/PID/fd' \
                          before the VM ends";
            Remark::new(Grade::Warning, "lock", message).advise(advice).about(lock)
        } else {
            let message = format!(
                "lock {number} on {disk} of {owner}, held since {since}, is not verified since the service was \
                 started"
            );
            let advice = "if this lasts, the storage does not respond: check its server";
            Remark::new(Grade::Warning, "lock", message).advise(advice).about(lock)
        });
    }
}

fn of_owners(owners: &[Row], remarks: &mut Vec<Remark>) {
    let manual = |owner: &&Row| row::words(owner, "anchors") == ["manual"];
    let suspended = |owner: &&Row| row::text(owner, "state") == "suspended";
    let manual: Vec<&Row> = owners.iter().filter(manual).collect();
    if manual.is_empty() {
        let message = match (owners.len(), owners.iter().filter(suspended).count()) {
            (0, _) => "no owners".to_owned(),
            (1, 0) => "1 owner, whose VM runs".to_owned(),
            (count, 0) => format!("{count} owners, whose VMs run"),
            (1, _) => "1 owner, which is suspended".to_owned(),
            (count, of_them) => format!("{count} owners, {of_them} of them suspended"),
        };
        remarks.push(Remark::new(Grade::Ok, "owners", message));
    }
    for owner in manual {
        let uuid = row::text(owner, "uuid");
        let locks = match row::number(owner, "locks") {
            1 => "1 lock".to_owned(),
            count => format!("{count} locks"),
        };
        let since = clock::minute(row::number(owner, "since-usec"));
        remarks.push(if row::text(owner, "name") == RECOVERED {
            let message = format!(
                "{} holds {locks} whose records in the state file are damaged, since {since}: which VM \
                 uses the disks is not known",
                machine(owner)
            );
            let advice = format!(
                "see 'vmlockctl list'; when no VM uses these disks, run 'vmlockctl unlock {uuid}'"
            );
            Remark::new(Grade::Danger, "owner", message).advise(advice).about(owner)
        } else if row::text(owner, "name") == SUSPECT {
            let message = format!(
                "{} holds {locks} that damaged records name, since {since}: which VM uses the disks is not \
                 known",
                machine(owner)
            );
            let advice = format!(
                "see 'vmlockctl list'; when no VM uses these disks, run 'vmlockctl unlock {uuid}'"
            );
            Remark::new(Grade::Danger, "owner", message).advise(advice).about(owner)
        } else if suspended(&owner) {
            let message = format!("{} is suspended, without a running VM", machine(owner));
            let advice = format!(
                "'vmlockctl resume {uuid}' acquires its locks again; if they are no longer needed, run \
                 'vmlockctl unlock {uuid}'"
            );
            Remark::new(Grade::Note, "owner", message).advise(advice).about(owner)
        } else if row::number(owner, "locks") == 0 {
            let message = format!("{} is left over and holds no locks", machine(owner));
            let advice = format!("end it with 'vmlockctl unlock {uuid}'");
            Remark::new(Grade::Note, "owner", message).advise(advice).about(owner)
        } else {
            let message =
                format!("{} holds {locks} without a running VM, since {since}", machine(owner));
            let advice = format!("when the locks are no longer needed, run 'vmlockctl unlock {uuid}'");
            Remark::new(Grade::Note, "owner", message).advise(advice).about(owner)
        });
    }
}

/// Names the VM of a lock or an owner.
fn machine(row: &Row) -> String {
    let pid = match row::number(row, "pid") {
        0 => String::new(),
        pid => format!("pid {pid}, "),
    };
    let (name, uuid) = (row::text(row, "name"), row::text(row, "uuid"));
    format!("VM \"{name}\" ({uuid}, {pid}user {})", row::user(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::{OwnedVariant, Variant};

    fn owner(name: &str, anchors: Vec<&str>) -> Row {
        let owned = |value: Variant<'_>| OwnedVariant::try_from(value).unwrap();
        let locks = Variant::from(1_u32);
        [
            ("name", Variant::from(name)),
            ("uuid", "4dea22b3".into()),
            ("anchors", anchors.into()),
            ("locks", locks),
        ]
        .map(|(key, value)| (key.to_owned(), owned(value)))
        .into()
    }

    #[test]
    fn versions_agree_or_not() {
        assert_eq!(of_versions(VERSION).grade, Grade::Ok);
        let other = of_versions("0.0.1");
        assert_eq!(other.grade, Grade::Warning);
        assert!(other.line().contains("0.0.1"));
    }

    #[test]
    fn a_lock_that_nobody_has_looked_at_is_no_danger_yet() {
        let mut lock = owner("web1", vec!["lifeline"]);
        for key in ["verified", "lost"] {
            lock.insert(key.to_owned(), OwnedVariant::try_from(Variant::from(false)).unwrap());
        }
        let mut remarks = Vec::new();
        of_locks(&[lock], &mut remarks);
        let [remark] = &remarks[..] else { panic!("{remarks:?}") };
        assert_eq!(remark.grade, Grade::Warning);
        assert!(remark.line().contains("not verified"), "{}", remark.line());
    }

    #[test]
    fn owners_without_a_machine_are_told_apart() {
        let mut remarks = Vec::new();
        let owners = [
            owner("web1", vec!["lifeline"]),
            owner("backup", vec!["manual"]),
            owner("web2", vec!["manual", "process"]),
            owner("recovered", vec!["manual"]),
        ];
        of_owners(&owners, &mut remarks);
        let grades: Vec<Grade> = remarks.iter().map(|remark| remark.grade).collect();
        assert_eq!(grades, [Grade::Note, Grade::Danger]);
        assert!(remarks[1].line().contains("'vmlockctl unlock 4dea22b3'"));
        of_owners(&owners[..1], &mut remarks);
        assert_eq!(remarks[2].grade, Grade::Ok);
    }

    #[test]
    fn suspended_and_empty_owners_are_reported_as_such() {
        let with = |mut row: Row, key: &str, value: Variant<'_>| {
            row.insert(key.to_owned(), OwnedVariant::try_from(value).unwrap());
            row
        };
        let told = |owners: &[Row]| {
            let mut remarks = Vec::new();
            of_owners(owners, &mut remarks);
            let [remark] = &remarks[..] else { panic!("{remarks:?}") };
            (remark.grade, remark.line())
        };
        let runs = owner("web1", vec!["lifeline"]);
        let suspended = with(owner("web2", vec!["lifeline"]), "state", "suspended".into());
        let (grade, line) = told(&[runs, suspended]);
        assert!(line.contains("2 owners, 1 of them suspended"), "{line}");
        assert_eq!(grade, Grade::Ok);
        let maintenance = owner("maint", vec!["manual"]);
        let (grade, line) = told(&[with(maintenance, "locks", 0_u32.into())]);
        let words = "is left over and holds no locks; end it with 'vmlockctl unlock 4dea22b3'";
        assert!(line.contains(words), "{line}");
        assert_eq!(grade, Grade::Note);
        let maintenance = owner("maint", vec!["manual"]);
        let (_, line) = told(&[with(maintenance, "state", "suspended".into())]);
        assert!(line.contains("is suspended, without a running VM"), "{line}");
    }
}
