//! `doctor`: whether all is well, and what to do if not.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use zbus::fdo::DBusProxy;
use zbus::names::BusName;

use super::code::Code;
use super::error::Error;
use super::link::Link;
use super::output::{Form, print};
use super::remark::{Grade, Remark};
use super::unit::Unit;
use super::{clock, examine, json, row, storage, virtlockd};
use crate::client::{Bus, ManagerProxy, Row, SERVICE, lists};

const AFTER_HELP: &str = "\
Looks whether the service answers and is of this tool's version, whether locks
outlive it, and which locks and owners need somebody's attention. Changes
nothing, and needs no rights.

With a directory, this tool itself tries what locks on its file system are worth,
with a file of its own that it removes, and tells whether other hosts are kept
out, too. With a disk, it tries the same beside it; the disk is not touched.

Exit codes:
   0  all is well
   1  a disk is in danger: a lock is lost, it is not known whose it is, or locks
      of two owners cover the same data
  69  the service, or the bus, can't be reached
  78  no disk is in danger, but there are warnings: locks may be lost one day";

/// Check whether all is well, and say what to do if not
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Look at the locks on this directory's file system, or this disk's, instead
    #[arg(value_name = "DIRECTORY|DISK")]
    path: Option<PathBuf>,
}

/// What this tool is.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What the service calls an owner that it has made itself, for locks of which it knows no more.
const RECOVERED: &str = "recovered";
/// The name of the owner of locks that damaged records name.
const SUSPECT: &str = "suspect";

/// Does it.
pub(super) async fn perform(bus: Bus, arguments: Arguments, form: Form) -> Result<Code, Error> {
    let mut remarks = Vec::new();
    if let Some(path) = arguments.path {
        examine::examine(&path, &mut remarks)?;
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
            virtlockd::look(bus, &mut remarks);
            Some(error.code())
        }
        Err(error) => return Err(error),
    };
    let code = tell(&remarks, form)?;
    Ok(absent.unwrap_or(code))
}

/// Prints it, and says how grave it is.
fn tell(remarks: &[Remark], form: Form) -> Result<Code, Error> {
    print(&match form {
        Form::Json => json::document(&remarks.iter().map(Remark::object).collect::<Value>()),
        Form::Text => remarks.iter().map(Remark::line).collect(),
    })?;
    Ok(remarks.iter().map(|remark| remark.grade).max().unwrap_or(Grade::Ok).code())
}

async fn examine(link: &Link, remarks: &mut Vec<Remark>) -> Result<(), Error> {
    let manager = link.manager().await?;
    let version = manager.version().await?;
    let answers = format!("vmlockd {version} answers on the {} bus", link.bus.as_str());
    remarks.push(Remark::new(Grade::Ok, "service", answers));
    remarks.push(of_versions(&version));
    of_store(link, &manager, remarks).await?;
    storage::look(link, &manager, remarks).await?;
    of_locks(&link.locks().await?, remarks);
    of_owners(&lists::owners(&manager).await?, remarks);
    virtlockd::look(link.bus, remarks);
    Ok(())
}

