//! The files behind a file of an overlay (`overlayfs`): who writes the one writes the other, and the
//! kernel gives them different devices and, once a file was copied up, different inodes.
//!
//! The kernel does not say which file it is. The list of mounts has the directories of the layers, as
//! they were given to mount(8): a relative name is looked for beside the mount point, and taken only
//! where the file there looks the same. What is hidden from this mount namespace stays unknown.
//!
//! A file of a lower layer is copied to the upper one when it is opened for writing. So an exclusive
//! lock is on the copy, which is there once the file is open; only a shared lock is on the file of
//! the lower layer, and opens it for reading only, since a lock is no reason to copy an image.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use nix::sys::stat::{FileStat, fstat};

use super::extent::Extent;
use super::identity::Identity;
use super::mount::Mounts;
use super::open::{self, Links};
use super::passed::Look;
use super::way::far_mount;

/// How many layers are looked at, as in the kernel (`OVL_MAX_STACK`).
const LAYERS: usize = 500;
/// How deep overlays may be nested; the kernel allows two (`FILESYSTEM_MAX_STACK_DEPTH`).
const DEPTH: usize = 4;
/// How often a file that is being written is compared.
const TRIES: usize = 3;

/// What a file of an overlay lies on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Real {
    /// The file of the upper layer, and what that lies on.
    pub(super) upper: Vec<Extent>,
    /// The file of a lower layer, where there is none in the upper one yet.
    pub(super) lower: Vec<Extent>,
}

/// Returns the files behind a file, as far as they are known; nothing for one that is on no overlay.
pub(super) fn real(file: BorrowedFd<'_>) -> Real {
    let mut real = Real::default();
    let Some((is_upper, mut next)) = find(file) else { return real };
    for _ in 0..DEPTH {
        let Some(identity) = Identity::of_open(&next) else { break };
        let found = if is_upper { &mut real.upper } else { &mut real.lower };
        found.push(Extent::whole(identity));
        match find(next.as_fd()) {
            Some((_, deeper)) => next = deeper,
            None => break,
        }
    }
    real
}

/// The file behind a file, and whether it is in the upper layer.
fn find(file: BorrowedFd<'_>) -> Option<(bool, OwnedFd)> {
    if !open::is_overlay(file).ok()? {
        return None;
    }
    let layers = Layers::of(file)?;
    let mounts = Mounts::now().ok()?;
    let seek = |directory: &PathBuf| {
        layers.places(directory).into_iter().find_map(|(place, guessed)| {
            // A layer may be on storage that does not answer.
            let near = far_mount(&mounts, &place).is_none();
            let found = near.then(|| open::locate(&place, Links::Follow).ok()).flatten()?;
            // In a container, the names of its root's layers are those of the host, and may lead back
            // to the file itself.
            let known = !is_same(file, found.as_fd());
            (known && (!guessed || looks_the_same(file, found.as_fd()))).then_some(found)
        })
    };
    let upper = layers.upper.as_ref().and_then(seek).map(|found| (true, found));
    upper.or_else(|| layers.lower.iter().take(LAYERS).find_map(seek).map(|found| (false, found)))
}

/// Whether two descriptors are of one file of one overlay.
fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let node = |file| fstat(file).map(|stat| (stat.st_dev, stat.st_ino));
    open::is_overlay(other).unwrap_or(false) && node(one).is_ok_and(|one| node(other) == Ok(one))
}

/// Whether two files look like one, also while it is being written.
fn looks_the_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let look = |stat: FileStat| {
        let times = (stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
        (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size, stat.st_blocks, times)
    };
    (0..TRIES).any(|_| {
        let seen = fstat(one).and_then(|one| Ok((look(one), look(fstat(other)?))));
        seen.is_ok_and(|(one, other)| one == other)
    })
}

/// The layers of an overlay, and where a file is in each.
#[derive(Debug, PartialEq, Eq)]
struct Layers {
    point: PathBuf,
    file: PathBuf,
    upper: Option<PathBuf>,
    lower: Vec<PathBuf>,
}

