//! Finds the files behind a file of an overlay (`overlayfs`). A write to the one is a write to the
//! other, but the kernel gives them different devices and, once a file was copied up, different
//! inodes.
//!
//! The kernel has no interface that returns the file behind. The mount table contains the
//! directories of the layers as they were passed to mount(8). Such an absolute or relative name may
//! lead elsewhere by now, and a directory may have another name in a lower layer (`redirect_dir`).
//! So each file that is found in a layer is compared: the kernel passes on size and times of the
//! file behind, and the inode number of a file of a lower layer
//! (`Documentation/filesystems/overlayfs.rst`, "Inode properties"). If no matching file is found,
//! the reason is returned, and the file is not locked.
//!
//! A file of a lower layer is copied to the upper one when it is opened for writing. So an
//! exclusive lock opens the file for writing first, and then locks the copy. A shared lock is on
//! the file of the lower layer and opens it for reading only, since a lock is no reason to copy an
//! image; the lock stores where the copy will be ([`Real::copies`]).
//!
//! The attributes in which a layer stores redirections and files without data (`metacopy`) can be
//! read with `CAP_SYS_ADMIN` only, which the service does not have.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Stat, fstat};

use crate::lock::descriptor::passed::OpenFile;
use crate::lock::model::extent::Extent;
use crate::lock::model::identity::Identity;
use crate::lock::mount::Mounts;
use crate::lock::mount::layers::{directories_of, unescape};
use crate::lock::path::open::{self, Links};
use crate::lock::path::walk::remote_mount;

/// The maximum number of layers, as in the kernel (`OVL_MAX_STACK`).
const LAYERS: usize = 500;
/// The maximum depth of nested overlays; the kernel allows two (`FILESYSTEM_MAX_STACK_DEPTH`).
const DEPTH: usize = 4;
/// How often a file is compared that is being written.
const TRIES: usize = 8;
/// The least number of lower bits of an inode number that are those of the layer's file system:
/// with `xino`, the kernel stores the number of the layer in some of the others.
const INODE_BITS: u32 = 48;
/// The kernel's default for mounts without the option `metacopy`.
const METACOPY: &str = "/sys/module/overlay/parameters/metacopy";

/// The files that a file of an overlay lies on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::lock) struct Real {
    /// The file of the upper layer, and what that lies on.
    pub(in crate::lock) upper: Vec<Extent>,
    /// The file of a lower layer, as long as the upper one has none.
    pub(in crate::lock) lower: Vec<Extent>,
    /// The paths at which upper layers will have the file once it is copied up with its data.
    pub(in crate::lock) copies: Vec<PathBuf>,
    /// Why a file behind it may be missing here.
    pub(in crate::lock) unknown: Option<Unknown>,
}

/// Why the layer file behind a file of an overlay is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::lock) enum Unknown {
    /// No layer has a matching file of this name.
    NotFound,
    /// The file that was found may have no data of its own.
    Metacopy,
    /// A loop device is set up on a file that may be on an overlay, and its name leads elsewhere.
    Backing,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => {
                "cannot find the layer file behind this file of an overlay; a layer may have been \
                 renamed or moved since it was mounted, or be hidden from the service"
            }
            Self::Metacopy => {
                "cannot find the layer file behind this file of an overlay, which is mounted with \
                 metacopy"
            }
            Self::Backing => {
                "cannot find the file that the loop device is set up on, which may be on an overlay"
            }
        })
    }
}

/// Returns the known files behind a file; none if the file is on no overlay.
pub(in crate::lock) fn real(file: BorrowedFd<'_>) -> Real {
    let mut real = Real::default();
    let (mut next, mut is_lower) = (None::<OwnedFd>, false);
    for _ in 0..DEPTH {
        let Some(found) = find(next.as_ref().map_or(file, |next| next.as_fd())) else { break };
        real.copies.extend(found.copies);
        real.unknown = real.unknown.or(found.unknown);
        let Some((layer, behind)) = found.file else { break };
        is_lower |= layer == Layer::Lower;
        let identity = Identity::of_open(&behind);
        if identity.is_none() {
            real.unknown = real.unknown.or(Some(Unknown::NotFound));
        }
        let group = if is_lower { &mut real.lower } else { &mut real.upper };
        group.extend(identity.map(Extent::whole));
        next = Some(behind);
    }
    real
}

/// Whether `file`, on an overlay, matches `copy` and is not the same file: then it was copied
/// there, or has the same copy behind it.
pub(in crate::lock) fn is_copy(file: BorrowedFd<'_>, copy: BorrowedFd<'_>) -> bool {
    !is_same(file, copy) && attributes_match(file, copy)
}

/// The layer in which a file was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    Upper,
    Lower,
}

/// The file behind a file of an overlay.
#[derive(Debug, Default)]
struct FileLayers {
    file: Option<(Layer, OwnedFd)>,
    /// The paths of future copies, as in [`Real::copies`], of this overlay.
    copies: Vec<PathBuf>,
    unknown: Option<Unknown>,
}

