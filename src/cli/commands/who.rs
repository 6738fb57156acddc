//! `who`: the holders of a disk, a sentence each.

use std::ffi::OsString;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::error::exit_code::Code;
use crate::cli::format::clock;
use crate::cli::format::json;
use crate::cli::format::row;
use crate::cli::target::lookup;
use crate::cli::target::other_instance::{self, BUS, Other};
use crate::cli::target::{self, Target};
use crate::cli::terminal::output::{Form, complain, inform, print};
use crate::client::Row;
use crate::lock::age::age;
use crate::lock::lease::spoken;
use crate::lock::printable::{shown, shown_path};
use crate::lock::why::remark;

const AFTER_HELP: &str = "\
For a lock or an owner, the holders of its disks are printed.

Exits with 0 if one of the disks is locked or a VM has it open, with 3 if all are \
free, and with another code if that is not known.

A disk that is free may be locked a moment later. To copy a disk, lock it:
  vmlockctl run --disk web1.qcow2:shared -- \\
      qemu-img convert …";

/// Show the holders of disks
#[derive(Debug, Args)]
#[command(after_help = target::help(AFTER_HELP))]
pub(crate) struct Arguments {
    /// Disk images, block devices or leases; or locks or owners, for their disks
    #[arg(required = true, value_name = "PATH|LOCK|OWNER")]
    targets: Vec<OsString>,
}

/// Prints the holders of each disk.
pub(crate) async fn perform(link: &Link, arguments: Arguments, form: Form) -> Result<Code, Error> {
    let mut answers = Vec::new();
    let mut any_held = false;
    let other = Other::than(link.bus);
    let mut paths = Vec::new();
    for target in arguments.targets {
        paths.extend(Target::parse(target)?.disks(link).await?);
    }
    for path in paths {
        let mut holders = lookup::holders(link, &path).await?;
        let completed = other.complete(&path, &mut holders).await;
        any_held |= !holders.is_empty();
        let disk = shown_path(&path);
        match form {
            Form::Json => {
                answers.push(json!({ "path": disk, "holders": json::objects(&holders) }));
            }
            Form::Text if holders.is_empty() => inform(&format!("nobody holds {}", spoken(&disk))),
            Form::Text => {
                let line = |holder| format!("{}\n", sentence(&disk, holder));
                print(&holders.iter().map(line).collect::<String>())?;
            }
        }
        if let Err(error) = completed {
            let why = error.message(other.bus()).unwrap_or_default();
            let bus = other.bus().as_str();
            complain(&format!("the service on the {bus} bus may also hold {disk}: {why}"));
        }
        if let Some(holder) = holders.iter().find(|holder| other_instance::is_vmlockd(holder)) {
            let user = row::text(holder, "user");
            complain(&format!(
                "the vmlockd of user {user} holds {disk}; 'vmlockctl who', run as that user, names \
                 the VM"
            ));
        }
    }
    if form == Form::Json {
        print(&json::document(&Value::Array(answers)))?;
    }
    Ok(if any_held { Code::SUCCESS } else { Code::FREE })
}

/// How much to print about a holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Name and process.
    Brief,
    /// Also the UUID and what keeps its lifeline.
    Full,
}

/// Describes a holder in a sentence, as a refusal does.
pub(crate) fn sentence(disk: &str, holder: &Row) -> String {
    if row::text(holder, "kind") == "opener" {
        return shown(&format!("{} has disk {disk} open", process(holder, "")));
    }
    let instance = match row::text(holder, BUS) {
        "" => String::new(),
        bus => format!(" (by vmlockd on the {bus} bus)"),
    };
    let held = held(disk, holder, Detail::Full);
    let disk = spoken(&shown(disk));
    if is_former(&disk, holder) {
        let what = row::name_state(holder).unwrap_or_default();
        return format!("{disk}: {what}; that file is {held}{instance}");
    }
    format!("{disk} is {held}{instance}")
}

/// Whether a holder has the file that had this name before.
fn is_former(disk: &str, holder: &Row) -> bool {
    row::name_state(holder).is_some() && spoken(&shown(row::text(holder, "resource"))) == disk
}

