//! Looks names up as `openat2(2)` does with `O_PATH`, also if that system call is not available.
//!
//! The flags of `openat2(2)` lie in memory, where a seccomp filter cannot read them. So systemd's
//! `RestrictSUIDSGID=` blocks the whole call (`ENOSYS`). Then this module walks a name component by
//! component. Each one is opened by `O_PATH` and `O_NOFOLLOW`, which neither opens nor follows the
//! file; a link is read through its own descriptor. So a concurrent rename leads only to a file
//! that the kernel's own lookup would have found at some moment.
//!
//! The kernel's checks of links are repeated here: their number (`path_resolution(7)`), links of
//! other users in sticky directories (`fs.protected_symlinks`, `proc_sys_fs(5)`), and mounts on
//! which links are not followed.
//!
//! The kernel limits each link to 4095 bytes, and a name to 40 links, which makes 80 000
//! components. Here a [`Budget`] bounds all components of one lookup, so a name with links is
//! always walked here.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode as Permissions, SFlag, fstat};
use nix::sys::statfs::{self, FsType, fstatfs};
use rustix::process::geteuid;

use super::budget::Budget;
use super::open::Links;
use crate::lock::mount::Mounts;
use crate::lock::path::walk::far_mount;

/// `ST_NOSYMFOLLOW` of the kernel's <linux/statfs.h>.
const NO_LINKS: u64 = 0x2000;
/// AppArmor's own file system, which has magic links, too (`AAFS_MAGIC` of <linux/magic.h>).
const AAFS: FsType = FsType(0x5a3c_69f0);
/// Both bits: any user may create files, and remove its own only.
const STICKY: u32 = 0o1002;

/// Whether `openat2(2)` was refused.
static DENIED: AtomicBool = AtomicBool::new(false);

/// Calls `openat2(2)`; returns `None` if it is not available.
pub(in crate::lock) fn openat2(
    directory: BorrowedFd<'_>,
    path: &Path,
    how: OpenHow,
) -> Option<Result<OwnedFd, Errno>> {
    if DENIED.load(Ordering::Relaxed) {
        return None;
    }
    match nix::fcntl::openat2(directory, path, how) {
        Err(Errno::ENOSYS) => {
            DENIED.store(true, Ordering::Relaxed);
            None
        }
        opened => Some(opened),
    }
}

/// Turns a name into a descriptor of the file that it leads to, without opening that.
///
/// # Errors
///
/// Errors of `openat2(2)`; `ENAMETOOLONG` also if the lookup needs more components than a
/// [`Budget`] has.
pub(in crate::lock) fn locate(path: &Path, links: Links) -> Result<OwnedFd, Errno> {
    // A name without links never has more components than a budget.
    let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
    match openat2(AT_FDCWD, path, how) {
        Some(Err(Errno::ELOOP)) if links == Links::Follow => {}
        Some(found) => return found,
        None => {}
    }
    walk(path, links, &mut Budget::default())
}

/// Looks up a name as [`locate`] does, if it leads to no mount that another host or process serves;
/// otherwise fails with `EAGAIN`.
pub(in crate::lock) fn locate_local(path: &Path) -> Result<OwnedFd, Errno> {
    let mounts = Mounts::current().map_err(|_| Errno::EAGAIN)?;
    if far_mount(&mounts, path).is_some() {
        return Err(Errno::EAGAIN);
    }
    locate(path, Links::Follow)
}

/// Opens a file of a directory. Follows no link, and enters no mount.
pub(in crate::lock) fn open_beneath(
    directory: BorrowedFd<'_>,
    name: &str,
    flags: OFlag,
    mode: Permissions,
) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new().flags(flags).mode(mode).resolve(resolve);
    let opened = openat2(directory, Path::new(name), how);
    opened.unwrap_or_else(|| open_plainly(directory, name, flags, mode))
}

/// Opens a file of a directory without `openat2(2)`.
fn open_plainly(
    directory: BorrowedFd<'_>,
    name: &str,
    flags: OFlag,
    mode: Permissions,
) -> Result<OwnedFd, Errno> {
    if name.contains('/') || matches!(name, "" | "." | "..") {
        return Err(Errno::EXDEV);
    }
    // The file is checked before and after it is opened.
    let flags = flags | OFlag::O_NOFOLLOW;
    match openat(directory, name, ANYTHING, Permissions::empty()) {
        Ok(there) if mount_of(&there)? != mount_of(directory)? => return Err(Errno::EXDEV),
        Err(Errno::ENOENT) if flags.contains(OFlag::O_CREAT) => {}
        there => drop(there?),
    }
    let file = openat(directory, name, flags, mode)?;
    if mount_of(&file)? == mount_of(directory)? { Ok(file) } else { Err(Errno::EXDEV) }
}

/// Returns the mount that a file was opened through.
fn mount_of(file: impl AsFd) -> Result<u64, Errno> {
    let flags = rustix::fs::AtFlags::EMPTY_PATH | rustix::fs::AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(file, c"", flags, rustix::fs::StatxFlags::MNT_ID);
    found.map(|found| found.stx_mnt_id).map_err(|errno| Errno::from_raw(errno.raw_os_error()))
}

