//! Processes that a command leaves behind.
//!
//! `vmlockctl run` is a subreaper (`PR_SET_CHILD_SUBREAPER` of prctl(2)): what its command has started,
//! and no longer has a parent, becomes its child. So when the command has ended, its own children are
//! the processes that live on, whatever session, user or name they have by then.
//!
//! What they have open is read by a thread that can be left behind.

use std::collections::BTreeSet;
use std::fs;
use std::iter;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use rustix::process::{PidfdFlags, pidfd_open, set_child_subreaper};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::lock::file_tables::threads_with_own_table;
use crate::lock::printable::shown;

/// How many processes are looked at.
const MOST: usize = 256;
/// How long looking at them may take.
const LIMIT: Duration = Duration::from_secs(2);
/// How many are named.
const NAMED: usize = 3;

/// Makes this process the parent of what its command leaves behind.
pub(crate) fn adopt_orphans() {
    let own = rustix::process::getpid();
    // Without it, what is left behind is not named.
    let _ = set_child_subreaper(Some(own));
}

/// Takes the ends of adopted processes off the kernel. The command's own end is for whoever waits
/// for it.
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
    /// Whether it has the lifeline open; not where that may not be seen.
    pub(crate) has_lifeline: bool,
    /// The disk that it has open.
    pub(crate) disk: Option<PathBuf>,
    /// Whether it has been bound to the owner.
    pub(crate) is_bound: bool,
    /// The same process, whatever becomes of its number.
    pub(crate) pidfd: OwnedFd,
}

impl Survivor {
    fn new(pid: i32) -> Option<Self> {
        let number = rustix::process::Pid::from_raw(pid)?;
        let pidfd = pidfd_open(number, PidfdFlags::empty()).ok()?;
        Some(Self { pid, has_lifeline: false, disk: None, is_bound: false, pidfd })
            .filter(Self::lives)
    }

    /// What its program is called now: it may have executed another one since it was found.
    fn program(&self) -> String {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        shown(name.trim_end())
    }

    /// Whether it is still there.
    pub(crate) fn lives(&self) -> bool {
        let mut asked = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut asked, PollTimeout::ZERO), Ok(0) | Err(Errno::EINTR))
    }

    /// Looks at what it has open.
    fn look(&mut self, lifeline: u64, disks: &[(PathBuf, Node)]) {
        let process = PathBuf::from(format!("/proc/{}", self.pid));
        let threads = threads_with_own_table(&process, || true);
        let threads = threads.map(|thread| process.join("task").join(thread.to_string()));
        let tables = iter::once(process.clone()).chain(threads);
        // Only what belongs to this user may be seen.
        let open = tables.filter_map(|table| fs::read_dir(table.join("fd")).ok()).flatten();
        for path in open.flatten().map(|entry| entry.path()) {
            let Ok(target) = fs::read_link(&path) else { continue };
            if target.to_str() == Some(&format!("pipe:[{lifeline}]")) {
                self.has_lifeline = true;
            } else if target.is_absolute() && self.disk.is_none() {
                let node = Node::of(&path);
                let disk = disks.iter().find(|(_, disk)| Some(*disk) == node);
                self.disk = disk.map(|(path, _)| path.clone());
            }
        }
    }
}

/// What a disk is, by whatever name it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    File(u64, u64),
    Device(u64),
}

impl Node {
    /// Whatever a path leads to; `None` for what is no disk.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        if found.file_type().is_block_device() {
            Some(Self::Device(found.rdev()))
        } else {
            found.is_file().then(|| Self::File(found.dev(), found.ino()))
        }
    }
}

/// The processes that have survived the command, with what they have open of its lifeline and its disks.
pub(crate) async fn survivors(lifeline: impl AsFd, disks: Vec<PathBuf>) -> Vec<Survivor> {
    reap_orphans(None);
    let mut found: Vec<Survivor> = descendants().into_iter().filter_map(Survivor::new).collect();
    let Ok(lifeline) = fstat(lifeline.as_fd()) else { return found };
    if found.is_empty() {
        return found;
    }
    let pids: Vec<i32> = found.iter().map(|survivor| survivor.pid).collect();
    let (said, heard) = oneshot::channel();
    let look = move || {
        let disks: Vec<(PathBuf, Node)> =
            disks.into_iter().filter_map(|path| Some((path.clone(), Node::of(&path)?))).collect();
        let mut seen: Vec<Survivor> = pids.into_iter().filter_map(Survivor::new).collect();
        for survivor in &mut seen {
            survivor.look(lifeline.st_ino, &disks);
        }
        // Nobody waits for it who has lost patience.
        let _ = said.send(seen);
    };
    if thread::Builder::new().spawn(look).is_ok()
        && let Ok(Ok(seen)) = timeout(LIMIT, heard).await
    {
        found = seen;
    }
    found
}

/// The children of this process, and theirs.
fn descendants() -> BTreeSet<i32> {
    let mut found = BTreeSet::<i32>::new();
    let mut left = vec!["self".to_owned()];
    while let Some(parent) = left.pop() {
        let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten();
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                if found.len() < MOST && found.insert(pid) {
                    left.push(pid.to_string());
                }
            }
        }
    }
    found
}

/// Processes by program and number, as many as are worth naming.
pub(crate) fn names<'s>(survivors: impl IntoIterator<Item = &'s Survivor>) -> String {
    let all: Vec<String> =
        survivors.into_iter().map(|it| format!("{} (pid {})", it.program(), it.pid)).collect();
    match all.len().saturating_sub(NAMED) {
        0 => all.join(", "),
        more => format!("{} and {more} more", all[..NAMED].join(", ")),
    }
}

/// Returns once all of these have ended.
pub(crate) async fn ended(survivors: &[Survivor]) {
    for survivor in survivors {
        // It reports the end as a pipe reports data; nothing is read from it.
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
    fn a_child_is_seen_with_what_it_has_open() {
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
        survivor.look(inode, &[(disk.clone(), Node::of(&disk).unwrap())]);
        assert!(survivor.has_lifeline && survivor.disk == Some(disk) && survivor.lives());
        assert!(names([&survivor]).contains(&format!("(pid {pid})")));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!survivor.lives() && Survivor::new(pid).is_none());
    }
}