/// Finds the file behind a file; `None` if that is on no overlay.
fn find(file: BorrowedFd<'_>) -> Option<FileLayers> {
    let missing = |unknown| Some(FileLayers { unknown, ..FileLayers::default() });
    match open::is_overlay(file) {
        Ok(true) => {}
        Ok(false) => return None,
        Err(_) => return missing(Some(Unknown::NotFound)),
    }
    let Ok(mounts) = Mounts::current() else { return missing(Some(Unknown::NotFound)) };
    let layers = Layers::of(file, &mounts).or_else(|| {
        // It may have been opened through a mount of another namespace.
        Layers::of(by_name(file, &mounts)?.as_fd(), &mounts)
    });
    let Some(layers) = layers else {
        // The root directory may be an overlay whose layers cannot be found either.
        let root = mounts.of(Path::new("/"));
        let is_overlay = root.is_some_and(|mount| mount.kind == "overlay");
        return missing((!is_overlay).then_some(Unknown::NotFound));
    };
    // A layer may be on storage that is not responding.
    let is_local = |candidate: &Path| remote_mount(&mounts, candidate).is_none();
    let find_in_layer = |directory: &PathBuf, matches_file: &dyn Fn(BorrowedFd<'_>) -> bool| {
        layers.candidates(directory).into_iter().find_map(|candidate| {
            let path = candidate.join(&layers.file);
            let found =
                is_local(&path).then(|| open::locate(&path, Links::Follow).ok()).flatten()?;
            // In a container, the names of the layers of its root directory are those of the host,
            // and may lead back to the file itself.
            matches_file(found.as_fd()).then_some(found)
        })
    };
    let upper =
        layers.upper.as_ref().and_then(|upper| find_in_layer(upper, &|found| is_copy(file, found)));
    let metacopy = layers.metacopy.then_some(Unknown::Metacopy);
    let copies = || {
        let candidates: Vec<PathBuf> =
            layers.upper.iter().flat_map(|upper| layers.candidates(upper)).collect();
        let exists = |candidate: &&PathBuf| is_local(candidate) && candidate.is_dir();
        let existing: Vec<&PathBuf> = candidates.iter().filter(exists).collect();
        // A layer that its name does not lead to exists all the same. The root directory is an
        // exception: the names of its layers belong to another root directory.
        let hidden = existing.is_empty() && !layers.is_root();
        let candidates = if hidden { candidates.iter().collect() } else { existing };
        candidates.into_iter().map(|candidate| candidate.join(&layers.file)).collect()
    };
    if let Some(upper) = upper {
        let copies = if layers.metacopy { copies() } else { Vec::new() };
        return Some(FileLayers { file: Some((Layer::Upper, upper)), copies, unknown: metacopy });
    }
    let is_lower = |found: BorrowedFd<'_>| is_copy(file, found) && has_inode_of(file, found);
    let lower = layers.lower.iter().take(LAYERS).find_map(|lower| find_in_layer(lower, &is_lower));
    let unknown = match &lower {
        Some(_) => metacopy,
        // The names were valid before the overlay became the root directory.
        None if layers.is_root() => None,
        None => Some(Unknown::NotFound),
    };
    let file = lower.map(|lower| (Layer::Lower, lower));
    Some(FileLayers { file, copies: copies(), unknown })
}

/// Opens a file by the name that the kernel has for it, if that leads to it in this namespace.
fn by_name(file: BorrowedFd<'_>, mounts: &Mounts) -> Option<OwnedFd> {
    let name = open::name_of(file).ok().filter(|name| remote_mount(mounts, name).is_none())?;
    open::locate(&name, Links::Refuse).ok().filter(|found| is_same(file, found.as_fd()))
}

/// Whether two descriptors are of one file of one overlay.
fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let node = |file| fstat(file).map(|stat| (stat.st_dev, stat.st_ino));
    open::is_overlay(other).unwrap_or(false) && node(one).is_ok_and(|one| node(other) == Ok(one))
}

