//! The mounts of this process, as the kernel lists them: reading the list sends no request to a
//! file system.
//!
//! A file system that another host or process serves may not respond, and then blocks every
//! request. So a caller finds out here which mount a request would go to before it sends the
//! request.

pub(super) mod layers;
pub(super) mod polled;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::makedev;

use crate::lock::mount::layers::{layers_in, unescape};
use crate::lock::mount::polled::Polled;

/// File systems that this host's kernel serves by itself, from a device of its own or from memory:
/// no request waits for another host or process.
const LOCAL: [&str; 38] = [
    "bcachefs",
    "binfmt_misc",
    "bpf",
    "btrfs",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "erofs",
    "exfat",
    "ext2",
    "ext3",
    "ext4",
    "f2fs",
    "fusectl",
    "hugetlbfs",
    "iso9660",
    "jfs",
    "mqueue",
    "ntfs3",
    "overlay",
    "proc",
    "pstore",
    "ramfs",
    "reiserfs",
    "rpc_pipefs",
    "securityfs",
    "squashfs",
    "sysfs",
    "tmpfs",
    "tracefs",
    "udf",
    "vfat",
    "xfs",
    "zfs",
];

/// The maximum depth of nested overlays (`FILESYSTEM_MAX_STACK_DEPTH`).
const OVERLAY_DEPTH: usize = 2;

/// A mount, as listed by `proc_pid_mountinfo(5)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its number, which `fdinfo` shows for open files, too.
    pub id: u64,
    /// The device that `stat(2)` returns for most files on it.
    pub dev: u64,
    /// Its mount point.
    pub point: PathBuf,
    /// The type of its file system, such as `nfs4` or `fuse.bindfs`.
    pub kind: String,
    /// Its source: a device or an export.
    pub source: String,
    /// The options of the mount and of the file system, joined by commas.
    pub options: String,
    /// The numbers of the remote mounts that layers of this overlay are on.
    pub(super) remote_layers: Vec<u64>,
}

impl Mount {
    /// Whether another host or a process answers requests for files on it, and not this host's
    /// kernel alone.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        !LOCAL.contains(&self.kind.as_str()) || !self.remote_layers.is_empty()
    }

    /// Returns the value of an option, empty for one that has none; `None` if it is not set.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.split(',').find_map(|option| match option.split_once('=') {
            Some((key, value)) => (key == name).then_some(value),
            None => (option == name).then_some(""),
        })
    }

    /// Parses a line, and returns the mount with the directories of its layers.
    fn parse(line: &[u8]) -> Option<(Self, Vec<PathBuf>)> {
        let mut words = line.split(|byte| *byte == b' ');
        let id = number(words.next()?)?;
        let (major, minor) = str::from_utf8(words.nth(1)?).ok()?.split_once(':')?;
        let dev = makedev(major.parse().ok()?, minor.parse().ok()?);
        let point = unescape(words.nth(1)?);
        let mount_options = words.next()?;
        words.find(|word| *word == b"-")?;
        let (kind, source, options) = (words.next()?, words.next()?, words.next()?);
        let layers = if kind == b"overlay" { layers_in(options) } else { Vec::new() };
        let text = |word: &[u8]| unescape(word).to_string_lossy().into_owned();
        let options = format!("{},{}", text(mount_options), text(options));
        let (kind, source) = (text(kind), text(source));
        let remote_layers = Vec::new();
        let mount = Self { id, dev, point: point.into(), kind, source, options, remote_layers };
        Some((mount, layers))
    }
}

/// All mounts of this process, in the order in which they were made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounts {
    all: Vec<Mount>,
    /// The index of the visible mount at each mount point: of several, the last.
    visible: HashMap<PathBuf, usize>,
    /// The most components and the most bytes of a mount point. A user controls how many prefixes a
    /// name has, and only those that can be a mount point are looked up.
    depth: usize,
    longest: usize,
}

/// The kernel's list.
const LIST: &str = "/proc/self/mountinfo";
static CURRENT: Polled<Mounts> = Polled::new(LIST);

impl Mounts {
    /// Returns the present mounts. The list is read only if it has changed since the last call.
    ///
    /// # Errors
    ///
    /// If the list cannot be read.
    pub fn current() -> io::Result<Arc<Self>> {
        CURRENT.current(Self::parse)
    }

