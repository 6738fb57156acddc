//! The block devices below file systems: a write to a file is a write to the device, at an unknown
//! offset.
//!
//! Two files of one file system have no byte in common, and which bytes a file occupies is unknown.
//! So a file occupies a part of the device
//! ([`Placement::Partial`](crate::lock::model::extent::Placement)). This conflicts with a lock on
//! the device itself, on a range of it, or on the image below it, and with no other part.
//!
//! A file system without one device of its own (btrfs, ZFS, tmpfs, a network file system) has a
//! device number without a device. For this module, it lies on nothing.
//!
//! If the layers below such a device are unknown, [`Devices::unknown`] has the reason, and the file
//! is not locked. Only complete results are cached.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::fs::{major, minor};

use super::stack::Stack;
use crate::lock::model::extent::Extent;
use crate::lock::model::identity::Identity;
use crate::lock::model::identity::is_loop;
use crate::lock::sysfs::Sysfs;
use crate::lock::text::escape::shown_path;
use crate::sync;

/// How long the layers below a device are cached: a volume may be moved while it is mounted.
const FRESH: Duration = Duration::from_secs(10);
/// The maximum number of cached devices.
const CACHE_MAX: usize = 4096;

/// The devices below the file systems of some files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::lock) struct Devices {
    /// The parts of block devices that the file systems occupy, and the parts of the layers below.
    pub(in crate::lock) extents: Vec<Extent>,
    /// The paths at which upper layers of overlays will have an image below, once that is copied
    /// up.
    pub(in crate::lock) copies: Vec<PathBuf>,
    /// Why some of it may be missing here.
    pub(in crate::lock) unknown: Option<String>,
}

impl Devices {
    /// Whether the layers may change while the file systems are mounted, or may become completely
    /// known later.
    pub(in crate::lock) fn may_change(&self) -> bool {
        let is_loop =
            |part: &Extent| matches!(part.identity, Identity::Block { dev, .. } if is_loop(dev));
        self.unknown.is_some() || !self.copies.is_empty() || self.extents.iter().any(is_loop)
    }

    /// Adds the devices below other file systems.
    fn add(&mut self, other: Self) {
        for part in other.extents {
            if !self.extents.contains(&part) {
                self.extents.push(part);
            }
        }
        for copy in other.copies {
            if !self.copies.contains(&copy) {
                self.copies.push(copy);
            }
        }
        self.unknown = self.unknown.take().or(other.unknown);
    }
}

/// The layers below a device, and the disk sequence number that it had.
#[derive(Debug)]
struct DeviceCache {
    seq: u64,
    since: Instant,
    parts: Vec<Extent>,
}

/// The cache, by device number. It has complete results only.
static CACHE: Mutex<BTreeMap<u64, DeviceCache>> = Mutex::new(BTreeMap::new());

/// Returns the devices below the file systems of some files.
pub(in crate::lock) fn devices_of(
    files: impl IntoIterator<Item = Identity>,
    sysfs: &Sysfs,
) -> Devices {
    let mut found = Devices::default();
    let mut visited = BTreeSet::new();
    let mut next: Vec<u64> = files.into_iter().filter_map(device_of).collect();
    while let Some(dev) = next.pop() {
        if visited.insert(dev) {
            let devices = devices_under(dev, sysfs);
            // The image of a loop device is a file, too.
            next.extend(devices.extents.iter().filter_map(|part| device_of(part.identity)));
            found.add(devices);
        }
    }
    found
}

/// Returns the block device of a file's device number; device numbers without a device have the
/// major number 0.
fn device_of(identity: Identity) -> Option<u64> {
    match identity {
        Identity::Inode { dev, .. } => (major(dev) != 0).then_some(dev),
        Identity::Block { .. } | Identity::Key { .. } => None,
    }
}

