//! What another process sees: where its names lead, and what its process numbers mean.
//!
//! The links in `/proc/PID/ns`, and `/proc/PID/root`, take no lock of the process. Looking a name up
//! in its mount namespace may ask a file system that it serves itself, and never return.

use std::fs;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::stat::fstat;
use rustix::fs::{
    AtFlags, CWD, Mode as Permissions, OFlags, ResolveFlags, StatxFlags, openat, openat2,
    readlinkat, statx,
};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::position::Position;
use super::walk::{Selection, open_file, open_folder};
use crate::lock::resolve::view::{FileId, Look, Names, Numbered, View};

/// How much of `/proc/PID/status` is read.
const STATUS: u64 = 16 * 1024;
/// How often a lookup is repeated that meets a rename (`openat2(2)`, `EAGAIN`).
const TRIES: usize = 8;

/// What decides where the names of a process lead.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// Its mount namespace.
    namespace: Vec<u8>,
    /// Its root directory: device, inode, and the mount.
    root: (u32, u32, u64, u64),
}

impl Place {
    /// Returns the place of a process, and its root directory. No file system is asked.
    ///
    /// # Errors
    ///
    /// What looking at the process fails with.
    fn of(folder: BorrowedFd<'_>) -> Result<(Option<Self>, OwnedFd), Errno> {
        let namespace = readlinkat(folder, c"ns/mnt", Vec::new())?.into_bytes();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(folder, c"root", flags, Permissions::empty())?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let seen = statx(&root, c"", flags, StatxFlags::INO | StatxFlags::MNT_ID)?;
        // Before Linux 5.8 the mount is not told: then no two roots are known to be the same.
        let told = StatxFlags::from_bits_retain(seen.stx_mask).contains(StatxFlags::MNT_ID);
        let id = (seen.stx_dev_major, seen.stx_dev_minor, seen.stx_ino, seen.stx_mnt_id);
        Ok((told.then_some(Self { namespace, root: id }), root))
    }

    /// Returns the place of a process by its number; `None` where that can't be told.
    fn of_pid(pid: u32) -> Option<Self> {
        let folder = open_folder(CWD, format!("/proc/{pid}"))?;
        Self::of(folder.as_fd()).ok()?.0
    }
}

/// Looks names up as a process does.
pub(super) fn look(
    look: &Look,
    selection: &Selection<'_>,
    service: u32,
    position: &Position,
) -> View {
    let hidden = |errno: Errno| Names::Hidden(errno.raw_os_error());
    let Some(folder) = open_folder(CWD, format!("/proc/{}", look.pid)) else {
        return View { same_pids: None, names: hidden(Errno::SRCH) };
    };
    let Some(uid) = selection.user_of(look.pid, &folder) else {
        return View { same_pids: None, names: Names::Hangs };
    };
    position.at(look.pid, uid);
    let same_pids = same_pids(folder.as_fd(), service);
    let (place, root) = match Place::of(folder.as_fd()) {
        Ok(found) => found,
        Err(errno) => return View { same_pids, names: hidden(errno) },
    };
    if place.is_some_and(|place| is_common(&place, service)) {
        return View { same_pids, names: Names::Same };
    }
    let find = |path: Option<std::path::PathBuf>| {
        position.step();
        let found = path.ok_or(Errno::INVAL).and_then(|path| locate(root.as_fd(), &path));
        let stat = found
            .and_then(|file| fstat(&file).map_err(|errno| Errno::from_raw_os_error(errno as i32)));
        stat.map(|stat| FileId::of(&stat)).map_err(Errno::raw_os_error)
    };
    View { same_pids, names: Names::Other(look.paths().map(find).collect()) }
}

/// Whether names lead there where they lead for the service: the place is the service's own or that of
/// the host, which process 1 has. The unit gives the service a mount namespace of its own, in which
/// names lead where they lead for the host; a service in a container has another root directory.
fn is_common(place: &Place, service: u32) -> bool {
    let Some(own) = Place::of_pid(service) else { return false };
    if *place == own {
        return true;
    }
    let is_derived = |host: &Place| {
        let (own, host) = (own.root, host.root);
        (own.0, own.1, own.2) == (host.0, host.1, host.2)
    };
    Place::of_pid(1).is_some_and(|host| *place == host && is_derived(&host))
}