    /// Reads the present mounts.
    ///
    /// # Errors
    ///
    /// If the list cannot be read.
    pub fn now() -> io::Result<Self> {
        Self::read(fs::File::open(LIST)?)
    }

    /// Reads the mounts from the kernel's list.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn read(mut list: impl io::Read) -> io::Result<Self> {
        let mut text = Vec::new();
        list.read_to_end(&mut text)?;
        Ok(Self::parse(&text))
    }

    /// Parses the kernel's list; skips lines that are no mounts.
    #[must_use]
    pub fn parse(list: &[u8]) -> Self {
        let lines = list.split(|byte| *byte == b'\n').filter_map(Mount::parse);
        let (all, layers): (Vec<Mount>, Vec<Vec<PathBuf>>) = lines.unzip();
        let points = all.iter().enumerate().map(|(index, mount)| (mount.point.clone(), index));
        let visible: HashMap<PathBuf, usize> = points.collect();
        let depth = visible.keys().map(|point| depth(point)).max().unwrap_or_default();
        let longest = visible.keys().map(|point| point.as_os_str().len()).max().unwrap_or_default();
        let mut mounts = Self { all, visible, depth, longest };
        // The layers of an overlay may be on another one.
        for _ in 0..OVERLAY_DEPTH {
            mounts.find_remote_layers(&layers);
        }
        mounts
    }

    /// Finds the remote mounts that layers of overlays are on, by the names that the kernel lists
    /// for the layers. No name is looked up. Layers with relative names, or reached through links,
    /// are not found.
    fn find_remote_layers(&mut self, layers: &[Vec<PathBuf>]) {
        if !layers.iter().any(|layers| !layers.is_empty()) {
            return;
        }
        let remote: Vec<&Path> = self
            .iter()
            .filter(|mount| mount.is_remote())
            .map(|mount| mount.point.as_path())
            .collect();
        let below = |layer: &Path| {
            let may_be = remote.iter().any(|point| layer.starts_with(point));
            may_be.then(|| self.of(layer)).flatten().filter(|mount| mount.is_remote())
        };
        let remote_layers_of_each = layers.iter().map(|layers| {
            let mounts = layers.iter().filter_map(|layer| below(layer));
            let numbers: BTreeSet<u64> =
                mounts.flat_map(|mount| self.served_by(mount)).map(|mount| mount.id).collect();
            numbers.into_iter().collect()
        });
        let remote_layers_of_each: Vec<Vec<u64>> = remote_layers_of_each.collect();
        for (mount, remote) in self.all.iter_mut().zip(remote_layers_of_each) {
            mount.remote_layers = remote;
        }
    }

    /// Returns the remote mounts that have to answer requests for files on a remote mount: the
    /// mount itself, or those that the layers of an overlay are on.
    #[must_use]
    pub fn served_by<'m>(&'m self, mount: &'m Mount) -> Vec<&'m Mount> {
        if mount.remote_layers.is_empty() {
            return vec![mount];
        }
        mount.remote_layers.iter().filter_map(|id| self.numbered(*id)).collect()
    }

    /// Returns the mount that a path without links is on.
    #[must_use]
    pub fn of(&self, path: &Path) -> Option<&Mount> {
        self.possible_mount_points(path).find_map(|point| self.visible_at(point))
    }

    /// Returns the mount whose root a path is; the path has no links, detours or repeated slashes.
    #[must_use]
    pub fn at(&self, point: &Path) -> Option<&Mount> {
        let may_be = point.as_os_str().len() <= self.longest;
        may_be.then(|| self.visible_at(point)).flatten()
    }

    fn visible_at(&self, point: &Path) -> Option<&Mount> {
        self.visible.get(point).and_then(|index| self.all.get(*index))
    }

    /// Returns the prefixes of a path that can be mount points, the longest first.
    fn possible_mount_points<'p>(&self, path: &'p Path) -> impl Iterator<Item = &'p Path> {
        path.ancestors().skip(depth(path).saturating_sub(self.depth))
    }

    /// Returns the first remote mount along a path without links, to which a walk sends its first
    /// remote request.
    #[must_use]
    pub fn first_remote_along(&self, path: &Path) -> Option<&Mount> {
        let mut steps: Vec<&Path> = self.possible_mount_points(path).collect();
        steps.reverse();
        steps.into_iter().filter_map(|point| self.visible_at(point)).find(|mount| mount.is_remote())
    }

    /// Returns the mount with this number.
    #[must_use]
    pub fn numbered(&self, id: u64) -> Option<&Mount> {
        self.all.iter().find(|mount| mount.id == id)
    }

    /// Returns all mounts.
    pub fn iter(&self) -> impl Iterator<Item = &Mount> {
        self.all.iter()
    }
}

