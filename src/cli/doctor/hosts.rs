//! The hosts that share a lockspace, as far as their files and locks are visible on this one.

use std::path::Path;

use serde_json::{Value, json};

use crate::cli::doctor::finding::{Grade, Remark};
use crate::lock::printable::shown;
use crate::lock::sighting::{Seen, Told, seen};

/// Adds a remark for each host: whether its lock is visible here, and how its settings differ. Adds none
/// if there are no hosts, or the user may not read their files.
pub(crate) fn look(lockspace: &Path, remarks: &mut Vec<Remark>) {
    if let Ok(hosts) = seen(lockspace) {
        compare(&hosts, remarks);
    }
}

fn compare(hosts: &[Seen], remarks: &mut Vec<Remark>) {
    let (here, others): (Vec<&Seen>, Vec<&Seen>) =
        hosts.iter().partition(|seen| seen.told.as_ref().is_some_and(Told::is_here));
    // If this host has no file, the first of the others is what the rest are compared with.
    let own = here.first().copied();
    let model = own.or(others.first().copied()).and_then(|seen| seen.told.as_ref());
    for seen in hosts {
        remarks.push(of_host(seen, model));
    }
    let visible = others.iter().filter(|seen| seen.locked == Some(true)).count();
    if visible == 0 && !others.is_empty() && own.is_some_and(|own| own.locked == Some(true)) {
        let message = "the lock of no other host is visible here: no other host runs, or locks are not \
                       shared between hosts";
        let advice =
            "if 'vmlockctl doctor' on another host reports the same, use another file system";
        remarks.push(Remark::new(Grade::Warning, "hosts", message).advise(advice));
    }
}

fn of_host(seen: &Seen, model: Option<&Told>) -> Remark {
    let Seen { id, locked, told } = seen;
    let (called, here) = match told {
        Some(told) if told.is_here() => (format!("host \"{}\" ({id}, this one)", told.name), true),
        Some(told) => (format!("host \"{}\" ({id})", told.name), false),
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
    let facts = facts(seen);
    let Some(told) = told else {
        let message = format!("{called}: {state}; its file cannot be parsed");
        let grade = if runs { Grade::Warning } else { Grade::Note };
        return Remark::new(grade, "host", message).with_facts(facts);
    };
    let Some((apart, grave)) = model.and_then(|model| apart(told, model)) else {
        let message = format!("{called}, vmlockd {}: {state}", told.version);
        let grade = if runs { Grade::Ok } else { Grade::Note };
        return Remark::new(grade, "host", message).with_facts(facts);
    };
    let message = format!("{called}, vmlockd {}: {state}; {apart}", told.version);
    // A host that does not run conflicts with none.
    let grade = match (runs, grave) {
        (true, true) => Grade::Danger,
        (true, false) => Grade::Warning,
        (false, _) => Grade::Note,
    };
    let advice = "all hosts must have the same locking settings, or two of them may write one disk";
    Remark::new(grade, "host", message).advise(advice).with_facts(facts)
}

/// In what a host differs from another, and whether one locks where the other does not; directories
/// may have other names elsewhere.
fn apart(told: &Told, model: &Told) -> Option<(String, bool)> {
    if told.fingerprint == model.fingerprint && told.settings == model.settings {
        return None;
    }
    let keys: std::collections::BTreeSet<&String> =
        told.settings.keys().chain(model.settings.keys()).collect();
    let value = |of: &Told, key: &String| of.settings.get(key).cloned().unwrap_or_default();
    let apart = keys.into_iter().map(|key| (key, value(told, key), value(model, key)));
    let apart: Vec<_> = apart.filter(|(_, there, here)| there != here).collect();
    let path = |text: &str| text.starts_with('/');
    let grave = apart.iter().any(|(_, there, here)| !(path(there) && path(here)));
    let word = |text: &str| if text.is_empty() { "not set".to_owned() } else { shown(text) };
    let each = apart.iter().map(|(key, there, here)| {
        format!("its '{}' is {}, and {} here", shown(key), word(there), word(here))
    });
    let each: Vec<String> = each.collect();
    // A fingerprint that is of something else.
    if each.is_empty() { None } else { Some((each.join(", "), grave)) }
}

fn facts(seen: &Seen) -> Value {
    let mut facts = json!({ "id": seen.id, "locked": seen.locked });
    if let Some(told) = &seen.told {
        facts["name"] = told.name.as_str().into();
        facts["version"] = told.version.as_str().into();
        facts["fingerprint"] = told.fingerprint.as_str().into();
        facts["settings"] = json!(told.settings);
        facts["this-host"] = told.is_here().into();
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn told(name: &str, dir: &str, locks: bool) -> Told {
        let settings =
            [("auto_disk_leases", locks.to_string()), ("file_lockspace_dir", dir.into())];
        let settings: BTreeMap<String, String> =
            settings.map(|(key, value)| (key.to_owned(), value)).into();
        Told::new(name.to_owned(), settings)
    }

    fn host(id: &str, locked: bool, told: Option<Told>) -> Seen {
        Seen { id: id.to_owned(), locked: Some(locked), told }
    }

    fn away(told: Told) -> Told {
        Told { boot: "another".to_owned(), ..told }
    }

    fn grades(hosts: &[Seen]) -> Vec<Grade> {
        let mut remarks = Vec::new();
        compare(hosts, &mut remarks);
        remarks.iter().map(|remark| remark.grade).collect()
    }

    #[test]
    fn hosts_that_lock_alike_are_fine() {
        let own = host("a", true, Some(told("A", "/x", true)));
        let other = |locked| host("b", locked, Some(away(told("B", "/x", true))));
        assert_eq!(grades(&[own.clone(), other(true)]), [Grade::Ok, Grade::Ok]);
        assert_eq!(grades(&[own.clone(), other(false)]), [Grade::Ok, Grade::Note, Grade::Warning]);
        assert_eq!(grades(std::slice::from_ref(&own)), [Grade::Ok]);
        let strange = host("c", true, None);
        assert_eq!(grades(&[own, strange]), [Grade::Ok, Grade::Warning]);
        assert_eq!(grades(&[]), []);
    }

    #[test]
    fn those_that_lock_otherwise_are_named() {
        let own = host("a", true, Some(told("A", "/x", true)));
        for (dir, locks, grade) in
            [("/y", true, Grade::Warning), ("", true, Grade::Danger), ("/x", false, Grade::Danger)]
        {
            let other = host("b", true, Some(away(told("B", dir, locks))));
            let mut remarks = Vec::new();
            compare(&[own.clone(), other.clone()], &mut remarks);
            assert_eq!(remarks[1].grade, grade, "{dir} {locks}");
            let line = remarks[1].line();
            assert!(
                line.contains("host \"B\" (b)") && line.contains("same locking settings"),
                "{line}"
            );
            let gone = Seen { locked: Some(false), ..other };
            assert_eq!(grades(&[own.clone(), gone])[1], Grade::Note);
        }
    }
}
