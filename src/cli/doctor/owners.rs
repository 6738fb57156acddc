//! Checks the owners: those that hold locks without a running VM.

use crate::cli::doctor::report::{Finding, Severity};
use crate::cli::format::row;
use crate::client::Row;

/// The name of the owner that the service creates for locks whose owner is not known.
const RECOVERED: &str = "recovered";
/// The name of the owner of locks that damaged records name.
const SUSPECT: &str = "suspect";

/// Adds a finding for each owner that needs attention, or one for all owners.
pub(crate) fn check_owners(owners: &[Row], findings: &mut Vec<Finding>) {
    let manual = |owner: &&Row| row::strings(owner, "anchors") == ["manual"];
    let manual: Vec<&Row> = owners.iter().filter(manual).collect();
    if manual.is_empty() {
        let message =
            match (owners.len(), owners.iter().filter(|owner| is_suspended(owner)).count()) {
                (0, _) => "no owners".to_owned(),
                (1, 0) => "1 owner, whose VM runs".to_owned(),
                (count, 0) => format!("{count} owners, whose VMs run"),
                (1, _) => "1 owner, which is suspended".to_owned(),
                (count, suspended) => format!("{count} owners, {suspended} of them suspended"),
            };
        findings.push(Finding::new(Severity::Ok, "owners", message));
    }
    findings.extend(manual.into_iter().map(manual_owner_finding));
}

/// Whether an owner is suspended.
fn is_suspended(owner: &Row) -> bool {
    row::text(owner, "state") == "suspended"
}

/// Returns the finding for an owner without a lifeline and a process.
fn manual_owner_finding(owner: &Row) -> Finding {
    let (vm, uuid) = (describe_vm(owner), row::text(owner, "uuid"));
    let count = row::number(owner, "locks");
    let (locks, since) = (row::lock_count(count), row::since(owner));
    let unlock = || {
        format!("see 'vmlockctl list'; when no VM uses these disks, run 'vmlockctl unlock {uuid}'")
    };
    let (severity, message, advice) = if row::text(owner, "name") == RECOVERED {
        let message = format!(
            "{vm} holds {locks} whose records in the state file are damaged, since {since}: which VM \
             uses the disks is not known"
        );
        (Severity::Danger, message, unlock())
    } else if row::text(owner, "name") == SUSPECT {
        let message = format!(
            "{vm} holds {locks} that damaged records name, since {since}: which VM uses the disks is not \
             known"
        );
        (Severity::Danger, message, unlock())
    } else if is_suspended(owner) {
        let message = format!("{vm} is suspended, without a running VM");
        let advice = format!(
            "'vmlockctl resume {uuid}' acquires its locks again; if they are no longer needed, run \
             'vmlockctl unlock {uuid}'"
        );
        (Severity::Note, message, advice)
    } else if count == 0 {
        let message = format!("{vm} is left over and holds no locks");
        (Severity::Note, message, format!("end it with 'vmlockctl unlock {uuid}'"))
    } else {
        let message = format!("{vm} holds {locks} without a running VM, since {since}");
        let advice = format!("when the locks are no longer needed, run 'vmlockctl unlock {uuid}'");
        (Severity::Note, message, advice)
    };
    Finding::new(severity, "owner", message).with_advice(advice).with_object(owner)
}

/// Describes the VM of a lock or an owner.
pub(crate) fn describe_vm(row: &Row) -> String {
    let pid = match row::number(row, "pid") {
        0 => String::new(),
        pid => format!("pid {pid}, "),
    };
    let (name, uuid) = (row::text(row, "name"), row::text(row, "uuid"));
    format!("VM \"{name}\" ({uuid}, {pid}user {})", row::user(row))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use zbus::{OwnedVariant, Variant};

    /// Returns an owner that holds one lock.
    pub(crate) fn owner(name: &str, anchors: Vec<&str>) -> Row {
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
    fn owners_without_a_vm_are_distinguished() {
        let mut findings = Vec::new();
        let owners = [
            owner("web1", vec!["lifeline"]),
            owner("backup", vec!["manual"]),
            owner("web2", vec!["manual", "process"]),
            owner("recovered", vec!["manual"]),
        ];
        check_owners(&owners, &mut findings);
        let grades: Vec<Severity> = findings.iter().map(|finding| finding.severity).collect();
        assert_eq!(grades, [Severity::Note, Severity::Danger]);
        assert!(findings[1].format_line().contains("'vmlockctl unlock 4dea22b3'"));
        check_owners(&owners[..1], &mut findings);
        assert_eq!(findings[2].severity, Severity::Ok);
    }

    #[test]
    fn suspended_and_empty_owners_are_reported_as_such() {
        let with = |mut row: Row, key: &str, value: Variant<'_>| {
            row.insert(key.to_owned(), OwnedVariant::try_from(value).unwrap());
            row
        };
        let only_finding = |owners: &[Row]| {
            let mut findings = Vec::new();
            check_owners(owners, &mut findings);
            let [finding] = &findings[..] else { panic!("{findings:?}") };
            (finding.severity, finding.format_line())
        };
        let runs = owner("web1", vec!["lifeline"]);
        let suspended = with(owner("web2", vec!["lifeline"]), "state", "suspended".into());
        let (severity, line) = only_finding(&[runs, suspended]);
        assert!(line.contains("2 owners, 1 of them suspended"), "{line}");
        assert_eq!(severity, Severity::Ok);
        let maintenance = owner("maint", vec!["manual"]);
        let (severity, line) = only_finding(&[with(maintenance, "locks", 0_u32.into())]);
        let words = "is left over and holds no locks; end it with 'vmlockctl unlock 4dea22b3'";
        assert!(line.contains(words), "{line}");
        assert_eq!(severity, Severity::Note);
        let maintenance = owner("maint", vec!["manual"]);
        let (_, line) = only_finding(&[with(maintenance, "state", "suspended".into())]);
        assert!(line.contains("is suspended, without a running VM"), "{line}");
    }
}