fn depth(path: &Path) -> usize {
    path.components().count()
}

fn number(word: &[u8]) -> Option<u64> {
    str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &[u8] = b"\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro
22 21 0:30 / /mnt/a\\040b rw,nosuid - nfs4 nas:/export rw,vers=4.2,hard
23 21 0:31 / /srv rw - tmpfs tmpfs rw
24 22 0:32 / /mnt/a\\040b/near rw - xfs /dev/sdb rw
25 23 0:33 / /srv rw - fuse.bindfs /x\\134y rw,user_id=0
no mount
";

    #[test]
    fn the_list_is_parsed() {
        let mounts = Mounts::parse(SAID);
        assert_eq!(mounts.iter().count(), 5);
        let nfs = mounts.numbered(22).unwrap();
        assert_eq!((nfs.point.to_str(), nfs.source.as_str()), (Some("/mnt/a b"), "nas:/export"));
        assert_eq!((nfs.option("vers"), nfs.option("hard")), (Some("4.2"), Some("")));
        assert_eq!((nfs.option("nosuid"), nfs.option("nolock")), (Some(""), None));
        assert_eq!(nfs.dev, makedev(0, 30));
        assert_eq!(mounts.numbered(25).unwrap().source, "/x\\y");
    }

    #[test]
    fn a_path_is_on_the_deepest_and_newest_mount() {
        let mounts = Mounts::parse(SAID);
        let of = |path: &str| mounts.of(Path::new(path)).unwrap().id;
        assert_eq!((of("/"), of("/mnt/a"), of("/mnt/a b/x"), of("/mnt/a bc")), (21, 21, 22, 21));
        assert_eq!((of("/mnt/a b/near/x"), of("/srv/disk")), (24, 25));
        let remote = |path: &str| mounts.first_remote_along(Path::new(path)).map(|mount| mount.id);
        assert_eq!((remote("/etc/x"), remote("/srv/disk")), (None, Some(25)));
        // A local mount below a remote one is reached through the remote one.
        assert_eq!(remote("/mnt/a b/near/x"), Some(22));
    }

    #[test]
    fn an_overlay_with_a_layer_on_a_remote_mount_is_remote() {
        let list = b"\
21 1 254:0 / / rw - ext4 /dev/vda rw
40 21 0:50 / /outer rw - overlay o rw,lowerdir=/srv/ov:/var/l,upperdir=/var/u,workdir=/var/w
22 21 0:30 / /mnt/a:b rw - nfs4 nas:/export rw
23 21 0:31 / /srv/ov rw - overlay o rw,lowerdir=/var/l:/mnt/a\\134:b/img,upperdir=/up,workdir=/wk
24 21 0:32 / /plain rw - overlay o rw,lowerdir=/var/l:relative:/mnt/abc,upperdir=/up2,workdir=/wk2
25 21 0:33 / /plus rw - overlay o rw,lowerdir+=/var/l,datadir+=/mnt/a:b
";
        let mounts = Mounts::parse(list);
        let served = |id: u64| {
            let mount = mounts.numbered(id).unwrap();
            let by: Vec<u64> = mounts.served_by(mount).iter().map(|mount| mount.id).collect();
            (mount.is_remote(), by)
        };
        for id in [22, 23, 25, 40] {
            assert_eq!(served(id), (true, vec![22]), "{id}");
        }
        assert_eq!((served(24), served(21)), ((false, vec![24]), (false, vec![21])));
    }

    #[test]
    fn kernel_escapes_are_decoded() {
        for (word, meant) in [("/a\\040b", "/a b"), ("\\011", "\t"), ("a\\", "a\\"), ("\\9", "\\9")]
        {
            assert_eq!(unescape(word.as_bytes()), meant);
        }
    }

    #[test]
    fn the_mounts_of_this_process_are_readable() {
        let mounts = Mounts::now().unwrap();
        assert_eq!(*Mounts::current().unwrap(), mounts);
        assert!(mounts.of(Path::new("/proc/self")).is_some_and(|mount| mount.kind == "proc"));
    }
}