/// Describes how a disk is held and by which holder.
pub(crate) fn held(disk: &str, holder: &Row, detail: Detail) -> String {
    let word = |key| row::text(holder, key);
    let how = how(holder);
    let pid = row::number(holder, "pid");
    let why = match detail {
        Detail::Brief => String::new(),
        Detail::Full => remark(word("why")),
    };
    let who = match (word("kind"), pid) {
        ("owner" | "reserved", pid) => {
            let uuid = match detail {
                Detail::Brief => String::new(),
                Detail::Full => format!("{}, ", word("uuid")),
            };
            let pid = if pid == 0 { String::new() } else { format!("pid {pid}, ") };
            let (name, user) = (word("name"), word("user"));
            format!("VM \"{name}\" ({uuid}{pid}user {user}{why})")
        }
        ("process", _) => process(holder, "another program "),
        ("hidden", _) => "another user".to_owned(),
        ("host", pid) => {
            let pid = if pid == 0 { String::new() } else { format!(", pid {pid}") };
            let (name, uuid, user) = (word("name"), word("uuid"), word("user"));
            let host = word("host");
            format!(
                "its last recorded holder, VM \"{name}\" ({uuid}{pid}, user {user}{why}) on host \
                 {host}"
            )
        }
        _ => "another program or host that the kernel does not name".to_owned(),
    };
    let until = match row::number(holder, "until-usec") {
        0 => String::new(),
        micros => format!(" until {}", clock::second(micros)),
    };
    let since = match row::number(holder, "since-usec") {
        0 => String::new(),
        micros => match age(micros, clock::now_usec()) {
            age if age.is_empty() => format!(" since {}", clock::minute(micros)),
            age => format!(" since {}, {age}", clock::minute(micros)),
        },
    };
    let by = if word("kind") == "host" { "as" } else { "through" };
    let through = match shown(word("resource")) {
        name if name.is_empty() || name == disk => String::new(),
        name => {
            let state = row::text(holder, "name-state");
            let state = if state.is_empty() { String::new() } else { format!(" ({state})") };
            format!(", {by} {name}{state}")
        }
    };
    let mut keepers = row::processes(holder, "lifeline-processes");
    keepers.retain(|(keeper, _)| detail == Detail::Full && u64::from(*keeper) != pid);
    let keepers: Vec<String> =
        keepers.iter().map(|(pid, program)| format!("{program} (pid {pid})")).collect();
    let kept = match keepers.join(" and ") {
        keepers if keepers.is_empty() => keepers,
        keepers => format!("; its lifeline is held by {keepers}"),
    };
    let conflict = if row::flag(holder, "conflict") {
        "; another owner has a lock on the same data"
    } else {
        ""
    };
    shown(&format!("{how} {who}{since}{until}{through}{kept}{conflict}"))
}

/// How a disk is held, before the name of its holder.
pub(crate) fn how(holder: &Row) -> String {
    match row::text(holder, "mode") {
        _ if row::text(holder, "kind") == "reserved" => "reserved for".to_owned(),
        "exclusive" => "locked exclusively by".to_owned(),
        "none" => "recorded, and not locked, for".to_owned(),
        "shared" => "locked in shared mode by".to_owned(),
        mode => format!("locked {mode} by"),
    }
}

/// A holder by its name alone, where there is little room.
pub(crate) fn short_name(holder: &Row) -> String {
    let word = |key| row::text(holder, key);
    match (word("kind"), word("name"), word("program")) {
        ("owner" | "reserved", name, _) => format!("VM \"{name}\""),
        ("host", name, _) => format!("VM \"{name}\" on host {}", word("host")),
        ("hidden", ..) => "another user".to_owned(),
        ("process", "", program) => format!("{program} (pid {})", row::number(holder, "pid")),
        ("process", name, _) => format!("QEMU \"{name}\""),
        _ => "another program or host".to_owned(),
    }
}