fn of_versions(version: &str) -> Remark {
    if version == VERSION {
        return Remark::new(Grade::Ok, "version", format!("vmlockctl is {VERSION} too"));
    }
    let message = format!("vmlockctl is {VERSION}, the service that runs is {version}");
    let advice = "after an upgrade, 'vmlockctl reexec' brings the service up to date";
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
    // One that runs beside the unit is none of the unit's business.
    let unit = unit.map(|unit| (unit.main_pid == u64::from(pid), unit));
    let says = manager.features().await?.iter().any(|feature| feature == "fd-store");
    // systemd may have let go of what it once took.
    let kept = says && !matches!(&unit, Some((true, unit)) if unit.stored == 0);
    if kept {
        let message = "locks outlive a crash and a restart of the service";
        remarks.push(Remark::new(Grade::Ok, "store", message));
    } else {
        let (why, advice) = match &unit {
            None => (
                "no systemd is on this bus to keep them".to_owned(),
                "while machines run, never end it; 'vmlockctl reexec' upgrades it",
            ),
            Some((false, _)) => (
                format!("it was not started by systemd (pid {pid})"),
                "when no machine runs, end it, and have systemd start it",
            ),
            Some((true, unit)) if unit.store_max == 0 => (
                "its unit has FileDescriptorStoreMax=0".to_owned(),
                "set that to 128 with 'systemctl edit vmlockd', and restart the service when no \
                 machine runs",
            ),
            Some((true, _)) => {
                ("systemd keeps nothing of what it was given".to_owned(), "its log says more")
            }
        };
        let message = format!("when the service ends, all disks are free until it is back: {why}");
        remarks.push(Remark::new(Grade::Warning, "store", message).advise(advice));
    }
    if let Some((true, unit)) = unit
        && kept
    {
        let kept = "'systemctl stop' keeps the locks until the service is started again";
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
            1 => "1 lock, which is in place".to_owned(),
            count => format!("{count} locks, all of them in place"),
        };
        remarks.push(Remark::new(Grade::Ok, "locks", message));
    }
    for lock in troubled {
        let number = row::lock_number(lock);
        let (owner, disk) = (machine(lock), row::text(lock, "resource"));
        let since = clock::spoken(row::number(lock, "since-usec"));
        remarks.push(if row::flag(lock, "lost") {
            let message = format!("lock {number} on {disk} is LOST, of {owner}, since {since}");
            let advice = "another program may be using the disk: end one of the two; the \
                          service's log says why, and it goes on trying";
            Remark::new(Grade::Danger, "lock", message).advise(advice).about(lock)
        } else if row::flag(lock, "conflict") {
            let message = format!(
                "lock {number} on {disk} covers data that another owner has locked, too, of {owner}, \
                 since {since}"
            );
            let advice = format!(
                "a loop device was set up anew, or a file copied up, while it was locked: two VMs may \
                 be writing the same data; 'vmlockctl who {disk}' names both, end one of them"
            );
            Remark::new(Grade::Danger, "lock", message).advise(advice).about(lock)
        } else if let Some(what) = row::name_state(lock) {
            let message = format!("lock {number} on {disk}: {what}, of {owner}, since {since}");
            let advice = "what this VM writes is not found by the name any more: see                           'ls -l /proc/PID/fd' for the file that it has open, before it ends";
            Remark::new(Grade::Warning, "lock", message).advise(advice).about(lock)
        } else {
            let message = format!(
                "lock {number} on {disk} is not verified since the service was started, of \
                 {owner}, since {since}"
            );
            let advice = "if that lasts, its storage does not answer";
            Remark::new(Grade::Warning, "lock", message).advise(advice).about(lock)
        });
    }
}

fn of_owners(owners: &[Row], remarks: &mut Vec<Remark>) {
    let manual = |owner: &&Row| row::words(owner, "anchors") == ["manual"];
    let manual: Vec<&Row> = owners.iter().filter(manual).collect();
    if manual.is_empty() {
        let message = match owners.len() {
            0 => "no owners".to_owned(),
            1 => "1 owner, whose machine lives".to_owned(),
            count => format!("{count} owners, all of them with a living machine"),
        };
        remarks.push(Remark::new(Grade::Ok, "owners", message));
    }
    for owner in manual {
        let uuid = row::text(owner, "uuid");
        let locks = match row::number(owner, "locks") {
            1 => "1 lock".to_owned(),
            count => format!("{count} locks"),
        };
        let since = clock::spoken(row::number(owner, "since-usec"));
        remarks.push(if row::text(owner, "name") == RECOVERED {
            let message = format!(
                "{} was found in a damaged state, since {since}: whose {locks} it holds is not \
                 known",
                machine(owner)
            );
            let advice = format!(
                "see 'vmlockctl list'; when no machine uses these disks, 'vmlockctl unlock {uuid}'"
            );
            Remark::new(Grade::Danger, "owner", message).advise(advice).about(owner)
        } else if row::text(owner, "name") == SUSPECT {
            let message = format!(
                "{} holds {locks} that damaged records name, since {since}: which VM uses these disks \
                 is not known",
                machine(owner)
            );
            let advice = format!(
                "see 'vmlockctl list'; when no VM uses these disks, 'vmlockctl unlock {uuid}'"
            );
            Remark::new(Grade::Danger, "owner", message).advise(advice).about(owner)
        } else {
            let message =
                format!("{} holds {locks} without a machine, since {since}", machine(owner));
            let advice = format!("'vmlockctl unlock {uuid}' ends it");
            Remark::new(Grade::Note, "owner", message).advise(advice).about(owner)
        });
    }
}

/// Whose a lock is, or what an owner is called.
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
        [("name", Variant::from(name)), ("uuid", "4dea22b3".into()), ("anchors", anchors.into())]
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
}