/// Returns a device and the layers below it.
fn devices_under(dev: u64, sysfs: &Sysfs) -> Devices {
    // Device numbers are reused; the new disk then has another sequence number.
    let identity = Identity::device(dev, sysfs);
    let Identity::Block { seq, .. } = identity else { return Devices::default() };
    let cached = {
        let cache = sync::lock(&CACHE);
        let entry = cache.get(&dev);
        let entry = entry.filter(|entry| entry.seq == seq && entry.since.elapsed() < FRESH);
        entry.map(|entry| entry.parts.clone())
    };
    if let Some(extents) = cached {
        return Devices { extents, ..Devices::default() };
    }
    let part = Extent::partial(identity);
    let unknown = |why: String| Some(format!("its file system is on {}: {why}", name(dev, sysfs)));
    let stack = if identity.is_unknown() {
        Err("its disk sequence number cannot be read".to_owned())
    } else {
        Stack::under(part, sysfs)
    };
    let stack = match stack {
        Ok(stack) => stack,
        Err(why) => {
            return Devices { extents: vec![part], unknown: unknown(why), ..Devices::default() };
        }
    };
    let extents: Vec<Extent> = [part].into_iter().chain(stack.below).collect();
    let copies = stack.copies;
    let unknown = stack.unknown.and_then(|why| unknown(why.to_string()));
    if unknown.is_none() && copies.is_empty() {
        let mut cache = sync::lock(&CACHE);
        if cache.len() >= CACHE_MAX {
            cache.clear();
        }
        cache.insert(dev, DeviceCache { seq, since: Instant::now(), parts: extents.clone() });
    }
    Devices { extents, copies, unknown }
}

/// Returns the name of a device, for messages.
fn name(dev: u64, sysfs: &Sysfs) -> String {
    let node = sysfs.node(dev).ok().flatten();
    node.map_or_else(|| format!("{}:{}", major(dev), minor(dev)), |node| shown_path(&node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::model::extent::Span;
    use crate::lock::sysfs::tests::Tree;
    use rustix::fs::makedev;

    #[test]
    fn files_of_one_file_system_conflict_with_its_device_and_not_with_each_other() {
        // A number that no other test uses, since the cache is shared.
        let tree = Tree::new();
        tree.device("sdz", "239:0").device("sdz/sdz1", "239:1").device("sdz/sdz2", "239:2");
        for (name, start) in [("sdz/sdz1", "8\n"), ("sdz/sdz2", "1008\n")] {
            tree.file(name, "start", start).file(name, "size", "1000\n");
        }
        let sysfs = tree.sysfs();
        let disk = |minor| Identity::device(makedev(239, minor), &sysfs);
        let file = |minor, ino| Identity::Inode { dev: makedev(239, minor), ino };
        let devices_of = |file| super::devices_of([file], &sysfs).extents;
        let (one, two) = (devices_of(file(1, 1)), devices_of(file(1, 2)));
        let in_disk = Extent { span: Span::new(4096, 512_000), ..Extent::partial(disk(0)) };
        assert_eq!(one, [Extent::partial(disk(1)), in_disk]);
        let conflict = |other: Extent| one.iter().any(|part| part.conflicts(&other));
        assert!(!two.into_iter().any(conflict));
        assert!(conflict(Extent::whole(disk(1))) && conflict(Extent::whole(disk(0))));
        assert!(!conflict(Extent::exact(disk(0), Span::new(516_096, 512_000))));
        assert_eq!(devices_of(Identity::Inode { dev: makedev(0, 40), ino: 1 }), []);
        // The device that has the number later is another disk.
        tree.file("sdz", "diskseq", "7\n");
        assert_eq!(devices_of(file(1, 1))[0], Extent::partial(disk(1)));
        assert_ne!(devices_of(file(1, 1))[0], one[0]);
    }
    #[test]
    fn unreadable_layers_are_unknown_and_not_cached() {
        let (tree, file) = (Tree::new(), Identity::Inode { dev: makedev(239, 9), ino: 1 });
        tree.device("sdw", "239:8").device("sdw/sdw1", "239:9");
        tree.file("sdw/sdw1", "diskseq", "4\n").file("sdw", "diskseq/unreadable", "");
        let found = || devices_of([file], &tree.sysfs());
        let part = Extent::partial(Identity::Block { dev: makedev(239, 9), seq: 4 });
        let why = found().unknown.unwrap();
        assert!(why.contains("239:9") && why.contains("sequence number cannot be read"), "{why}");
        assert_eq!((found().extents, found().may_change()), (vec![part], true));
        // An unknown result is not cached.
        tree.without("sdw", "diskseq/unreadable").without("sdw", "diskseq");
        tree.file("sdw", "diskseq", "4\n");
        assert_eq!((found().unknown, found().extents.len()), (None, 2));
    }
}