/// A process: as the machine that it runs, or as a program; `other` goes before the latter.
fn process(holder: &Row, other: &str) -> String {
    let word = |key| row::text(holder, key);
    let (pid, user, program) = (row::number(holder, "pid"), word("user"), word("program"));
    match word("name") {
        "" if other.is_empty() => format!("{program} (pid {pid}, user {user})"),
        "" => format!("{other}({program}, pid {pid}, user {user})"),
        name => format!("QEMU \"{name}\" (pid {pid}, user {user})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::{OwnedVariant, Variant};

    fn holder<const N: usize>(entries: [(&str, Variant<'_>); N]) -> Row {
        let owned = |value: Variant<'_>| OwnedVariant::try_from(value).unwrap();
        entries.map(|(key, value)| (key.to_owned(), owned(value))).into()
    }

    #[test]
    fn a_holder_is_told_like_a_refusal() {
        let owner = holder([
            ("kind", "owner".into()),
            ("mode", "exclusive".into()),
            ("name", "web1".into()),
            ("uuid", "4dea22b3".into()),
            ("pid", 4711u32.into()),
            ("user", "libvirt-qemu".into()),
            ("resource", "/images/a.qcow2".into()),
            ("why", "nightly backup".into()),
        ]);
        assert_eq!(
            sentence("/srv/vm/a.qcow2", &owner),
            "disk /srv/vm/a.qcow2 is locked exclusively by VM \"web1\" (4dea22b3, pid 4711, \
             user libvirt-qemu, why: \"nightly backup\"), through /images/a.qcow2"
        );
        assert_eq!(
            held("/images/a.qcow2", &owner, Detail::Brief),
            "locked exclusively by VM \"web1\" (pid 4711, user libvirt-qemu)"
        );
    }

    #[test]
    fn strangers_are_told_as_far_as_they_are_known() {
        let mut stranger = holder([
            ("kind", "process".into()),
            ("mode", "shared".into()),
            ("pid", 7u32.into()),
            ("user", "root".into()),
            ("program", "qemu".into()),
        ]);
        let text = sentence("/a", &stranger);
        assert_eq!(
            text,
            "disk /a is locked in shared mode by another program (qemu, pid 7, user root)"
        );
        let owned = |text: &str| OwnedVariant::try_from(Variant::from(text)).unwrap();
        stranger.insert("name".into(), owned("web1"));
        let text = sentence("/a", &stranger);
        assert_eq!(text, "disk /a is locked in shared mode by QEMU \"web1\" (pid 7, user root)");
        stranger.insert("kind".into(), owned("opener"));
        let text = sentence("/a", &stranger);
        assert_eq!(text, "QEMU \"web1\" (pid 7, user root) has disk /a open");
        stranger.insert("kind".into(), owned("unknown"));
        assert!(sentence("/a", &stranger).contains("does not name"));
        let hidden = holder([("kind", "hidden".into()), ("mode", "shared".into())]);
        assert_eq!(sentence("/a", &hidden), "disk /a is locked in shared mode by another user");
    }

    #[test]
    fn who_is_on_record_is_said_to_be_no_more_than_that() {
        let since = clock::now_usec() - 7_200_000_000;
        let mut host = holder([
            ("kind", "host".into()),
            ("mode", "exclusive".into()),
            ("name", "web1".into()),
            ("uuid", "4dea22b3".into()),
            ("pid", 4711u32.into()),
            ("user", "qemu".into()),
            ("host", "node-b".into()),
            ("since-usec", since.into()),
            ("resource", "/srv/a".into()),
        ]);
        let told = "disk /srv/a is locked exclusively by its last recorded holder, VM \"web1\" \
                    (4dea22b3, pid 4711, user qemu) on host node-b since ";
        let text = sentence("/srv/a", &host);
        assert!(text.starts_with(told) && text.ends_with(", 2 h ago"), "{text}");
        assert!(sentence("/srv/b", &host).ends_with(", 2 h ago, as /srv/a"));
        host.remove("since-usec");
        assert!(sentence("/srv/a", &host).ends_with("on host node-b"));
    }
}
