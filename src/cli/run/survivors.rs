//! Finds the processes that survive a command.
//!
//! `vmlockctl run` is a subreaper (`PR_SET_CHILD_SUBREAPER` of prctl(2)): orphans that its command
//! has started become its children. After the end of the command, its descendants are therefore the
//! surviving processes, regardless of their session, user and name.
//!
//! A thread that is not joined reads the open files of these processes, since that may hang.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open, set_child_subreaper};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::cli::process::open_files::{OpenFile, open_files};
use crate::lock::text::escape::shown;

/// The maximum number of processes to inspect.
const PROCESSES_MAX: usize = 256;
/// The timeout of the inspection.
const SCAN_TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum number of processes to name in a message.
const NAMES_MAX: usize = 3;

/// Makes this process the parent of orphans that its command leaves behind.
pub(crate) fn adopt_orphans() {
    let own = rustix::process::getpid();
    // On failure, surviving processes are not found.
    let _ = set_child_subreaper(Some(own));
}

/// Reaps adopted orphans that have ended. Does not reap the command itself, whose exit status is
/// awaited elsewhere.
pub(crate) fn reap_orphans(command: Option<u32>) {
    let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(status) = waitid(Id::All, ended) {
        let Some(pid) = status.pid() else { return };
        if command.is_some_and(|own| own == pid.as_raw().cast_unsigned()) {
            return;
        }
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// A process that has survived the command.
#[derive(Debug)]
pub(crate) struct Survivor {
    pub(crate) pid: i32,
    /// Whether it has the lifeline open. False if this user may not see that.
    pub(crate) has_lifeline: bool,
    /// A disk that it has open.
    pub(crate) disk: Option<PathBuf>,
    /// Whether it has been bound to the owner.
    pub(crate) is_bound: bool,
    /// A pidfd of the process, since its PID may be reused.
    pub(crate) pidfd: OwnedFd,
}

impl Survivor {
    fn new(pid: i32) -> Option<Self> {
        let number = rustix::process::Pid::from_raw(pid)?;
        let pidfd = pidfd_open(number, PidfdFlags::empty()).ok()?;
        Some(Self { pid, has_lifeline: false, disk: None, is_bound: false, pidfd })
            .filter(Self::is_alive)
    }

    /// Returns the name of its current program.
    fn program(&self) -> String {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        shown(name.trim_end())
    }

    /// Whether it has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        let mut descriptors = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut descriptors, Some(&Timespec::default())), Ok(0) | Err(Errno::INTR))
    }

    /// Detects whether it has the lifeline or a disk open.
    fn inspect(&mut self, lifeline: u64, disks: &[(PathBuf, FileId)]) {
        let process = PathBuf::from(format!("/proc/{}", self.pid));
        for OpenFile { link, target } in open_files(&process) {
            if target.to_str() == Some(&format!("pipe:[{lifeline}]")) {
                self.has_lifeline = true;
            } else if target.is_absolute() && self.disk.is_none() {
                let node = FileId::of(&link);
                let disk = disks.iter().find(|(_, disk)| Some(*disk) == node);
                self.disk = disk.map(|(path, _)| path.clone());
            }
        }
    }
}

/// The identity of a disk, regardless of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileId {
    File(u64, u64),
    Device(u64),
}

impl FileId {
    /// Returns the identity of a file or block device; `None` for other types of files.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        if found.file_type().is_block_device() {
            Some(Self::Device(found.rdev()))
        } else {
            found.is_file().then(|| Self::File(found.dev(), found.ino()))
        }
    }
}

/// Returns the processes that have survived the command, and whether they have its lifeline or one
/// of its disks open.
pub(crate) async fn find_survivors(lifeline: impl AsFd, disks: Vec<PathBuf>) -> Vec<Survivor> {
    reap_orphans(None);
    let mut found: Vec<Survivor> = descendants().into_iter().filter_map(Survivor::new).collect();
    let Ok(lifeline) = fstat(lifeline.as_fd()) else { return found };
    if found.is_empty() {
        return found;
    }
    let pids: Vec<i32> = found.iter().map(|survivor| survivor.pid).collect();
    let (sender, receiver) = oneshot::channel();
    let inspect_all = move || {
        let disks: Vec<(PathBuf, FileId)> =
            disks.into_iter().filter_map(|path| Some((path.clone(), FileId::of(&path)?))).collect();
        let mut inspected: Vec<Survivor> = pids.into_iter().filter_map(Survivor::new).collect();
        for survivor in &mut inspected {
            survivor.inspect(lifeline.st_ino, &disks);
        }
        // The receiver may have timed out.
        let _ = sender.send(inspected);
    };
    if thread::Builder::new().spawn(inspect_all).is_ok()
        && let Ok(Ok(inspected)) = timeout(SCAN_TIMEOUT, receiver).await
    {
        found = inspected;
    }
    found
}

/// Returns the descendants of this process.
fn descendants() -> BTreeSet<i32> {
    let mut found = BTreeSet::<i32>::new();
    let mut pending = vec!["self".to_owned()];
    while let Some(parent) = pending.pop() {
        let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten();
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                if found.len() < PROCESSES_MAX && found.insert(pid) {
                    pending.push(pid.to_string());
                }
            }
        }
    }
    found
}

/// Formats the programs and PIDs of processes, up to the maximum number.
pub(crate) fn names<'s>(survivors: impl IntoIterator<Item = &'s Survivor>) -> String {
    let all: Vec<String> =
        survivors.into_iter().map(|it| format!("{} (pid {})", it.program(), it.pid)).collect();
    match all.len().saturating_sub(NAMES_MAX) {
        0 => all.join(", "),
        more => format!("{} and {more} more", all[..NAMES_MAX].join(", ")),
    }
}

/// Returns when all of these processes have ended.
pub(crate) async fn wait_for_end(survivors: &[Survivor]) {
    for survivor in survivors {
        // A pidfd becomes readable at the end of the process, like a pipe with data; nothing is
        // read from it.
        let pidfd = survivor.pidfd.try_clone().and_then(Receiver::from_owned_fd_unchecked);
        let Ok(pidfd) = pidfd else { continue };
        drop(pidfd.readable().await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_child_is_found_with_its_open_files() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        fs::write(&disk, "").unwrap();
        let file = fs::File::open(&disk).unwrap();
        let (reader, _writer) = std::io::pipe().unwrap();
        let inode = fstat(&reader).unwrap().st_ino;
        let mut child = Command::new("sleep");
        child.arg("100").stdin(Stdio::from(file)).stdout(Stdio::from(OwnedFd::from(reader)));
        let mut child = child.spawn().unwrap();
        let pid = child.id().cast_signed();
        assert!(descendants().contains(&pid));
        let mut survivor = Survivor::new(pid).unwrap();
        survivor.inspect(inode, &[(disk.clone(), FileId::of(&disk).unwrap())]);
        assert!(survivor.has_lifeline && survivor.disk == Some(disk) && survivor.is_alive());
        assert!(names([&survivor]).contains(&format!("(pid {pid})")));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!survivor.is_alive() && Survivor::new(pid).is_none());
    }
}
