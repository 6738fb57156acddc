//! Checks the locks: lost, conflicting and unverified ones, and those whose file was replaced.

use crate::cli::doctor::owners::describe_vm;
use crate::cli::doctor::report::{Finding, Severity};
use crate::cli::format::row;
use crate::client::Row;

/// Adds a finding for each lock that needs attention, or one for all locks.
pub(crate) fn check_locks(locks: &[Row], findings: &mut Vec<Finding>) {
    let abnormal: Vec<&Row> =
        locks.iter().filter(|lock| !row::lock_state(lock).is_empty()).collect();
    if abnormal.is_empty() {
        let message = match locks.len() {
            0 => "no locks".to_owned(),
            1 => "1 lock, held and verified".to_owned(),
            count => format!("{count} locks, all held and verified"),
        };
        findings.push(Finding::new(Severity::Ok, "locks", message));
    }
    findings.extend(abnormal.into_iter().map(lock_finding));
}

/// Returns the finding for a lock that needs attention.
fn lock_finding(lock: &Row) -> Finding {
    let disk = row::text(lock, "resource");
    let held = format!(
        "lock {} on {disk} of {}, held since {}",
        row::lock_number(lock),
        describe_vm(lock),
        row::since(lock)
    );
    let (severity, message, advice) = if row::flag(lock, "lost") {
        let advice = "another program may be using the disk: stop one of the two; the service's \
                      log names the cause, and the service retries until the lock is held again";
        (Severity::Danger, format!("{held}, is LOST"), advice.to_owned())
    } else if row::flag(lock, "conflict") {
        let advice = format!(
            "a loop device was set up again, or a file was copied up, while it was locked, and two \
             VMs may be writing the same data; 'vmlockctl who {disk}' names both: stop one of them"
        );
        (Severity::Danger, format!("{held}, covers data that another owner has locked"), advice)
    } else if let Some(state) = row::name_state_text(lock) {
        let advice = "the VM writes to a file that no longer has this name: find it with 'ls -l /proc/PID/fd' \
                      before the VM ends";
        (Severity::Warning, format!("{held}: {state}"), advice.to_owned())
    } else {
        let advice = "if this lasts, the storage does not respond: check its server";
        let message = format!("{held}, is not verified since the service was started");
        (Severity::Warning, message, advice.to_owned())
    };
    Finding::new(severity, "lock", message).with_advice(advice).with_object(lock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::owners::tests::owner;
    use zbus::{OwnedVariant, Variant};

    #[test]
    fn an_unverified_lock_is_a_warning() {
        let mut lock = owner("web1", vec!["lifeline"]);
        for key in ["verified", "lost"] {
            lock.insert(key.to_owned(), OwnedVariant::try_from(Variant::from(false)).unwrap());
        }
        let mut findings = Vec::new();
        check_locks(&[lock], &mut findings);
        let [finding] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.format_line().contains("not verified"), "{}", finding.format_line());
    }
}