/// Walks a name.
fn walk(path: &Path, links: Links, budget: &mut Budget) -> Result<OwnedFd, Errno> {
    let name = path.as_os_str().as_bytes();
    if name.is_empty() {
        return Err(Errno::ENOENT);
    }
    let mut at = start(name, None)?;
    // The components that are left, the last one first.
    let mut rest = Vec::new();
    push(&mut rest, name);
    while let Some(part) = rest.pop() {
        budget.spend_component()?;
        let next = step(at.as_fd(), &part, rest.is_empty())?;
        let stat = fstat(&next)?;
        if kind(&stat) != SFlag::S_IFLNK {
            at = next;
            continue;
        }
        budget.spend_link()?;
        if links == Links::Refuse {
            return Err(Errno::ELOOP);
        }
        if is_magic(next.as_fd())? {
            at = follow_harmless(at.as_fd(), &part)?;
            continue;
        }
        check_link(&fstat(&at)?, &stat)?;
        let target = readlinkat(&next, "")?;
        let target = target.as_bytes();
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        at = start(target, Some(at))?;
        push(&mut rest, target);
    }
    Ok(at)
}

/// Returns the directory that a name is relative to: the root, or `at`.
fn start(name: &[u8], at: Option<OwnedFd>) -> Result<OwnedFd, Errno> {
    let directory = |name: &str| openat(AT_FDCWD, name, DIRECTORY, Permissions::empty());
    match (name.starts_with(b"/"), at) {
        (true, _) => directory("/"),
        (false, Some(at)) => Ok(at),
        (false, None) => directory("."),
    }
}

/// Pushes the components of a name onto the rest. A final slash requires a directory, as `.` does.
fn push(rest: &mut Vec<Vec<u8>>, name: &[u8]) {
    if name.ends_with(b"/") {
        rest.push(b".".to_vec());
    }
    let parts = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
    rest.extend(parts.rev().map(<[u8]>::to_vec));
}

const ANYTHING: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const DIRECTORY: OFlag = ANYTHING.union(OFlag::O_DIRECTORY);

