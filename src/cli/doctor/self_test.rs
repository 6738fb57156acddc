//! `doctor DIRECTORY`: tests the locks of a file system.
//!
//! The tool tests them itself, with the rights of its user; the service is not called.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde_json::{Value, json};

use crate::cli::doctor::finding::{Grade, Remark};
use crate::cli::doctor::hosts;
use crate::cli::error::Error;
use crate::lock::examination::{Examination, Examine, PATIENCE};
use crate::lock::mount::{Mount, Mounts};
use crate::lock::printable::{shown_path, spelt_path};
use crate::lock::trial::{Outcome, Step};
use crate::lock::verdict::{Caveat, Local, Verdict};
use crate::lock::work::Work as _;

/// Examines a directory, or where a disk is.
///
/// # Errors
///
/// Where there is no such thing.
pub(crate) fn examine(path: &Path, remarks: &mut Vec<Remark>) -> Result<(), Error> {
    let path = std::path::absolute(path)
        .map_err(|error| Error::Usage(format!("'{}' is not a path: {error}", shown_path(path))))?;
    // The test process touches the file system first, since that may hang.
    let examination = of(&path);
    match examination.tried.first() {
        Some((Step::Open, Outcome::Failed(Errno::ENOTDIR))) => examine_disk(&path, remarks),
        Some((Step::Open, Outcome::Failed(Errno::ENOENT))) => {
            Err(Error::Missing(format!("{} does not exist", shown_path(&path))))
        }
        _ => {
            tell(&path, &examination, remarks);
            Ok(())
        }
    }
}

fn of(directory: &Path) -> Examination {
    Examine { directory: directory.to_owned(), patience: PATIENCE }.perform()
}

fn examine_disk(path: &Path, remarks: &mut Vec<Remark>) -> Result<(), Error> {
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
        remarks.push(Remark::new(Grade::Warning, "disk", message).advise(advice));
        return Ok(());
    }
    if !kind.is_file() {
        let message = format!("{shown} is neither a directory nor a disk; give one of these");
        return Err(Error::Usage(message));
    }
    let message = format!("unless a lockspace is configured for it, {shown} itself is locked");
    remarks.push(Remark::new(Grade::Ok, "disk", message));
    let directory = real.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned);
    let examination = of(&directory);
    let mounts = Mounts::now().unwrap_or_default();
    let own = mounts.of(&real).map(|mount| mount.id);
    if own.is_some() && own != examination.mount.as_ref().map(|mount| mount.id) {
        let message = format!(
            "not tested: {shown} itself is a mount point, so no file can be made beside it"
        );
        let advice = "examine the directory that it was mounted from";
        remarks.push(Remark::new(Grade::Warning, "result", message).advise(advice));
        return Ok(());
    }
    tell(&directory, &examination, remarks);
    Ok(())
}

/// Adds the findings, a line each.
pub(crate) fn tell(directory: &Path, examination: &Examination, remarks: &mut Vec<Remark>) {
    let shown = shown_path(directory);
    let Examination { mount, tried, verdict, caveats, .. } = examination;
    let place = match mount {
        Some(Mount { kind, source, point, .. }) => {
            let point = shown_path(point);
            format!("{shown} is on {source}, a file system of type {kind}, mounted at {point}")
        }
        None => format!("the file system of {shown} is not known"),
    };
    remarks.push(Remark::new(Grade::Ok, "place", place));
    remarks.extend(tried.iter().map(|(step, outcome)| of_step(*step, outcome)));
    remarks.extend(caveats.iter().map(|caveat| of_caveat(*caveat)));
    let message = format!("{shown}: {}", verdict.sentence());
    let mut remark = Remark::new(grade(verdict), "result", message);
    if let Some(advice) = verdict.advice() {
        remark = remark.advise(advice);
    }
    remarks.push(remark.with_facts(facts(directory, examination)));
    if !matches!(verdict, Verdict::Untested(_)) {
        hosts::look(directory, remarks);
    }
}

fn of_step(step: Step, outcome: &Outcome) -> Remark {
    let (grade, message) = match outcome {
        Outcome::Passed => (Grade::Ok, step.promise().to_owned()),
        Outcome::Wrong(how) => (Grade::Danger, how.clone()),
        Outcome::NoLocks(errno) => (
            Grade::Danger,
            format!("cannot {}: the file system has no locks ({})", step.deed(), errno.desc()),
        ),
        Outcome::Failed(errno) => {
            (Grade::Warning, format!("cannot {}: {}", step.deed(), errno.desc()))
        }
    };
    Remark::new(grade, step.as_str(), message)
}

fn of_caveat(caveat: Caveat) -> Remark {
    Remark::new(Grade::Warning, "mount", caveat.sentence()).advise(caveat.advice())
}

/// How grave a result is for users that rely on locks there.
pub(crate) fn grade(verdict: &Verdict) -> Grade {
    match verdict {
        Verdict::Shared => Grade::Ok,
        Verdict::Local(Local::OwnDevice) => Grade::Note,
        Verdict::Local(_) | Verdict::Unknown(_) | Verdict::Untested(_) => Grade::Warning,
        Verdict::Unfit(_) => Grade::Danger,
    }
}

fn facts(directory: &Path, examination: &Examination) -> Value {
    let mut facts = json!({
        "directory": spelt_path(directory),
        "result": examination.verdict.as_str(),
    });
    if let Some(mount) = &examination.mount {
        facts["filesystem"] = mount.kind.as_str().into();
        facts["source"] = mount.source.as_str().into();
        facts["mount-point"] = spelt_path(&mount.point).into();
    }
    facts
}