/// Finds a path from a root directory, as a process does that has this root.
fn locate(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mut found = Err(Errno::AGAIN);
    for _ in 0..TRIES {
        found = openat2(root, relative, flags, Permissions::empty(), resolve);
        if !matches!(found, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    found
}

/// Whether process numbers mean the same to a process and to the service.
fn same_pids(folder: BorrowedFd<'_>, service: u32) -> Option<bool> {
    let own = open_folder(CWD, format!("/proc/{service}"));
    let own = own.and_then(|own| pid_namespace(own.as_fd()));
    match (pid_namespace(folder), own) {
        (Some(theirs), Some(own)) => Some(theirs == own),
        // A process of the namespace that /proc is of has a single number there.
        _ => Some(numbers(folder)?.len() == 1),
    }
}

fn pid_namespace(folder: BorrowedFd<'_>) -> Option<Vec<u8>> {
    Some(readlinkat(folder, c"ns/pid", Vec::new()).ok()?.into_bytes())
}

/// The numbers of a process, from those in our pid namespace to those in its own.
fn numbers(folder: BorrowedFd<'_>) -> Option<Vec<u32>> {
    let mut status = String::new();
    open_file(folder, c"status")?.take(STATUS).read_to_string(&mut status).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().map(|number| number.parse().ok()).collect()
}

/// Finds the process that has a number in the pid namespace of another process. Returns it by a
/// descriptor, which was opened before the process was looked at.
pub(super) fn numbered(
    Numbered { by, number }: Numbered,
    selection: &Selection<'_>,
    position: &Position,
) -> Option<OwnedFd> {
    let folder = open_folder(CWD, format!("/proc/{by}"))?;
    let namespace = pid_namespace(folder.as_fd())?;
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // Often it is the number of the process itself.
    for pid in std::iter::once(by).chain(pids) {
        let Some(folder) = open_folder(CWD, format!("/proc/{pid}")) else { continue };
        let Some(uid) = selection.user_of(pid, &folder) else { continue };
        position.at(pid, uid);
        if pid_namespace(folder.as_fd()).is_none_or(|theirs| theirs != namespace) {
            continue;
        }
        let process = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        let Ok(pidfd) = pidfd_open(process, PidfdFlags::empty()) else { continue };
        // Of this directory: if the process ends meanwhile, nothing is read of another one.
        if numbers(folder.as_fd()).is_some_and(|numbers| numbers.last() == Some(&number)) {
            return Some(pidfd);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspector::skip::Skipped;

    fn names(pid: u32, service: u32, paths: &[&Path]) -> Names {
        let (skipped, position) = (Skipped::default(), Position::new().unwrap());
        let question = Look::for_paths(pid, paths).remove(0);
        look(&question, &Selection::new(&skipped, service), service, &position).names
    }

    #[test]
    fn a_process_sees_what_the_service_sees_only_at_the_same_place() {
        let me = std::process::id();
        assert_eq!(names(me, me, &[]), Names::Same);
        assert_eq!(names(u32::MAX, me, &[]), Names::Hidden(Errno::SRCH.raw_os_error()));
        // Without a service to compare with, each name is looked up.
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let id = FileId::of(&nix::sys::stat::stat(&file).unwrap());
        let Names::Other(found) = names(me, u32::MAX, &[&file, &link, &dir.path().join("c")])
        else {
            panic!("not looked up")
        };
        assert_eq!(found, [Ok(id), Ok(id), Err(Errno::NOENT.raw_os_error())]);
    }

    #[test]
    fn a_process_is_found_by_its_own_number() {
        let me = std::process::id();
        let (skipped, position) = (Skipped::default(), Position::new().unwrap());
        let selection = Selection::new(&skipped, u32::MAX);
        let folder = open_folder(CWD, format!("/proc/{me}")).unwrap();
        assert_eq!(same_pids(folder.as_fd(), me), Some(true));
        let own = *numbers(folder.as_fd()).unwrap().last().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = |number| numbered(Numbered { by: child.id(), number }, &selection, &position);
        if own == me {
            assert!(found(child.id()).is_some());
        }
        assert!(found(u32::MAX).is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
