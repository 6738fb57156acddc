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

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, StatxFlags, fstat, fstatvfs, openat,
    readlinkat, statx,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::budget::Budget;
use super::fs_type::FsType;
use super::open::Links;
use crate::lock::mount::Mounts;
use crate::lock::path::walk::remote_mount;

/// `ST_NOSYMFOLLOW` of the kernel's <linux/statfs.h>.
const NO_LINKS: u64 = 0x2000;
/// Both bits: any user may create files, and remove its own only.
const STICKY: u32 = 0o1002;

/// Whether `openat2(2)` was refused.
static DENIED: AtomicBool = AtomicBool::new(false);

/// Calls `openat2(2)`; returns `None` if it is not available.
pub(in crate::lock) fn openat2(
    directory: BorrowedFd<'_>,
    path: &Path,
    (flags, mode, resolve): (OFlags, Mode, ResolveFlags),
) -> Option<Result<OwnedFd, Errno>> {
    if DENIED.load(Ordering::Relaxed) {
        return None;
    }
    match rustix::fs::openat2(directory, path, flags, mode, resolve) {
        Err(Errno::NOSYS) => {
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
    match locate_at_once(path) {
        Some(Err(Errno::LOOP)) if links == Links::Follow => {}
        Some(found) => return found,
        None => {}
    }
    walk(path, links, &mut Budget::default())
}

/// Looks up a name that has no link in it by one system call: `ELOOP` if it has a link, `None` if
/// `openat2(2)` is not available.
pub(in crate::lock) fn locate_at_once(path: &Path) -> Option<Result<OwnedFd, Errno>> {
    // A name without links never has more components than a budget.
    let how = (OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    openat2(CWD, path, how)
}

/// Looks up a name as [`locate`] does, if it leads to no mount that another host or process serves;
/// otherwise fails with `EAGAIN`.
pub(in crate::lock) fn locate_local(path: &Path) -> Result<OwnedFd, Errno> {
    let mounts = Mounts::current().map_err(|_| Errno::AGAIN)?;
    if remote_mount(&mounts, path).is_some() {
        return Err(Errno::AGAIN);
    }
    locate(path, Links::Follow)
}

/// Opens a file of a directory. Follows no link, and enters no mount.
pub(in crate::lock) fn open_beneath(
    directory: BorrowedFd<'_>,
    name: &str,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let opened = openat2(directory, Path::new(name), (flags, mode, resolve));
    opened.unwrap_or_else(|| open_without_openat2(directory, name, flags, mode))
}

/// Opens a file of a directory without `openat2(2)`.
fn open_without_openat2(
    directory: BorrowedFd<'_>,
    name: &str,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    if name.contains('/') || matches!(name, "" | "." | "..") {
        return Err(Errno::XDEV);
    }
    // The file is checked before and after it is opened.
    let flags = flags | OFlags::NOFOLLOW;
    match openat(directory, name, ANY_TYPE, Mode::empty()) {
        Ok(found) if mount_of(&found)? != mount_of(directory)? => return Err(Errno::XDEV),
        Err(Errno::NOENT) if flags.contains(OFlags::CREATE) => {}
        found => drop(found?),
    }
    let file = openat(directory, name, flags, mode)?;
    if mount_of(&file)? == mount_of(directory)? { Ok(file) } else { Err(Errno::XDEV) }
}

/// Returns the number of the mount that a file was opened through.
pub(super) fn mount_of(file: impl AsFd) -> Result<u64, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    Ok(statx(file, c"", flags, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// Walks a name.
fn walk(path: &Path, links: Links, budget: &mut Budget) -> Result<OwnedFd, Errno> {
    let name = path.as_os_str().as_bytes();
    if name.is_empty() {
        return Err(Errno::NOENT);
    }
    let mut at = base_directory(name, None)?;
    // The components that are left, the last one first.
    let mut rest = Vec::new();
    push_components(&mut rest, name);
    while let Some(part) = rest.pop() {
        budget.spend_component()?;
        let next = open_component(at.as_fd(), &part, rest.is_empty())?;
        let stat = fstat(&next)?;
        if file_type(&stat) != FileType::Symlink {
            at = next;
            continue;
        }
        budget.spend_link()?;
        if links == Links::Refuse {
            return Err(Errno::LOOP);
        }
        if is_magic(next.as_fd())? {
            at = follow_unless_magic(at.as_fd(), &part)?;
            continue;
        }
        check_link(&fstat(&at)?, &stat)?;
        let target = readlinkat(&next, c"", Vec::new())?;
        let target = target.as_bytes();
        if target.is_empty() {
            return Err(Errno::NOENT);
        }
        at = base_directory(target, Some(at))?;
        push_components(&mut rest, target);
    }
    Ok(at)
}

/// Returns the directory that a name is relative to: the root, or `at`.
fn base_directory(name: &[u8], at: Option<OwnedFd>) -> Result<OwnedFd, Errno> {
    let directory = |name: &str| openat(CWD, name, DIRECTORY, Mode::empty());
    match (name.starts_with(b"/"), at) {
        (true, _) => directory("/"),
        (false, Some(at)) => Ok(at),
        (false, None) => directory("."),
    }
}

/// Pushes the components of a name onto the rest. A final slash requires a directory, as `.` does.
fn push_components(rest: &mut Vec<Vec<u8>>, name: &[u8]) {
    if name.ends_with(b"/") {
        rest.push(b".".to_vec());
    }
    let parts = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
    rest.extend(parts.rev().map(<[u8]>::to_vec));
}

const ANY_TYPE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const DIRECTORY: OFlags = ANY_TYPE.union(OFlags::DIRECTORY);

/// Opens one component. Unless it is the last one, it has to be a directory or a link.
fn open_component(at: BorrowedFd<'_>, part: &[u8], last: bool) -> Result<OwnedFd, Errno> {
    let open = |flags| openat(at, OsStr::from_bytes(part), flags, Mode::empty());
    if last && part != b"." && part != b".." {
        return open(ANY_TYPE);
    }
    // A request for a directory makes autofs mount it.
    match open(DIRECTORY) {
        Err(Errno::NOTDIR) => {
            let found = open(ANY_TYPE)?;
            let is_link = file_type(&fstat(&found)?) == FileType::Symlink;
            if is_link { Ok(found) } else { Err(Errno::NOTDIR) }
        }
        opened => opened,
    }
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Whether a link leads wherever a process chooses, or is on a mount where links are not followed.
fn is_magic(link: BorrowedFd<'_>) -> Result<bool, Errno> {
    let system = FsType::of(link)?;
    let mounted = fstatvfs(link)?;
    Ok([FsType::PROC, FsType::APPARMOR].contains(&system) || mounted.f_flag.bits() & NO_LINKS != 0)
}

/// Follows a link that may be magic, if it is not: some links of /proc are ordinary ones, such as
/// `/proc/self`. Only `openat2(2)` can distinguish them.
fn follow_unless_magic(at: BorrowedFd<'_>, part: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let how = (flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS);
    openat2(at, Path::new(OsStr::from_bytes(part)), how).unwrap_or(Err(Errno::LOOP))
}

/// Refuses a link of another user in a directory that any user may write.
fn check_link(directory: &Stat, link: &Stat) -> Result<(), Errno> {
    let is_open = directory.st_mode & STICKY == STICKY;
    let is_ours = link.st_uid == geteuid().as_raw() || link.st_uid == directory.st_uid;
    if is_open && !is_ours { Err(Errno::ACCESS) } else { Ok(()) }
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
            Links::Follow => ResolveFlags::NO_MAGICLINKS,
            Links::Refuse => ResolveFlags::NO_SYMLINKS,
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let kernel = rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve);
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
            let (flags, mode) = (OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            let kernel = open_beneath(directory.as_fd(), name, flags, mode);
            let without_openat2 = open_without_openat2(directory.as_fd(), name, flags, mode);
            // A single component is accepted.
            let expected = kernel.is_ok() && !name.contains('/');
            assert_eq!(
                without_openat2.is_ok(),
                expected,
                "{name}: {kernel:?}, {without_openat2:?}"
            );
        }
        let (flags, mode) = (OFlags::RDWR | OFlags::CREATE, Mode::from_bits_truncate(0o600));
        open_without_openat2(directory.as_fd(), "new", flags, mode).unwrap();
        assert_eq!(fs::read(dir.path().join("new")).unwrap(), b"");
        let proc = fs::File::open("/").unwrap();
        let mounted = open_without_openat2(proc.as_fd(), "proc", OFlags::RDONLY, Mode::empty());
        assert_eq!(mounted.unwrap_err(), Errno::XDEV);
    }

    #[test]
    fn magic_links_and_links_of_others_are_refused() {
        for path in ["/proc/self/exe", "/proc/self/fd/0", "/proc/self/root/etc"] {
            assert_eq!(walked(Path::new(path), Links::Follow).unwrap_err(), Errno::LOOP, "{path}");
        }
        assert_eq!(walked(Path::new(""), Links::Follow).unwrap_err(), Errno::NOENT);
        let here = both(Path::new("src/../src/./lock"), Links::Refuse);
        assert!(here[0].is_ok() && here[0] == here[1], "{here:?}");
        let long = PathBuf::from(format!("/{}", "x".repeat(300)));
        assert_eq!(walked(&long, Links::Follow).unwrap_err(), Errno::NAMETOOLONG);
        let stat = |uid, mode| {
            let mut stat = fstat(fs::File::open("/").unwrap()).unwrap();
            (stat.st_uid, stat.st_mode) = (uid, mode);
            stat
        };
        let me = geteuid().as_raw();
        let check = |dir: (u32, u32), link| check_link(&stat(dir.0, dir.1), &stat(link, 0o777));
        assert_eq!(check((me, 0o41777), me + 1), Err(Errno::ACCESS));
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
        assert_eq!(chain(41, 0), (Err(Errno::LOOP), own + 40));
        // The kernel would follow this one.
        assert_eq!(chain(38, 800), (Err(Errno::NAMETOOLONG), Budget::COMPONENTS));
        let longest = PathBuf::from("/".to_owned() + &"./".repeat(2047));
        locate(&longest, Links::Refuse).unwrap();
        walked(&longest, Links::Refuse).unwrap();
    }
}
