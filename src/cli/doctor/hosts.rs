//! Checks the hosts that share a lockspace, as far as their files and locks are visible on this
//! host.

use std::path::Path;

use serde_json::{Value, json};

use crate::cli::doctor::report::{Finding, Severity};
use crate::lock::presence::{Announcement, HostPresence, list_hosts};
use crate::lock::text::escape::shown;

/// Adds a finding for each host: whether its lock is visible here, and how its settings differ.
/// Adds none if there are no hosts, or this user may not read their files.
pub(crate) fn check(lockspace: &Path, findings: &mut Vec<Finding>) {
    if let Ok(hosts) = list_hosts(lockspace) {
        compare(&hosts, findings);
    }
}

/// Adds a finding for each host, and one if no lock of another host is visible.
fn compare(hosts: &[HostPresence], findings: &mut Vec<Finding>) {
    let (here, others): (Vec<&HostPresence>, Vec<&HostPresence>) = hosts
        .iter()
        .partition(|host| host.announcement.as_ref().is_some_and(Announcement::is_here));
    // If this host has no file, the hosts are compared with the first of the others.
    let own = here.first().copied();
    let reference = own.or(others.first().copied()).and_then(|host| host.announcement.as_ref());
    for host in hosts {
        findings.push(host_finding(host, reference));
    }
    let visible = others.iter().filter(|host| host.locked == Some(true)).count();
    if visible == 0 && !others.is_empty() && own.is_some_and(|own| own.locked == Some(true)) {
        let message = "the lock of no other host is visible here: no other host runs, or locks are not \
                       shared between hosts";
        let advice =
            "if 'vmlockctl doctor' on another host reports the same, use another file system";
        findings.push(Finding::new(Severity::Warning, "hosts", message).with_advice(advice));
    }
}

/// Returns the finding for a host, whose settings are compared with those of `reference`.
fn host_finding(host: &HostPresence, reference: Option<&Announcement>) -> Finding {
    let HostPresence { id, locked, announcement: record } = host;
    let (called, here) = match record {
        Some(record) if record.is_here() => {
            (format!("host \"{}\" ({id}, this one)", record.name), true)
        }
        Some(record) => (format!("host \"{}\" ({id})", record.name), false),
        None => (format!("host {id}"), false),
    };
    let runs = *locked == Some(true);
    let state = match locked {
        Some(true) => "its lock is visible here",
        Some(false) if here => "its service does not run",
        Some(false) => {
            "its lock is not visible here, so its service does not run, or its locks are not shared"
        }
        None => "whether it holds its lock cannot be tested",
    };
    let facts = facts(host);
    let Some(record) = record else {
        let message = format!("{called}: {state}; its file cannot be parsed");
        let severity = if runs { Severity::Warning } else { Severity::Note };
        return Finding::new(severity, "host", message).with_facts(facts);
    };
    let Some((differences, is_severe)) =
        reference.and_then(|reference| differences(record, reference))
    else {
        let message = format!("{called}, vmlockd {}: {state}", record.version);
        let severity = if runs { Severity::Ok } else { Severity::Note };
        return Finding::new(severity, "host", message).with_facts(facts);
    };
    let message = format!("{called}, vmlockd {}: {state}; {differences}", record.version);
    // The settings of a host without a running service do not matter now.
    let severity = match (runs, is_severe) {
        (true, true) => Severity::Danger,
        (true, false) => Severity::Warning,
        (false, _) => Severity::Note,
    };
    let advice = "all hosts must have the same locking settings, or two of them may write one disk";
    Finding::new(severity, "host", message).with_advice(advice).with_facts(facts)
}