impl Layers {
    fn of(file: BorrowedFd<'_>) -> Option<Self> {
        let name = open::name_of(file).ok()?;
        let id = Look::at(file).ok()?.mount_number()?.to_string();
        let mounts = fs::read("/proc/self/mountinfo").ok()?;
        mounts.split(|byte| *byte == b'\n').find_map(|line| Self::parse(line, &id, &name))
    }

    /// From the line of a mount (`proc_pid_mountinfo(5)`), if it is the one with this number.
    fn parse(line: &[u8], id: &str, name: &Path) -> Option<Self> {
        let mut words = line.split(|byte| *byte == b' ');
        if words.next()? != id.as_bytes() {
            return None;
        }
        let root = PathBuf::from(plain(words.nth(2)?));
        let point = PathBuf::from(plain(words.next()?));
        words.find(|word| *word == b"-")?;
        if words.next()? != b"overlay" {
            return None;
        }
        let options = words.nth(1)?;
        let file = root.join(name.strip_prefix(&point).ok()?);
        let file = file.strip_prefix("/").ok()?.to_owned();
        let (mut upper, mut lower) = (None, Vec::new());
        for option in options.split(|byte| *byte == b',') {
            if let Some(directory) = option.strip_prefix(b"upperdir=") {
                upper = Some(plain(directory).into());
            } else if let Some(directories) = option.strip_prefix(b"lowerdir=") {
                lower.extend(directories_of(plain(directories)));
            } else if let Some(directory) = option.strip_prefix(b"lowerdir+=") {
                lower.push(plain(directory).into());
            }
        }
        Some(Self { point, file, upper, lower })
    }

    /// Where the file may be in a layer, and whether that is a guess.
    fn places(&self, directory: &Path) -> Vec<(PathBuf, bool)> {
        if directory.is_absolute() {
            return vec![(directory.join(&self.file), false)];
        }
        let beside = self.point.ancestors().skip(1);
        beside.map(|ancestor| (ancestor.join(directory).join(&self.file), true)).collect()
    }
}

/// The directories of `lowerdir=`, which colons separate; one in a name has a backslash before it.
fn directories_of(list: OsString) -> Vec<PathBuf> {
    let mut all = vec![Vec::new()];
    let mut bytes = list.into_vec().into_iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b':' => all.push(Vec::new()),
            b'\\' => all.last_mut().into_iter().for_each(|last| last.extend(bytes.next())),
            byte => all.last_mut().into_iter().for_each(|last| last.push(byte)),
        }
    }
    let named = all.into_iter().filter(|name| !name.is_empty());
    named.map(|name| OsString::from_vec(name).into()).collect()
}

/// A word without the kernel's escapes: a backslash and three octal digits.
fn plain(word: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let escaped = digits.and_then(|it| u8::from_str_radix(str::from_utf8(it).ok()?, 8).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = escaped.and_then(|_| after.get(3..)).unwrap_or(after);
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layers_of_a_mount_are_read() {
        let line = b"45 27 0:43 /sub /mnt/a\\040b rw - overlay o rw,lowerdir=l1:/l\\134:2,\
                     upperdir=/up\\054x,workdir=wk,lowerdir+=/l3";
        let layers = Layers::parse(line, "45", Path::new("/mnt/a b/c/disk")).unwrap();
        assert_eq!(layers.file, Path::new("sub/c/disk"));
        assert_eq!(layers.upper.as_deref(), Some(Path::new("/up,x")));
        assert_eq!(layers.lower, ["l1", "/l:2", "/l3"].map(PathBuf::from));
        assert_eq!(layers.places(Path::new("/u")), [("/u/sub/c/disk".into(), false)]);
        let guessed = [("/mnt/l1/sub/c/disk".into(), true), ("/l1/sub/c/disk".into(), true)];
        assert_eq!(layers.places(Path::new("l1")), guessed);
        assert_eq!(Layers::parse(line, "4", Path::new("/mnt/a b/c")), None);
        assert_eq!(Layers::parse(b"45 27 0:4 / / rw - ext4 x rw", "45", Path::new("/a")), None);
    }
}
