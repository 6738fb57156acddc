//! The block devices that file systems are on: a write to a file is a write to the device, somewhere.
//!
//! Two files of one file system have no byte in common, and which bytes a file has is not known. So a
//! file occupies a part of the device ([`Placement::Partial`](super::extent::Placement)), which conflicts
//! with a lock on the device itself, on a range of it, or on the image that it was made of, and with no
//! other part.
//!
//! A file system without one device of its own (btrfs, ZFS, tmpfs, a network file system) has a device
//! number without a device, and is on nothing as far as this goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::stat::major;

use super::extent::Extent;
use super::identity::Identity;
use super::stack::Stack;
use super::sysfs::Sysfs;

/// For how long is remembered what a device lies on: a volume may be moved while it is mounted.
const FRESH: Duration = Duration::from_secs(10);
/// How many devices are remembered.
const KNOWN_MAX: usize = 4096;

/// What a device lies on, and the disk sequence number that it had.
#[derive(Debug)]
struct Known {
    seq: u64,
    since: Instant,
    parts: Vec<Extent>,
}

/// By device number.
static KNOWN: Mutex<BTreeMap<u64, Known>> = Mutex::new(BTreeMap::new());

/// Returns the parts of block devices that the file systems of some files occupy, and the parts of
/// what these lie on. What can't be found out is left out.
pub(super) fn devices_of(files: impl IntoIterator<Item = Identity>, sysfs: &Sysfs) -> Vec<Extent> {
    let mut found = Vec::new();
    let mut known = BTreeSet::new();
    let mut next: Vec<u64> = files.into_iter().filter_map(device_of).collect();
    while let Some(dev) = next.pop() {
        if known.insert(dev) {
            let parts = parts_of(dev, sysfs);
            // The image of a loop device is a file, too.
            next.extend(parts.iter().filter_map(|part| device_of(part.identity)));
            for part in parts {
                if !found.contains(&part) {
                    found.push(part);
                }
            }
        }
    }
    found
}

/// The block device that a file's device number is that of; device numbers without a device have the
/// major number 0.
fn device_of(identity: Identity) -> Option<u64> {
    match identity {
        Identity::Inode { dev, .. } => (major(dev) != 0).then_some(dev),
        Identity::Block { .. } | Identity::Key { .. } => None,
    }
}

fn parts_of(dev: u64, sysfs: &Sysfs) -> Vec<Extent> {
    // A number is given again; the disk then has another sequence number.
    let identity = Identity::device(dev, sysfs);
    let Identity::Block { seq, .. } = identity else { return Vec::new() };
    let remembered = {
        let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(&dev);
        let known = known.filter(|known| known.seq == seq && known.since.elapsed() < FRESH);
        known.map(|known| known.parts.clone())
    };
    if let Some(parts) = remembered {
        return parts;
    }
    let part = Extent::partial(identity);
    let below = Stack::under(part, sysfs).map(|stack| stack.below).unwrap_or_default();
    let parts: Vec<Extent> = [part].into_iter().chain(below).collect();
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= KNOWN_MAX {
        known.clear();
    }
    known.insert(dev, Known { seq, since: Instant::now(), parts: parts.clone() });
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::extent::Span;
    use crate::lock::sysfs::tests::Tree;
    use nix::sys::stat::makedev;

    #[test]
    fn files_of_one_file_system_conflict_with_its_device_and_not_with_each_other() {
        // A number that no other test has: what is known is shared.
        let tree = Tree::new();
        tree.device("sdz", "239:0").device("sdz/sdz1", "239:1").device("sdz/sdz2", "239:2");
        for (name, start) in [("sdz/sdz1", "8\n"), ("sdz/sdz2", "1008\n")] {
            tree.file(name, "start", start).file(name, "size", "1000\n");
        }
        let sysfs = tree.sysfs();
        let disk = |minor| Identity::device(makedev(239, minor), &sysfs);
        let file = |minor, ino| Identity::Inode { dev: makedev(239, minor), ino };
        let (one, two) = (devices_of([file(1, 1)], &sysfs), devices_of([file(1, 2)], &sysfs));
        let in_disk = Extent { span: Span::new(4096, 512_000), ..Extent::partial(disk(0)) };
        assert_eq!(one, [Extent::partial(disk(1)), in_disk]);
        let conflict = |other: Extent| one.iter().any(|part| part.conflicts(&other));
        assert!(!two.into_iter().any(conflict));
        assert!(conflict(Extent::whole(disk(1))) && conflict(Extent::whole(disk(0))));
        assert!(!conflict(Extent::exact(disk(0), Span::new(516_096, 512_000))));
        assert_eq!(devices_of([Identity::Inode { dev: makedev(0, 40), ino: 1 }], &sysfs), []);
        // What has the number later is another disk.
        tree.file("sdz", "diskseq", "7\n");
        assert_eq!(devices_of([file(1, 1)], &sysfs)[0], Extent::partial(disk(1)));
        assert_ne!(devices_of([file(1, 1)], &sysfs)[0], one[0]);
    }
}
