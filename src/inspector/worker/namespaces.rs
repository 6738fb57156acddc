//! Resolves names and pids as another process does.
//!
//! The links in `/proc/PID/ns`, and `/proc/PID/root`, take no lock of the process. Resolving a name
//! in its mount namespace may send a request to a file system that the process serves itself, and
//! never return.

use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Mode as Permissions, OFlags, ResolveFlags, StatxFlags, fstat, openat, openat2,
    readlinkat, statx,
};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::proc::{open_dir, open_file, pids};
use super::selection::Selection;
use crate::inspector::progress::ProgressFile;
use crate::lock::resolve::view::{FileId, Look, Names, Numbered, View};

/// The maximum length that is read of `/proc/PID/status`, in bytes.
const MAX_STATUS_LEN: u64 = 16 * 1024;
/// The maximum number of attempts of a lookup that is interrupted by a rename (`openat2(2)`,
/// `EAGAIN`).
const MAX_ATTEMPTS: usize = 8;

/// The mount namespace and root directory of a process, which decide how its names are resolved.
#[derive(Debug, PartialEq, Eq)]
struct RootIdentity {
    /// The mount namespace.
    namespace: Vec<u8>,
    /// The root directory: device, inode and mount.
    root: (u32, u32, u64, u64),
}

impl RootIdentity {
    /// Reads the root of a process. Returns also its root directory. Sends no request to a file
    /// system.
    ///
    /// # Errors
    ///
    /// The errors of readlinkat(2), openat(2) and statx(2).
    fn read(dir: BorrowedFd<'_>) -> Result<(Option<Self>, OwnedFd), Errno> {
        let namespace = readlinkat(dir, c"ns/mnt", Vec::new())?.into_bytes();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(dir, c"root", flags, Permissions::empty())?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let seen = statx(&root, c"", flags, StatxFlags::INO | StatxFlags::MNT_ID)?;
        // Linux before 5.8 does not report the mount. Then no two roots are known to be equal.
        let has_mount = StatxFlags::from_bits_retain(seen.stx_mask).contains(StatxFlags::MNT_ID);
        let id = (seen.stx_dev_major, seen.stx_dev_minor, seen.stx_ino, seen.stx_mnt_id);
        Ok((has_mount.then_some(Self { namespace, root: id }), root))
    }

    /// Reads the root of the process `pid`; `None` if it cannot be determined.
    fn of_pid(pid: u32) -> Option<Self> {
        let dir = open_dir(CWD, format!("/proc/{pid}"))?;
        Self::read(dir.as_fd()).ok()?.0
    }
}

/// Resolves names as a process does.
pub(super) fn resolve_names(
    look: &Look,
    selection: &Selection<'_>,
    service: u32,
    progress: &ProgressFile,
) -> View {
    let hidden = |errno: Errno| Names::Hidden(errno.raw_os_error());
    let Some(dir) = open_dir(CWD, format!("/proc/{}", look.pid)) else {
        return View { same_pids: None, names: hidden(Errno::SRCH) };
    };
    let Some(uid) = selection.user_of(look.pid, &dir) else {
        return View { same_pids: None, names: Names::Hangs };
    };
    progress.set_process(look.pid, uid);
    let same_pids = same_pids(dir.as_fd(), service);
    let (identity, root) = match RootIdentity::read(dir.as_fd()) {
        Ok(found) => found,
        Err(errno) => return View { same_pids, names: hidden(errno) },
    };
    if identity.is_some_and(|identity| is_shared(&identity, service)) {
        return View { same_pids, names: Names::Same };
    }
    let find = |path: Option<std::path::PathBuf>| {
        progress.advance();
        let found = path.ok_or(Errno::INVAL).and_then(|path| open_in_root(root.as_fd(), &path));
        let stat = found.and_then(fstat);
        stat.map(|stat| FileId::of(&stat)).map_err(Errno::raw_os_error)
    };
    View { same_pids, names: Names::Other(look.paths().map(find).collect()) }
}

/// Returns whether names are resolved as they are for the service: the root is the root of the
/// service, or the root of the host, which process 1 has. The unit gives the service a mount
/// namespace of its own, in which names are resolved as on the host. A service in a container has
/// another root directory.
fn is_shared(identity: &RootIdentity, service: u32) -> bool {
    let Some(own) = RootIdentity::of_pid(service) else { return false };
    if *identity == own {
        return true;
    }
    let is_derived = |host: &RootIdentity| {
        let (own, host) = (own.root, host.root);
        (own.0, own.1, own.2) == (host.0, host.1, host.2)
    };
    RootIdentity::of_pid(1).is_some_and(|host| *identity == host && is_derived(&host))
}

