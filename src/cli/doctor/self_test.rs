//! Tests locks on the file system of a directory or disk.
//!
//! The tool runs the lock self-test itself, with the permissions of its user; it does not call the
//! service.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde_json::{Value, json};

use crate::cli::doctor::hosts;
use crate::cli::doctor::report::{Finding, Severity};
use crate::cli::error::Error;
use crate::lock::mount::{Mount, Mounts};
use crate::lock::request::Work as _;
use crate::lock::selftest::result::{Caveat, Local, SelfTestResult};
use crate::lock::selftest::run::{Outcome, Step};
use crate::lock::selftest::{PATIENCE, RunSelfTest, SelfTestReport};
use crate::lock::text::errno::errno_description;
use crate::lock::text::escape::{shown_path, spelt_path};

/// Tests a directory, or the directory of a disk.
///
/// # Errors
///
/// Fails if the directory or disk does not exist.
pub(crate) fn check(path: &Path, findings: &mut Vec<Finding>) -> Result<(), Error> {
    let path = std::path::absolute(path)
        .map_err(|error| Error::Usage(format!("'{}' is not a path: {error}", shown_path(path))))?;
    // The test process accesses the file system first, since that may hang.
    let report = run_self_test(&path);
    match report.tried.first() {
        Some((Step::Open, Outcome::Failed(Errno::NOTDIR))) => check_disk(&path, findings),
        Some((Step::Open, Outcome::Failed(Errno::NOENT))) => {
            Err(Error::Missing(format!("{} does not exist", shown_path(&path))))
        }
        _ => {
            add_findings(&path, &report, findings);
            Ok(())
        }
    }
}

fn run_self_test(directory: &Path) -> SelfTestReport {
    RunSelfTest { directory: directory.to_owned(), patience: PATIENCE }.perform()
}

fn check_disk(path: &Path, findings: &mut Vec<Finding>) -> Result<(), Error> {
    let shown = shown_path(path);
    let failed = |error| Error::system(&format!("examine {shown}"), error);
    let real = fs::canonicalize(path).map_err(failed)?;
    let kind = fs::metadata(&real).map_err(failed)?.file_type();
    if kind.is_block_device() {
        let message = format!(
            "{shown} is a block device: a lock on it is enforced on this host only, and is not tested"
        );
        let advice = "if other hosts use it, set 'lvm_lockspace_dir' or 'scsi_lockspace_dir' to a directory \
                      on a file system that all of them share";
        findings.push(Finding::new(Severity::Warning, "disk", message).with_advice(advice));
        return Ok(());
    }
    if !kind.is_file() {
        let message = format!("{shown} is neither a directory nor a disk; give one of these");
        return Err(Error::Usage(message));
    }
    let message = format!("unless a lockspace is configured for it, {shown} itself is locked");
    findings.push(Finding::new(Severity::Ok, "disk", message));
    let directory = real.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned);
    let report = run_self_test(&directory);
    let mounts = Mounts::now().unwrap_or_default();
    let own = mounts.of(&real).map(|mount| mount.id);
    if own.is_some() && own != report.mount.as_ref().map(|mount| mount.id) {
        let message = format!(
            "not tested: {shown} itself is a mount point, so no file can be made beside it"
        );
        let advice = "examine the directory that it was mounted from";
        findings.push(Finding::new(Severity::Warning, "result", message).with_advice(advice));
        return Ok(());
    }
    add_findings(&directory, &report, findings);
    Ok(())
}

/// Adds the results of a self-test.
pub(crate) fn add_findings(directory: &Path, report: &SelfTestReport, findings: &mut Vec<Finding>) {
    let shown = shown_path(directory);
    let SelfTestReport { mount, tried, result, caveats, .. } = report;
    let place = match mount {
        Some(Mount { kind, source, point, .. }) => {
            let point = shown_path(point);
            format!("{shown} is on {source}, a file system of type {kind}, mounted at {point}")
        }
        None => format!("the file system of {shown} is not known"),
    };
    findings.push(Finding::new(Severity::Ok, "place", place));
    findings.extend(tried.iter().map(|(step, outcome)| step_finding(*step, outcome)));
    findings.extend(caveats.iter().map(|caveat| caveat_finding(*caveat)));
    let message = format!("{shown}: {}", result.sentence());
    let mut finding = Finding::new(severity_of(result), "result", message);
    if let Some(advice) = result.advice() {
        finding = finding.with_advice(advice);
    }
    findings.push(finding.with_facts(facts(directory, report)));
    if !matches!(result, SelfTestResult::Untested(_)) {
        hosts::check(directory, findings);
    }
}

fn step_finding(step: Step, outcome: &Outcome) -> Finding {
    let (severity, message) = match outcome {
        Outcome::Passed => (Severity::Ok, step.property().to_owned()),
        Outcome::Wrong(how) => (Severity::Danger, how.clone()),
        Outcome::NoLocks(errno) => (
            Severity::Danger,
            format!(
                "cannot {}: the file system has no locks ({})",
                step.action(),
                errno_description(*errno)
            ),
        ),
        Outcome::Failed(errno) => {
            (Severity::Warning, format!("cannot {}: {}", step.action(), errno_description(*errno)))
        }
    };
    Finding::new(severity, step.as_str(), message)
}

fn caveat_finding(caveat: Caveat) -> Finding {
    Finding::new(Severity::Warning, "mount", caveat.sentence()).with_advice(caveat.advice())
}

/// Returns the severity of a result for users that need locks there.
pub(crate) fn severity_of(result: &SelfTestResult) -> Severity {
    match result {
        SelfTestResult::Shared => Severity::Ok,
        SelfTestResult::Local(Local::OwnDevice) => Severity::Note,
        SelfTestResult::Local(_) | SelfTestResult::Unknown(_) | SelfTestResult::Untested(_) => {
            Severity::Warning
        }
        SelfTestResult::Unfit(_) => Severity::Danger,
    }
}

fn facts(directory: &Path, report: &SelfTestReport) -> Value {
    let mut facts = json!({
        "directory": spelt_path(directory),
        "result": report.result.as_str(),
    });
    if let Some(mount) = &report.mount {
        facts["filesystem"] = mount.kind.as_str().into();
        facts["source"] = mount.source.as_str().into();
        facts["mount-point"] = spelt_path(&mount.point).into();
    }
    facts
}
