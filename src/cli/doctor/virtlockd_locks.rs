//! Finds locks that virtlockd holds although no VM uses the disk.
//!
//! virtlockd releases the locks of a VM at the end of a connection that QEMU inherits from libvirt.
//! A VM that was started while another daemon served virtlockd's socket has no such connection to
//! virtlockd. If libvirt acquires locks for it there later and does not release them, they outlive
//! the VM, and virtlockd refuses the disk to every VM from then on.
//!
//! Any user can name a process `virtlockd`. libvirt's daemon is therefore recognized by its user,
//! its executable and its PID namespace, which must be that of this tool, as root in a container is
//! not root on the host.
//!
//! Only files that virtlockd has open and locked are checked. Empty files are skipped: they are
//! lock files in a lockspace, which VMs do not open.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::cli::doctor::report::{Finding, Severity};
use crate::cli::process::open_files::{OpenFile, open_files};
use crate::client::Bus;
use crate::lock::text::escape::shown_path;

/// The name of virtlockd's executable.
const PROGRAM: &str = "virtlockd";
/// The timeout of the scan, which hangs on an unresponsive file system.
const SCAN_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum number of disks that are reported.
const FINDINGS_MAX: usize = 16;

/// A disk that virtlockd has locked.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Leftover {
    pid: u32,
    disk: PathBuf,
}

/// Adds a finding for each disk that virtlockd has locked and no other process has open: root's
/// virtlockd on the system bus, this user's on the session bus. Without permission to see the open
/// files of other processes, which only root has, there are no findings.
pub(crate) fn check(bus: Bus, findings: &mut Vec<Finding>) {
    let user = match bus {
        Bus::System => 0,
        Bus::Session => rustix::process::geteuid().as_raw(),
    };
    let (found, answer) = mpsc::channel();
    // The thread is not joined, since it may hang.
    thread::spawn(move || drop(found.send(leftovers(Path::new("/proc"), user))));
    let Ok(leftovers) = answer.recv_timeout(SCAN_TIMEOUT) else { return };
    for Leftover { pid, disk } in leftovers.into_iter().take(FINDINGS_MAX) {
        let disk = shown_path(&disk);
        let message = format!(
            "{PROGRAM} (pid {pid}) holds a lock on {disk}, which no other process has open: the lock may \
             have outlived its VM"
        );
        let advice = format!(
            "see 'Going back' in vmlockd(8); once no VM of this host runs, 'systemctl restart {PROGRAM}' releases all of \
             its locks"
        );
        findings.push(Finding::new(Severity::Note, "virtlockd", message).with_advice(advice));
    }
}

fn leftovers(proc: &Path, user: u32) -> BTreeSet<Leftover> {
    let mut held = BTreeSet::new();
    let daemons: Vec<PathBuf> =
        processes(proc).filter(|process| is_virtlockd(process, user)).collect();
    for process in &daemons {
        let Some(pid) = number(process) else { continue };
        held.extend(locked_by(process).into_iter().map(|disk| Leftover { pid, disk }));
    }
    if held.is_empty() {
        return held;
    }
    for process in processes(proc).filter(|process| !daemons.contains(process)) {
        let opened: BTreeSet<PathBuf> = named_files(&process).map(|file| file.target).collect();
        held.retain(|leftover| !opened.contains(&leftover.disk));
    }
    held
}

fn processes(proc: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| number(path).is_some())
}

fn number(process: &Path) -> Option<u32> {
    process.file_name()?.to_str()?.parse().ok()
}

/// Whether a process is virtlockd, run by this user on this host.
fn is_virtlockd(process: &Path, user: u32) -> bool {
    runs_program(process, PROGRAM) && is_run_by(process, user) && is_of_this_host(process)
}

/// Whether the executable of a process has this name, even if an upgrade has replaced it.
fn runs_program(process: &Path, program: &str) -> bool {
    let executable = fs::read_link(process.join("exe")).unwrap_or_default();
    let name = executable.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.strip_suffix(" (deleted)").unwrap_or(name) == program
}

/// Whether all uids of a process are those of this user. Another user could start a set-user-ID
/// program of this user under any name.
fn is_run_by(process: &Path, user: u32) -> bool {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    let mut users = users.split_whitespace().map(str::parse::<u32>).peekable();
    users.peek().is_some() && users.all(|uid| uid == Ok(user))
}

fn is_of_this_host(process: &Path) -> bool {
    let own = fs::read_link("/proc/self/ns/pid");
    own.is_ok_and(|own| fs::read_link(process.join("ns/pid")).is_ok_and(|other| other == own))
}

/// Returns the open files of a process that have a path.
fn named_files(process: &Path) -> impl Iterator<Item = OpenFile> {
    open_files(process).filter(|file| file.target.is_absolute())
}

/// Returns the disks that a process has locked.
fn locked_by(process: &Path) -> Vec<PathBuf> {
    let is_locked = |fd: &Path| {
        let (Some(name), Some(table)) = (fd.file_name(), fd.ancestors().nth(2)) else {
            return false;
        };
        let info = fs::read_to_string(table.join("fdinfo").join(name));
        info.is_ok_and(|info| info.lines().any(|line| line.starts_with("lock:")))
    };
    let is_disk = |fd: &Path| {
        fs::metadata(fd).is_ok_and(|metadata| {
            metadata.file_type().is_block_device() || (metadata.is_file() && metadata.size() > 0)
        })
    };
    named_files(process)
        // virtlockd also locks its PID file, which is not a disk.
        .filter(|file| !file.target.starts_with("/run"))
        .filter(|file| is_locked(&file.link) && is_disk(&file.link))
        .map(|file| file.target)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// Runs a copy of a program under another name.
    fn run_as(dir: &Path, name: &str) -> Child {
        let program = dir.join(name);
        let sleep = Command::new("sh").args(["-c", "command -v sleep"]).output().unwrap();
        fs::copy(String::from_utf8(sleep.stdout).unwrap().trim_end(), &program).unwrap();
        Command::new(program).arg("60").spawn().unwrap()
    }

    #[test]
    fn virtlockd_is_recognized_by_its_executable_and_user() {
        let user = rustix::process::geteuid().as_raw();
        let dir = tempfile::tempdir().unwrap();
        let (mut daemon, mut other) = (run_as(dir.path(), PROGRAM), run_as(dir.path(), "other"));
        let [of_daemon, of_other] =
            [&daemon, &other].map(|child| PathBuf::from(format!("/proc/{}", child.id())));
        assert!(is_virtlockd(&of_daemon, user));
        assert!(!is_virtlockd(&of_daemon, user + 1));
        fs::remove_file(dir.path().join(PROGRAM)).unwrap();
        assert!(is_virtlockd(&of_daemon, user), "after an upgrade");
        assert!(!is_virtlockd(&of_other, user));
        for child in [&mut daemon, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(!is_virtlockd(&of_daemon, user), "one that has ended");
    }
}