/// Opens a path as a process with this root directory does.
fn open_in_root(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mut found = Err(Errno::AGAIN);
    for _ in 0..MAX_ATTEMPTS {
        found = openat2(root, relative, flags, Permissions::empty(), resolve);
        if !matches!(found, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    found
}

/// Returns whether a process and the service are in the same pid namespace.
fn same_pids(dir: BorrowedFd<'_>, service: u32) -> Option<bool> {
    let own = open_dir(CWD, format!("/proc/{service}"));
    let own = own.and_then(|own| pid_namespace(own.as_fd()));
    match (pid_namespace(dir), own) {
        (Some(theirs), Some(own)) => Some(theirs == own),
        // A process in the pid namespace of /proc has a single number there.
        _ => Some(pids_of(dir)?.len() == 1),
    }
}

fn pid_namespace(dir: BorrowedFd<'_>) -> Option<Vec<u8>> {
    Some(readlinkat(dir, c"ns/pid", Vec::new()).ok()?.into_bytes())
}

/// Returns the numbers of a process, from its number in the pid namespace of the worker to its
/// number in its own.
fn pids_of(dir: BorrowedFd<'_>) -> Option<Vec<u32>> {
    let mut status = String::new();
    open_file(dir, c"status")?.take(MAX_STATUS_LEN).read_to_string(&mut status).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().map(|number| number.parse().ok()).collect()
}

/// Finds a process by its number in the pid namespace of another process. Returns a pidfd, which
/// was opened before the process was read.
pub(super) fn find_by_pid(
    Numbered { by, number }: Numbered,
    selection: &Selection<'_>,
    progress: &ProgressFile,
) -> Option<OwnedFd> {
    let dir = open_dir(CWD, format!("/proc/{by}"))?;
    let namespace = pid_namespace(dir.as_fd())?;
    // Often it is the process `by` itself.
    for pid in std::iter::once(by).chain(pids()) {
        let Some(dir) = open_dir(CWD, format!("/proc/{pid}")) else { continue };
        let Some(uid) = selection.user_of(pid, &dir) else { continue };
        progress.set_process(pid, uid);
        if pid_namespace(dir.as_fd()).is_none_or(|theirs| theirs != namespace) {
            continue;
        }
        let process = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        let Ok(pidfd) = pidfd_open(process, PidfdFlags::empty()) else { continue };
        // Read through the same directory: if the process exits meanwhile, this fails instead of
        // reading another process.
        if pids_of(dir.as_fd()).is_some_and(|numbers| numbers.last() == Some(&number)) {
            return Some(pidfd);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspector::skip_list::SkipList;
    use std::fs;

    fn names(pid: u32, service: u32, paths: &[&Path]) -> Names {
        let (skipped, progress) = (SkipList::default(), ProgressFile::new().unwrap());
        let question = Look::for_paths(pid, paths).remove(0);
        resolve_names(&question, &Selection::new(&skipped, service), service, &progress).names
    }

    #[test]
    fn names_are_shared_only_with_the_same_root() {
        let me = std::process::id();
        assert_eq!(names(me, me, &[]), Names::Same);
        assert_eq!(names(u32::MAX, me, &[]), Names::Hidden(Errno::SRCH.raw_os_error()));
        // There is no service to compare with, so each name is resolved.
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let id = FileId::of(&rustix::fs::stat(&file).unwrap());
        let Names::Other(found) = names(me, u32::MAX, &[&file, &link, &dir.path().join("c")])
        else {
            panic!("not looked up")
        };
        assert_eq!(found, [Ok(id), Ok(id), Err(Errno::NOENT.raw_os_error())]);
    }

    #[test]
    fn a_process_is_found_by_its_own_number() {
        let me = std::process::id();
        let (skipped, progress) = (SkipList::default(), ProgressFile::new().unwrap());
        let selection = Selection::new(&skipped, u32::MAX);
        let dir = open_dir(CWD, format!("/proc/{me}")).unwrap();
        assert_eq!(same_pids(dir.as_fd(), me), Some(true));
        let own = *pids_of(dir.as_fd()).unwrap().last().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found =
            |number| find_by_pid(Numbered { by: child.id(), number }, &selection, &progress);
        if own == me {
            assert!(found(child.id()).is_some());
        }
        assert!(found(u32::MAX).is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