/// Opens one component. Unless it is the last one, it has to be a directory or a link.
fn step(at: BorrowedFd<'_>, part: &[u8], last: bool) -> Result<OwnedFd, Errno> {
    let open = |flags| openat(at, OsStr::from_bytes(part), flags, Permissions::empty());
    if last && part != b"." && part != b".." {
        return open(ANYTHING);
    }
    // A request for a directory makes autofs mount it.
    match open(DIRECTORY) {
        Err(Errno::ENOTDIR) => {
            let there = open(ANYTHING)?;
            let is_link = kind(&fstat(&there)?) == SFlag::S_IFLNK;
            if is_link { Ok(there) } else { Err(Errno::ENOTDIR) }
        }
        opened => opened,
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// Whether a link leads wherever a process chooses, or is on a mount where links are not followed.
fn is_magic(link: BorrowedFd<'_>) -> Result<bool, Errno> {
    let system = fstatfs(link)?.filesystem_type();
    let mounted =
        rustix::fs::fstatvfs(link).map_err(|errno| Errno::from_raw(errno.raw_os_error()))?;
    Ok(system == statfs::PROC_SUPER_MAGIC
        || system == AAFS
        || mounted.f_flag.bits() & NO_LINKS != 0)
}

/// Follows a link that may be magic, if it is not: some links of /proc are ordinary ones, such as
/// `/proc/self`. Only `openat2(2)` can distinguish them.
fn follow_harmless(at: BorrowedFd<'_>, part: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(at, Path::new(OsStr::from_bytes(part)), how).unwrap_or(Err(Errno::ELOOP))
}

/// Refuses a link of another user in a directory that any user may write.
fn check_link(directory: &FileStat, link: &FileStat) -> Result<(), Errno> {
    let is_open = directory.st_mode & STICKY == STICKY;
    let is_ours = link.st_uid == geteuid().as_raw() || link.st_uid == directory.st_uid;
    if is_open && !is_ours { Err(Errno::EACCES) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    /// Returns what `openat2(2)` finds and what the walk finds.
    fn both(path: &Path, links: Links) -> [Result<(u64, u64), Errno>; 2] {
        let node = |found: Result<OwnedFd, Errno>| {
            let stat = fstat(found?)?;
            Ok((stat.st_dev, stat.st_ino))
        };
        let resolve = match links {
            Links::Follow => ResolveFlag::RESOLVE_NO_MAGICLINKS,
            Links::Refuse => ResolveFlag::RESOLVE_NO_SYMLINKS,
        };
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
        let kernel = nix::fcntl::openat2(AT_FDCWD, path, how);
        assert_eq!(node(locate(path, links)), node(walked(path, links)), "{}", path.display());
        [node(kernel), node(walked(path, links))]
    }

    fn walked(path: &Path, links: Links) -> Result<OwnedFd, Errno> {
        walk(path, links, &mut Budget::default())
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("d/e")).unwrap();
        fs::write(at("f"), "").unwrap();
        fs::write(at("d/f"), "").unwrap();
        for (to, name) in
            [("d", "l"), ("../f", "d/up"), ("l", "ll"), ("none", "n"), ("o", "o"), ("d/", "s")]
        {
            symlink(to, at(name)).unwrap();
        }
        symlink(at("d"), at("a")).unwrap();
        dir
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_the_kernel(
            parts in prop::collection::vec(
                prop::sample::select(vec!["d", "e", "f", "l", "ll", "up", "n", "o", "s", "a", ".", "..", "", "x"]),
                1..6,
            ),
        ) {
            let dir = tree();
            let mut path = dir.path().as_os_str().to_owned();
            for part in parts {
                path.push("/");
                path.push(part);
            }
            for links in [Links::Follow, Links::Refuse] {
                let [kernel, walked] = both(Path::new(&path), links);
                prop_assert_eq!(kernel, walked, "{} {:?}", path.display(), links);
            }
        }
    }

    #[test]
    fn a_file_is_opened_only_within_its_directory() {
        let dir = tree();
        let directory = fs::File::open(dir.path()).unwrap();
        for name in ["f", "d/f", "l", "..", "none", "/etc/passwd"] {
            let (flags, mode) = (OFlag::O_RDONLY | OFlag::O_CLOEXEC, Permissions::empty());
            let kernel = open_beneath(directory.as_fd(), name, flags, mode);
            let plainly = open_plainly(directory.as_fd(), name, flags, mode);
            // A single component is accepted.
            let expected = kernel.is_ok() && !name.contains('/');
            assert_eq!(plainly.is_ok(), expected, "{name}: {kernel:?}, {plainly:?}");
        }
        let (flags, mode) =
            (OFlag::O_RDWR | OFlag::O_CREAT, Permissions::from_bits_truncate(0o600));
        open_plainly(directory.as_fd(), "new", flags, mode).unwrap();
        assert_eq!(fs::read(dir.path().join("new")).unwrap(), b"");
        let proc = fs::File::open("/").unwrap();
        let mounted = open_plainly(proc.as_fd(), "proc", OFlag::O_RDONLY, Permissions::empty());
        assert_eq!(mounted.unwrap_err(), Errno::EXDEV);
    }

    #[test]
    fn magic_links_and_links_of_others_are_refused() {
        for path in ["/proc/self/exe", "/proc/self/fd/0", "/proc/self/root/etc"] {
            assert_eq!(walked(Path::new(path), Links::Follow).unwrap_err(), Errno::ELOOP, "{path}");
        }
        assert_eq!(walked(Path::new(""), Links::Follow).unwrap_err(), Errno::ENOENT);
        let here = both(Path::new("src/../src/./lock"), Links::Refuse);
        assert!(here[0].is_ok() && here[0] == here[1], "{here:?}");
        let long = PathBuf::from(format!("/{}", "x".repeat(300)));
        assert_eq!(walked(&long, Links::Follow).unwrap_err(), Errno::ENAMETOOLONG);
        let stat = |uid, mode| {
            let mut stat = fstat(fs::File::open("/").unwrap()).unwrap();
            (stat.st_uid, stat.st_mode) = (uid, mode);
            stat
        };
        let me = geteuid().as_raw();
        let check = |dir: (u32, u32), link| check_link(&stat(dir.0, dir.1), &stat(link, 0o777));
        assert_eq!(check((me, 0o41777), me + 1), Err(Errno::EACCES));
        for (dir, link) in
            [((me, 0o41777), me), ((me + 1, 0o41777), me + 1), ((me, 0o40777), me + 1)]
        {
            assert_eq!(check(dir, link), Ok(()));
        }
    }

    #[test]
    fn chain_of_links_is_looked_up_within_the_budget() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("p")).unwrap();
        fs::write(at("disk"), "").unwrap();
        // A chain of links, each with this many detours.
        let chain = |links: usize, detours: usize| {
            for n in 0..links {
                let next = if n + 1 == links { "disk".to_owned() } else { format!("l{}", n + 1) };
                let _ = fs::remove_file(at(&format!("l{n}")));
                symlink("p/../".repeat(detours) + &next, at(&format!("l{n}"))).unwrap();
            }
            let mut budget = Budget::default();
            let found = walk(&at("l0"), Links::Follow, &mut budget).map(drop);
            assert_eq!(found, locate(&at("l0"), Links::Follow).map(drop));
            (found, budget.spent())
        };
        let own = at("l0").components().count() - 1;
        assert_eq!(chain(3, 4), (Ok(()), own + 3 * 9));
        assert_eq!(chain(40, 1), (Ok(()), own + 40 * 3));
        assert_eq!(chain(41, 0), (Err(Errno::ELOOP), own + 40));
        // The kernel would follow this one.
        assert_eq!(chain(38, 800), (Err(Errno::ENAMETOOLONG), Budget::COMPONENTS));
        let longest = PathBuf::from("/".to_owned() + &"./".repeat(2047));
        locate(&longest, Links::Refuse).unwrap();
        walked(&longest, Links::Refuse).unwrap();
    }
}
