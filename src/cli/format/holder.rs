//! Sentences about the holder of a disk.

use crate::cli::format::{clock, row};
use crate::client::Row;
use crate::lock::model::lease_name::spoken;
use crate::lock::text::ago::age;
use crate::lock::text::escape::shown;
use crate::lock::text::why::remark;

/// The key of a holder for the bus of the instance of vmlockd that reported it, if this is not the
/// instance that was asked.
pub(crate) const BUS: &str = "bus";

/// The detail of a description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// The name and the process.
    Brief,
    /// Also the UUID, the purpose, and the processes that hold the lifeline.
    Full,
}

/// Describes a disk and its holder in the words of a refusal of the service.
pub(crate) fn describe_holder(disk: &str, holder: &Row) -> String {
    if row::text(holder, "kind") == "opener" {
        return shown(&format!("{} has disk {disk} open", describe_process(holder, "")));
    }
    let instance = match row::text(holder, BUS) {
        "" => String::new(),
        bus => format!(" (by vmlockd on the {bus} bus)"),
    };
    let held = describe_lock(disk, holder, Detail::Full);
    let disk = spoken(&shown(disk));
    if is_previous_file(&disk, holder) {
        let what = row::name_state_text(holder).unwrap_or_default();
        return format!("{disk}: {what}; that file is {held}{instance}");
    }
    format!("{disk} is {held}{instance}")
}

/// Whether the lock of a holder is on a file that had this name before.
fn is_previous_file(disk: &str, holder: &Row) -> bool {
    row::name_state_text(holder).is_some() && spoken(&shown(row::text(holder, "resource"))) == disk
}

/// Describes the mode of a lock and its holder.
pub(crate) fn describe_lock(disk: &str, holder: &Row, detail: Detail) -> String {
    let word = |key| row::text(holder, key);
    let how = mode_phrase(holder);
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
        ("process", _) => describe_process(holder, "another program "),
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

/// Returns the words for the mode of a lock, which precede the name of the holder.
pub(crate) fn mode_phrase(holder: &Row) -> String {
    match row::text(holder, "mode") {
        _ if row::text(holder, "kind") == "reserved" => "reserved for".to_owned(),
        "exclusive" => "locked exclusively by".to_owned(),
        "none" => "recorded, and not locked, for".to_owned(),
        "shared" => "locked in shared mode by".to_owned(),
        mode => format!("locked {mode} by"),
    }
}

/// Returns the name of a holder, for a line with little room.
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

/// Describes a process by the VM that it runs, or by its program with the prefix `other`.
fn describe_process(holder: &Row, other: &str) -> String {
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
    fn an_owner_is_described_as_in_a_refusal() {
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
            describe_holder("/srv/vm/a.qcow2", &owner),
            "disk /srv/vm/a.qcow2 is locked exclusively by VM \"web1\" (4dea22b3, pid 4711, \
             user libvirt-qemu, why: \"nightly backup\"), through /images/a.qcow2"
        );
        assert_eq!(
            describe_lock("/images/a.qcow2", &owner, Detail::Brief),
            "locked exclusively by VM \"web1\" (pid 4711, user libvirt-qemu)"
        );
    }

    #[test]
    fn foreign_holders_are_described_as_far_as_they_are_known() {
        let mut foreign = holder([
            ("kind", "process".into()),
            ("mode", "shared".into()),
            ("pid", 7u32.into()),
            ("user", "root".into()),
            ("program", "qemu".into()),
        ]);
        let text = describe_holder("/a", &foreign);
        assert_eq!(
            text,
            "disk /a is locked in shared mode by another program (qemu, pid 7, user root)"
        );
        let owned = |text: &str| OwnedVariant::try_from(Variant::from(text)).unwrap();
        foreign.insert("name".into(), owned("web1"));
        let text = describe_holder("/a", &foreign);
        assert_eq!(text, "disk /a is locked in shared mode by QEMU \"web1\" (pid 7, user root)");
        foreign.insert("kind".into(), owned("opener"));
        let text = describe_holder("/a", &foreign);
        assert_eq!(text, "QEMU \"web1\" (pid 7, user root) has disk /a open");
        foreign.insert("kind".into(), owned("unknown"));
        assert!(describe_holder("/a", &foreign).contains("does not name"));
        let hidden = holder([("kind", "hidden".into()), ("mode", "shared".into())]);
        assert_eq!(
            describe_holder("/a", &hidden),
            "disk /a is locked in shared mode by another user"
        );
    }

    #[test]
    fn a_recorded_holder_is_described_as_the_last_recorded_one() {
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
        let expected = "disk /srv/a is locked exclusively by its last recorded holder, VM \"web1\" \
                    (4dea22b3, pid 4711, user qemu) on host node-b since ";
        let text = describe_holder("/srv/a", &host);
        assert!(text.starts_with(expected) && text.ends_with(", 2 h ago"), "{text}");
        assert!(describe_holder("/srv/b", &host).ends_with(", 2 h ago, as /srv/a"));
        host.remove("since-usec");
        assert!(describe_holder("/srv/a", &host).ends_with("on host node-b"));
    }
}
