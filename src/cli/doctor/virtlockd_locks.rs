//! Locks that virtlockd holds although no VM uses the disk.
//!
//! virtlockd frees the locks of a VM when the connection ends that QEMU inherited from libvirt. A VM
//! that was started while another daemon served virtlockd's socket has no such connection to
//! virtlockd. If libvirt acquires its locks there later, and does not release them itself, they stay
//! after the end of the VM: virtlockd refuses the disk to every VM from then on.
//!
//! Any user can give a process the name `virtlockd`. So libvirt's daemon is recognized by its user, by its
//! executable, and by running in the PID namespace of this tool: root in a container is not root of the
//! host.
//!
//! Only files that virtlockd has open and locked itself are looked at. Disks that are empty files are
//! passed over: these are lock files in a lockspace, which no VM opens.

use std::collections::BTreeSet;
use std::fs;
use std::iter;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::cli::doctor::finding::{Grade, Remark};
use crate::client::Bus;
use crate::lock::file_tables::threads_with_own_table;
use crate::lock::printable::shown_path;

/// The name of its executable.
const PROGRAM: &str = "virtlockd";
/// How long looking at the processes may take: a file system that does not answer holds it up.
const LIMIT: Duration = Duration::from_secs(5);
/// How many disks are named.
const NAMED: usize = 16;

/// A disk that virtlockd has locked.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Leftover {
    pid: u32,
    disk: PathBuf,
}

/// Adds a remark for each disk that virtlockd holds and no other process has open: root's virtlockd, or
/// this user's where the session instance is examined. Root alone sees what other processes have open;
/// for other users there is no remark.
pub(crate) fn look(bus: Bus, remarks: &mut Vec<Remark>) {
    let user = match bus {
        Bus::System => 0,
        Bus::Session => nix::unistd::geteuid().as_raw(),
    };
    let (found, answer) = mpsc::channel();
    // The thread may hang, and is left behind then.
    thread::spawn(move || drop(found.send(leftovers(Path::new("/proc"), user))));
    let Ok(leftovers) = answer.recv_timeout(LIMIT) else { return };
    for Leftover { pid, disk } in leftovers.into_iter().take(NAMED) {
        let disk = shown_path(&disk);
        let message = format!(
            "{PROGRAM} (pid {pid}) holds a lock on {disk}, which no other process has open: the lock may \
             have outlived its VM"
        );
        let advice = format!(
            "see 'Going back' in vmlockd(8); once no VM of this host runs, 'systemctl restart {PROGRAM}' releases all of \
             its locks"
        );
        remarks.push(Remark::new(Grade::Note, "virtlockd", message).advise(advice));
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
        let opened: BTreeSet<PathBuf> = open_files(&process).map(|(_, name)| name).collect();
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

/// Whether a process is libvirt's daemon, run by this user on this host.
fn is_virtlockd(process: &Path, user: u32) -> bool {
    runs_program(process, PROGRAM) && is_run_by(process, user) && is_of_this_host(process)
}

/// Whether the executable of a process has this name, also after an upgrade has replaced it.
fn runs_program(process: &Path, program: &str) -> bool {
    let executable = fs::read_link(process.join("exe")).unwrap_or_default();
    let name = executable.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.strip_suffix(" (deleted)").unwrap_or(name) == program
}

/// Whether this user, and no other, has started a process and runs it: a program that is set-user-ID
/// root may be started under any name.
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

/// The descriptors of a process that lead to files with a name, and these names. Asks no file system.
fn open_files(process: &Path) -> impl Iterator<Item = (PathBuf, PathBuf)> {
    let threads = threads_with_own_table(process, || true);
    let threads = threads.map(|thread| process.join("task").join(thread.to_string()));
    let tables = iter::once(process.to_owned()).chain(threads);
    let entries =
        tables.filter_map(|table| fs::read_dir(table.join("fd")).ok()).flatten().flatten();
    let named = |entry: fs::DirEntry| Some((entry.path(), fs::read_link(entry.path()).ok()?));
    entries.filter_map(named).filter(|(_, name)| name.is_absolute())
}

/// The disks that a process has locked.
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
    open_files(process)
        // Its pid file is locked, too, and never a disk.
        .filter(|(fd, name)| !name.starts_with("/run") && is_locked(fd) && is_disk(fd))
        .map(|(_, name)| name)
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
    fn a_process_is_virtlockd_by_its_executable_and_user() {
        let user = nix::unistd::geteuid().as_raw();
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
