//! Checks the storage that the service uses: hung requests, and the self-tests of lockspaces.

use std::path::Path;

use crate::cli::connection::ServiceConnection;
use crate::cli::doctor::hosts;
use crate::cli::doctor::report::{Finding, Severity};
use crate::cli::error::Error;
use crate::cli::format::row;
use crate::client::{ManagerProxy, Options, Row};

/// Adds the findings on unresponsive storage and on lockspaces.
pub(crate) async fn check(
    service: &ServiceConnection,
    manager: &ManagerProxy<'_>,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    let metrics = manager.get_metrics(Options::new()).await?;
    let (unresponsive, hung) =
        (row::number(&metrics, "mounts-unresponsive"), row::number(&metrics, "requests-hung"));
    findings.extend(unresponsive_mounts(unresponsive));
    findings.extend(hung_requests(hung));
    for lockspace in service.lockspaces().await? {
        check_lockspace(&lockspace, findings);
        let directory = row::text(&lockspace, "directory");
        // With any other result, hosts do not see each other's locks there.
        let visible = matches!(row::text(&lockspace, "self-test-result"), "shared" | "unknown");
        // Reading the directory could hang, too.
        let responsive = unresponsive == 0 && hung == 0;
        if visible && responsive && row::text(&lockspace, "kind") != "lease" {
            hosts::check(Path::new(directory), findings);
        }
    }
    Ok(())
}

fn unresponsive_mounts(unresponsive: u64) -> Option<Finding> {
    let message = match unresponsive {
        0 => return None,
        1 => "1 mount does not respond; requests for disks on it fail until it does".to_owned(),
        count => {
            format!("{count} mounts do not respond; requests for disks on them fail until they do")
        }
    };
    let advice = "the service's log names them; check the server and the network path to it";
    Some(Finding::new(Severity::Warning, "storage", message).with_advice(advice))
}

fn hung_requests(hung: u64) -> Option<Finding> {
    let message = match hung {
        0 => return None,
        1 => "1 request hangs in a file system that does not respond".to_owned(),
        count => format!("{count} requests hang in a file system that does not respond"),
    };
    let advice = "each occupies a thread of the service until the file system responds, or is unmounted \
                  with 'umount --force'";
    Some(Finding::new(Severity::Warning, "storage", message).with_advice(advice))
}

/// Adds the self-test result of a lockspace. An older service reports none.
fn check_lockspace(lockspace: &Row, findings: &mut Vec<Finding>) {
    let configured = row::text(lockspace, "kind") != "lease";
    let severity = match row::text(lockspace, "self-test-result") {
        "shared" => Severity::Ok,
        // A lockspace that was created explicitly may be meant for one host.
        "local" if !configured => Severity::Ok,
        "local" => Severity::Note,
        "unusable" => Severity::Danger,
        "" => return,
        _ => Severity::Warning,
    };
    let (name, directory) = (row::text(lockspace, "name"), row::text(lockspace, "directory"));
    let place = match directory {
        "" => format!("lockspace {name}"),
        directory => format!("lockspace {name}, {directory}"),
    };
    let messages = row::strings(lockspace, "self-test-messages");
    // The first message is the result, and the others are caveats.
    let severities = std::iter::once(severity).chain(std::iter::repeat(Severity::Warning));
    for (message, severity) in messages.into_iter().zip(severities) {
        let finding = Finding::new(severity, "lockspace", format!("{place}: {message}"));
        findings.push(finding.with_object(lockspace));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::{OwnedVariant, Variant};

    fn lockspace(kind: &str, result: &str, findings: Vec<&str>) -> Row {
        let owned = |value: Variant<'_>| OwnedVariant::try_from(value).unwrap();
        let text =
            [("name", "x"), ("kind", kind), ("directory", "/srv"), ("self-test-result", result)];
        let text = text.map(|(key, value)| (key.to_owned(), owned(value.into())));
        let findings = ("self-test-messages".to_owned(), owned(findings.into()));
        text.into_iter().chain([findings]).collect()
    }

    #[test]
    fn each_result_has_a_severity() {
        for (kind, result, severity) in [
            ("hashed", "shared", Some(Severity::Ok)),
            ("hashed", "local", Some(Severity::Note)),
            ("lease", "local", Some(Severity::Ok)),
            ("lease", "not-shared", Some(Severity::Warning)),
            ("lease", "unknown", Some(Severity::Warning)),
            ("hashed", "untested", Some(Severity::Warning)),
            ("direct", "recorded", Some(Severity::Warning)),
            ("hashed", "of-tomorrow", Some(Severity::Warning)),
            ("hashed", "unusable", Some(Severity::Danger)),
            ("direct", "", None),
        ] {
            let mut findings = Vec::new();
            check_lockspace(&lockspace(kind, result, vec!["so it is"]), &mut findings);
            let found = findings.first().map(|finding| finding.severity);
            assert_eq!(found, severity, "{kind} {result}");
        }
        let mut findings = Vec::new();
        check_lockspace(&lockspace("hashed", "shared", vec!["good", "but"]), &mut findings);
        let grades: Vec<Severity> = findings.iter().map(|finding| finding.severity).collect();
        assert_eq!(grades, [Severity::Ok, Severity::Warning]);
        assert!(
            findings[1].format_line().contains("lockspace x, /srv: but"),
            "{}",
            findings[1].format_line()
        );
    }

    #[test]
    fn unresponsive_mounts_are_reported() {
        assert!(unresponsive_mounts(0).is_none());
        assert_eq!(unresponsive_mounts(2).unwrap().severity, Severity::Warning);
    }
}