/// Whether two files match, also while they are being written. The owner is not compared: layers
/// may be mounted with different ones.
fn attributes_match(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let attributes = |stat: Stat| {
        let times = (stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
        (stat.st_mode, stat.st_size, times)
    };
    (0..TRIES).any(|_| {
        let seen = fstat(one).and_then(|one| Ok((attributes(one), attributes(fstat(other)?))));
        seen.is_ok_and(|(one, other)| one == other)
    })
}

/// Whether a file of an overlay has the inode number of a file of a layer.
fn has_inode_of(file: BorrowedFd<'_>, layer: BorrowedFd<'_>) -> bool {
    let number = |file| fstat(file).map(|stat| stat.st_ino);
    let differ = |(one, other): (u64, u64)| one ^ other;
    let bits = number(file).and_then(|one| Ok((one, number(layer)?))).map(differ);
    bits.is_ok_and(|bits| bits.trailing_zeros() >= INODE_BITS)
}

/// The layers of an overlay, and the path of a file in each.
#[derive(Debug, PartialEq, Eq)]
struct Layers {
    /// The mount points of the overlay or of parts of it.
    points: Vec<PathBuf>,
    file: PathBuf,
    upper: Option<PathBuf>,
    lower: Vec<PathBuf>,
    /// Files of upper layers may have no data.
    metacopy: bool,
}

impl Layers {
    fn of(file: BorrowedFd<'_>, all: &Mounts) -> Option<Self> {
        let name = open::name_of(file).ok()?;
        let id = OpenFile::at(file).ok()?.mount_number()?.to_string();
        let mounts = fs::read("/proc/self/mountinfo").ok()?;
        let mut lines = mounts.split(|byte| *byte == b'\n');
        let mut layers = lines.find_map(|line| Self::parse(line, &id, &name))?;
        let dev = all.numbered(id.parse().ok()?)?.dev;
        let others = all.iter().filter(|mount| mount.dev == dev).map(|mount| mount.point.clone());
        layers.points.extend(others);
        Some(layers)
    }

    /// Whether the overlay is the root directory of this process.
    fn is_root(&self) -> bool {
        self.points.iter().any(|point| point == Path::new("/"))
    }

    /// Parses the line of a mount (`proc_pid_mountinfo(5)`), if it is the one with this number.
    fn parse(line: &[u8], id: &str, name: &Path) -> Option<Self> {
        let mut words = line.split(|byte| *byte == b' ');
        if words.next()? != id.as_bytes() {
            return None;
        }
        let root = PathBuf::from(unescape(words.nth(2)?));
        let point = PathBuf::from(unescape(words.next()?));
        words.find(|word| *word == b"-")?;
        if words.next()? != b"overlay" {
            return None;
        }
        let options = words.nth(1)?;
        let file = root.join(name.strip_prefix(&point).ok()?);
        let file = file.strip_prefix("/").ok()?.to_owned();
        let (mut upper, mut lower, mut metacopy) = (None, Vec::new(), None);
        for option in options.split(|byte| *byte == b',') {
            if let Some(directory) = option.strip_prefix(b"upperdir=") {
                upper = Some(unescape(directory).into());
            } else if let Some(directories) = option.strip_prefix(b"lowerdir=") {
                lower.extend(directories_of(unescape(directories)));
            } else if let Some(directory) =
                option.strip_prefix(b"lowerdir+=").or(option.strip_prefix(b"datadir+="))
            {
                lower.push(unescape(directory).into());
            } else if let Some(value) = option.strip_prefix(b"metacopy=") {
                metacopy = Some(value != b"off");
            }
        }
        let metacopy = metacopy.unwrap_or_else(metacopy_is_default);
        Some(Self { points: vec![point], file, upper, lower, metacopy })
    }

    /// Returns the possible paths of the directory of a layer: a relative name may be relative to
    /// the directory that contains the mount point.
    fn candidates(&self, directory: &Path) -> Vec<PathBuf> {
        if directory.is_absolute() {
            return vec![directory.to_owned()];
        }
        let beside = self.points.iter().flat_map(|point| point.ancestors().skip(1));
        let candidates: BTreeSet<&Path> = beside.collect();
        candidates.into_iter().rev().map(|ancestor| ancestor.join(directory)).collect()
    }
}

/// Whether overlays without an option about it have `metacopy`; true if that is unknown.
fn metacopy_is_default() -> bool {
    fs::read(METACOPY).map_or(true, |value| !value.starts_with(b"N"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layers_of_a_mount_are_parsed() {
        let line = b"45 27 0:43 /sub /mnt/a\\040b rw - overlay o rw,lowerdir=l1:/l\\134:2,\
                     upperdir=/up\\054x,workdir=wk,lowerdir+=/l3";
        let layers = Layers::parse(line, "45", Path::new("/mnt/a b/c/disk")).unwrap();
        assert_eq!(layers.file, Path::new("sub/c/disk"));
        assert_eq!(layers.upper.as_deref(), Some(Path::new("/up,x")));
        assert_eq!(layers.lower, ["l1", "/l:2", "/l3"].map(PathBuf::from));
        assert_eq!(layers.metacopy, metacopy_is_default());
        assert_eq!(layers.candidates(Path::new("/u")), [Path::new("/u")]);
        assert_eq!(layers.candidates(Path::new("l1")), ["/mnt/l1", "/l1"].map(PathBuf::from));
        let line = b"45 27 0:43 / /m rw - overlay o rw,lowerdir=/l,metacopy=on,datadir+=/d";
        let layers = Layers::parse(line, "45", Path::new("/m/disk")).unwrap();
        assert!(layers.metacopy && layers.upper.is_none());
        assert_eq!(layers.lower, ["/l", "/d"].map(PathBuf::from));
        assert_eq!(Layers::parse(line, "4", Path::new("/mnt/a b/c")), None);
        assert_eq!(Layers::parse(b"45 27 0:4 / / rw - ext4 x rw", "45", Path::new("/a")), None);
    }
}
