//! What `doctor` says of the storage that the service uses.

use std::path::Path;

use crate::cli::commands::lockspace;
use crate::cli::connection::Link;
use crate::cli::doctor::finding::{Grade, Remark};
use crate::cli::doctor::hosts;
use crate::cli::error::Error;
use crate::cli::format::row;
use crate::client::{ManagerProxy, Options, Row};

/// Looks at the lockspaces, and whether storage answers.
pub(crate) async fn look(
    link: &Link,
    manager: &ManagerProxy<'_>,
    remarks: &mut Vec<Remark>,
) -> Result<(), Error> {
    let metrics = manager.get_metrics(Options::new()).await?;
    let (silent, stuck) =
        (row::number(&metrics, "mounts-unresponsive"), row::number(&metrics, "requests-hung"));
    remarks.extend(of_silence(silent));
    remarks.extend(of_stuck(stuck));
    for lockspace in lockspace::all(link).await? {
        of_lockspace(&lockspace, remarks);
        let directory = row::text(&lockspace, "directory");
        // The other verdicts mean that hosts don't see each other's locks there.
        let visible = matches!(row::text(&lockspace, "self-test-result"), "shared" | "unknown");
        // The lookup would hang as long as the requests that hang already.
        let responsive = silent == 0 && stuck == 0;
        if visible && responsive && row::text(&lockspace, "kind") != "lease" {
            hosts::look(Path::new(directory), remarks);
        }
    }
    Ok(())
}

fn of_silence(silent: u64) -> Option<Remark> {
    let message = match silent {
        0 => return None,
        1 => "1 mount does not respond; requests for disks on it fail until it does".to_owned(),
        count => {
            format!("{count} mounts do not respond; requests for disks on them fail until they do")
        }
    };
    let advice = "the service's log names them; check the server and the network path to it";
    Some(Remark::new(Grade::Warning, "storage", message).advise(advice))
}

fn of_stuck(stuck: u64) -> Option<Remark> {
    let message = match stuck {
        0 => return None,
        1 => "1 request hangs in a file system that does not respond".to_owned(),
        count => format!("{count} requests hang in a file system that does not respond"),
    };
    let advice = "each occupies a thread of the service until the file system responds, or is unmounted \
                  with 'umount --force'";
    Some(Remark::new(Grade::Warning, "storage", message).advise(advice))
}

/// What the service has found out about a lockspace. One older than that says nothing.
fn of_lockspace(lockspace: &Row, remarks: &mut Vec<Remark>) {
    let configured = row::text(lockspace, "kind") != "lease";
    let grade = match row::text(lockspace, "self-test-result") {
        "shared" => Grade::Ok,
        // Of one that somebody has made it is known what he wanted.
        "local" if !configured => Grade::Ok,
        "local" => Grade::Note,
        "unusable" => Grade::Danger,
        "" => return,
        _ => Grade::Warning,
    };
    let (name, directory) = (row::text(lockspace, "name"), row::text(lockspace, "directory"));
    let place = match directory {
        "" => format!("lockspace {name}"),
        directory => format!("lockspace {name}, {directory}"),
    };
    let findings = row::words(lockspace, "self-test-messages");
    let grades = std::iter::once(grade).chain(std::iter::repeat(Grade::Warning));
    for (finding, grade) in findings.into_iter().zip(grades) {
        let remark = Remark::new(grade, "lockspace", format!("{place}: {finding}"));
        remarks.push(remark.about(lockspace));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::{OwnedVariant, Variant};

    fn lockspace(kind: &str, verdict: &str, findings: Vec<&str>) -> Row {
        let owned = |value: Variant<'_>| OwnedVariant::try_from(value).unwrap();
        let text =
            [("name", "x"), ("kind", kind), ("directory", "/srv"), ("self-test-result", verdict)];
        let text = text.map(|(key, value)| (key.to_owned(), owned(value.into())));
        let findings = ("self-test-messages".to_owned(), owned(findings.into()));
        text.into_iter().chain([findings]).collect()
    }

    #[test]
    fn a_verdict_is_as_grave_as_it_is() {
        for (kind, verdict, grade) in [
            ("hashed", "shared", Some(Grade::Ok)),
            ("hashed", "local", Some(Grade::Note)),
            ("lease", "local", Some(Grade::Ok)),
            ("lease", "not-shared", Some(Grade::Warning)),
            ("lease", "unknown", Some(Grade::Warning)),
            ("hashed", "untested", Some(Grade::Warning)),
            ("direct", "recorded", Some(Grade::Warning)),
            ("hashed", "of-tomorrow", Some(Grade::Warning)),
            ("hashed", "unusable", Some(Grade::Danger)),
            ("direct", "", None),
        ] {
            let mut remarks = Vec::new();
            of_lockspace(&lockspace(kind, verdict, vec!["so it is"]), &mut remarks);
            let found = remarks.first().map(|remark| remark.grade);
            assert_eq!(found, grade, "{kind} {verdict}");
        }
        let mut remarks = Vec::new();
        of_lockspace(&lockspace("hashed", "shared", vec!["good", "but"]), &mut remarks);
        let grades: Vec<Grade> = remarks.iter().map(|remark| remark.grade).collect();
        assert_eq!(grades, [Grade::Ok, Grade::Warning]);
        assert!(remarks[1].line().contains("lockspace x, /srv: but"), "{}", remarks[1].line());
    }

    #[test]
    fn silence_is_told() {
        assert!(of_silence(0).is_none());
        assert_eq!(of_silence(2).unwrap().grade, Grade::Warning);
    }
}