/// Returns the settings in which a host differs from another, and whether the difference is severe:
/// other paths are not, as directories may have different names on different hosts.
fn differences(record: &Announcement, reference: &Announcement) -> Option<(String, bool)> {
    if record.fingerprint == reference.fingerprint && record.settings == reference.settings {
        return None;
    }
    let keys: std::collections::BTreeSet<&String> =
        record.settings.keys().chain(reference.settings.keys()).collect();
    let value = |of: &Announcement, key: &String| of.settings.get(key).cloned().unwrap_or_default();
    let differences = keys.into_iter().map(|key| (key, value(record, key), value(reference, key)));
    let differences: Vec<_> = differences.filter(|(_, there, here)| there != here).collect();
    let path = |text: &str| text.starts_with('/');
    let is_severe = differences.iter().any(|(_, there, here)| !(path(there) && path(here)));
    let word = |text: &str| if text.is_empty() { "not set".to_owned() } else { shown(text) };
    let each = differences.iter().map(|(key, there, here)| {
        format!("its '{}' is {}, and {} here", shown(key), word(there), word(here))
    });
    let each: Vec<String> = each.collect();
    // Without a different setting, only the fingerprint of another version differs.
    if each.is_empty() { None } else { Some((each.join(", "), is_severe)) }
}

/// Returns the data of a host for JSON.
fn facts(host: &HostPresence) -> Value {
    let mut facts = json!({ "id": host.id, "locked": host.locked });
    if let Some(record) = &host.announcement {
        facts["name"] = record.name.as_str().into();
        facts["version"] = record.version.as_str().into();
        facts["fingerprint"] = record.fingerprint.as_str().into();
        facts["settings"] = json!(record.settings);
        facts["this-host"] = record.is_here().into();
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn record(name: &str, dir: &str, locks: bool) -> Announcement {
        let settings =
            [("auto_disk_leases", locks.to_string()), ("file_lockspace_dir", dir.into())];
        let settings: BTreeMap<String, String> =
            settings.map(|(key, value)| (key.to_owned(), value)).into();
        Announcement::new(name.to_owned(), settings)
    }

    fn host(id: &str, locked: bool, record: Option<Announcement>) -> HostPresence {
        HostPresence { id: id.to_owned(), locked: Some(locked), announcement: record }
    }

    fn away(record: Announcement) -> Announcement {
        Announcement { boot: "another".to_owned(), ..record }
    }

    fn grades(hosts: &[HostPresence]) -> Vec<Severity> {
        let mut findings = Vec::new();
        compare(hosts, &mut findings);
        findings.iter().map(|finding| finding.severity).collect()
    }

    #[test]
    fn hosts_with_the_same_settings_have_no_warnings() {
        let own = host("a", true, Some(record("A", "/x", true)));
        let other = |locked| host("b", locked, Some(away(record("B", "/x", true))));
        assert_eq!(grades(&[own.clone(), other(true)]), [Severity::Ok, Severity::Ok]);
        assert_eq!(
            grades(&[own.clone(), other(false)]),
            [Severity::Ok, Severity::Note, Severity::Warning]
        );
        assert_eq!(grades(std::slice::from_ref(&own)), [Severity::Ok]);
        let strange = host("c", true, None);
        assert_eq!(grades(&[own, strange]), [Severity::Ok, Severity::Warning]);
        assert_eq!(grades(&[]), []);
    }

    #[test]
    fn hosts_with_other_settings_are_reported() {
        let own = host("a", true, Some(record("A", "/x", true)));
        for (dir, locks, severity) in [
            ("/y", true, Severity::Warning),
            ("", true, Severity::Danger),
            ("/x", false, Severity::Danger),
        ] {
            let other = host("b", true, Some(away(record("B", dir, locks))));
            let mut findings = Vec::new();
            compare(&[own.clone(), other.clone()], &mut findings);
            assert_eq!(findings[1].severity, severity, "{dir} {locks}");
            let line = findings[1].format_line();
            assert!(
                line.contains("host \"B\" (b)") && line.contains("same locking settings"),
                "{line}"
            );
            let gone = HostPresence { locked: Some(false), ..other };
            assert_eq!(grades(&[own.clone(), gone])[1], Severity::Note);
        }
    }
}
