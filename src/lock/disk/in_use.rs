//! Disks that this host uses itself: mounted, swapped to, or a part of another device.
//!
//! The kernel has an exclusive claim of its own on such a device (`O_EXCL` in `open(2)`), which
//! byte locks do not cover. If such a device was given to a VM as well, both would write to it.
//! QEMU does not claim what it opens, so a device that VMs use passes the check.
//!
//! A file has no such claim. It is in use if a loop device is set up on it, or if the host swaps to
//! it.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use rustix::fs::{FileType, fstat, major, stat};
use rustix::io::Errno;
use rustix::io::pwrite;

use super::loop_device::LoopDevice;
use super::snapshot::Snapshot;
use super::stack::Stack;
use super::swaps::Swaps;
use crate::lock::model::error::Error;
use crate::lock::model::extent::Extent;
use crate::lock::model::identity::Identity;
use crate::lock::model::operation::Operation;
use crate::lock::mount::Mount;
use crate::lock::path::open::{self, Links};
use crate::lock::text::escape::{shown, shown_path};
use crate::phrases::NO_IN_USE;

/// The maximum number of uses in a refusal.
const USES_SHOWN: usize = 3;
/// The possible meanings of a claim.
const CLAIMED: &str = "mounted, swapped to, or a part of another device";

/// The policy for a disk that this host uses itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InUse {
    /// It is refused an exclusive lock.
    Refused,
    /// It is locked as any other.
    Allowed,
}

/// Refuses a disk that this host uses itself according to `host`; `below` is all that it lies on.
///
/// # Errors
///
/// [`Error::NotLockable`] with the uses that are known.
pub(in crate::lock) fn refuse_if_used(
    disk: BorrowedFd<'_>,
    identity: Identity,
    below: &[Extent],
    name: &str,
    host: &Snapshot,
) -> Result<(), Error> {
    let mut uses = match identity {
        Identity::Block { dev, .. } if is_claimed(disk) => or_claimed(uses_of(dev, host)),
        Identity::Block { .. } => Vec::new(),
        Identity::Inode { .. } => swaps_to(disk, identity, host.swaps()).into_iter().collect(),
        Identity::Key { .. } => return Ok(()),
    };
    for used in uses_through_loops(identity, below, host) {
        if !uses.iter().any(|other| used.starts_with(other.as_str())) {
            uses.push(used);
        }
    }
    if uses.is_empty() { Ok(()) } else { Err(refusal(&uses, name)) }
}

/// Refuses a file that this host swaps to, even if its name in `/proc/swaps` leads elsewhere by
/// now. The check writes zero bytes to the file, which the kernel refuses for a swap file.
///
/// Checks the present swap areas: this is the last check before the lock, and costs nothing if they
/// are unchanged.
///
/// # Errors
///
/// [`Error::NotLockable`].
pub(in crate::lock) fn refuse_swap_file(file: &File, name: &str) -> Result<(), Error> {
    if Swaps::current().unwrap_or_default().files().next().is_none() {
        return Ok(());
    }
    let stat = fstat(file).map_err(|errno| Error::system(Operation::Stat, name, errno))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::RegularFile && is_swap_file(file) {
        return Err(refusal(&["swapped to".to_owned()], name));
    }
    Ok(())
}

/// Whether the kernel swaps to this file, which is open for writing.
fn is_swap_file(file: &File) -> bool {
    pwrite(file, &[], 0) == Err(rustix::io::Errno::TXTBSY)
}

fn refusal(uses: &[String], name: &str) -> Error {
    let more = if uses.len() > USES_SHOWN { ", and more" } else { "" };
    let uses = uses.get(..USES_SHOWN).unwrap_or(uses).join(", ");
    let why = format!("this host uses it ({uses}{more}), {NO_IN_USE}");
    Error::not_lockable(name, why)
}

/// Returns the uses of a claimed device, or the possible meanings of the claim if there are none.
fn or_claimed(uses: Vec<String>) -> Vec<String> {
    if uses.is_empty() { vec![CLAIMED.to_owned()] } else { uses }
}

/// Whether a device is claimed. This claims it for an instant. If it cannot be opened for another
/// reason, it counts as not claimed: the program that opens it next gets that error.
fn is_claimed(pin: BorrowedFd<'_>) -> bool {
    matches!(open::claim(pin), Err(Errno::BUSY))
}

/// Whether the device with this number is claimed; `None` if it cannot be opened.
fn is_device_claimed(dev: u64, node: &Path) -> Option<bool> {
    let pin = open::locate(node, Links::Follow).ok()?;
    let stat = fstat(&pin).ok()?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::BlockDevice || stat.st_rdev != dev {
        return None;
    }
    match open::claim(pin.as_fd()) {
        Ok(()) => Some(false),
        Err(Errno::BUSY) => Some(true),
        Err(_) => None,
    }
}

/// Returns the name under which the host swaps to a file. If another file has that name by now,
/// [`refuse_swap_file`] still detects the swap file, provided that it can be opened for writing.
fn swaps_to(file: BorrowedFd<'_>, identity: Identity, swaps: &Swaps) -> Option<String> {
    let is_same_file = |name: &str| {
        let found = open::locate_cached(Path::new(name)).ok();
        found.and_then(Identity::of_open) == Some(identity)
    };
    let swap = swaps.files().find(|swap| is_same_file(&swap.name))?;
    let is_used = open::reopen(file, true).map_or(true, |file| is_swap_file(&file));
    is_used.then(|| format!("swapped to as {}", shown(&swap.name)))
}

/// Returns the uses of the loop devices, and of their partitions, that have bytes in common with a
/// disk.
fn uses_through_loops(identity: Identity, below: &[Extent], host: &Snapshot) -> Vec<String> {
    let own: Vec<Extent> =
        std::iter::once(Extent::whole(identity)).chain(below.iter().copied()).collect();
    let conflicts = |extent: &Extent| own.iter().any(|own| own.conflicts(extent));
    let sysfs = host.sysfs();
    let mut uses = Vec::new();
    for device in host.loops().iter().filter(|device| may_conflict(device, &own)) {
        let parts = sysfs.partitions(device.dev).unwrap_or_default();
        // A claim on a partition is one on the whole device, too.
        let devices = if parts.is_empty() { vec![device.dev] } else { parts };
        for dev in devices {
            let itself = Identity::device(dev, sysfs);
            // A device that cannot be queried counts as the whole of its file.
            let below = Stack::below(itself, "", sysfs).map(|stack| stack.below);
            let below = below.unwrap_or_else(|_| vec![Extent::whole(device.backing)]);
            if itself != identity && below.iter().any(conflicts) {
                uses.extend(uses_of_other(dev, host));
            }
        }
    }
    uses
}

/// Whether a loop device, or a partition of it, may lie on what a disk lies on; `own` is that and
/// the disk itself. Nothing else is read of the other loop devices, which are most.
///
/// A loop device lies on its file and on no further layer, unless the file is a block device, or on
/// a file system whose device number is not that of a block device: that may be an overlay, whose
/// files lie on others.
fn may_conflict(device: &LoopDevice, own: &[Extent]) -> bool {
    let lies_on_more = match device.backing {
        Identity::Inode { dev, .. } => major(dev) == 0,
        Identity::Block { .. } | Identity::Key { .. } => true,
    };
    let is_in_common = |own: &Extent| [device.identity, device.backing].contains(&own.identity);
    lies_on_more || own.iter().any(is_in_common)
}

/// Returns the uses of another device that has bytes in common with a disk.
fn uses_of_other(dev: u64, host: &Snapshot) -> Vec<String> {
    let Ok(Some(node)) = host.sysfs().node(dev) else { return Vec::new() };
    let uses = match is_device_claimed(dev, &node) {
        Some(true) => or_claimed(uses_of(dev, host)),
        Some(false) => Vec::new(),
        None => uses_of(dev, host),
    };
    let through = shown_path(&node);
    uses.into_iter().map(|used| format!("{used} through {through}")).collect()
}

/// Returns the uses of a device or of its partitions. Ignores what cannot be read.
fn uses_of(dev: u64, host: &Snapshot) -> Vec<String> {
    let sysfs = host.sysfs();
    let parts = sysfs.partitions(dev).unwrap_or_default();
    let devices: Vec<u64> = std::iter::once(dev).chain(parts).collect();
    let mut uses = Vec::new();
    if let Ok(mounts) = host.mounts() {
        uses.extend(mounts.iter().filter_map(|mount| mounted(mount, &devices)));
    }
    let swapped =
        |name: &str| is_one_of(name, &devices).then(|| format!("swapped to as {}", shown(name)));
    uses.extend(host.swaps().iter().filter_map(|swap| swapped(&swap.name)));
    for dev in devices {
        let holders = sysfs.holders(dev).unwrap_or_default();
        uses.extend(holders.iter().map(|holder| format!("a part of {}", shown(holder))));
    }
    uses
}

/// Returns the mount point of `mount` if one of these devices is mounted there. Some file systems
/// have a device number of their own, and only the source of the mount names the device.
fn mounted(mount: &Mount, devices: &[u64]) -> Option<String> {
    (devices.contains(&mount.dev) || is_one_of(&mount.source, devices))
        .then(|| format!("mounted on {}", shown_path(&mount.point)))
}

fn is_one_of(node: &str, devices: &[u64]) -> bool {
    node.starts_with("/dev/")
        && stat(node).is_ok_and(|node| {
            let kind = FileType::from_raw_mode(node.st_mode);
            kind == FileType::BlockDevice && devices.contains(&node.st_rdev)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::sysfs::tests::Tree;
    use rustix::fs::makedev;
    use std::fs;

    const MOUNTS: &[u8] = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw
42 27 8:1 / /mnt/a\\040b\\134c rw,relatime shared:1 - ext4 /dev/none/sda1 rw
43 27 8:16 / /mnt/other rw - xfs /dev/none/sdb rw
44 27 0:40 / /mnt/tree rw - btrfs /dev/none/sdc rw
line";
    const SWAPS: &[u8] = b"Filename Type Size Used Priority\n/dev/null partition 1 0 -2\n";

    #[test]
    fn uses_of_partitions_are_reported() {
        let tree = Tree::new();
        tree.device("sda", "8:0").device("sda/sda1", "8:1").device("sda/sda2", "8:2");
        tree.device("dm-0", "253:0").on("dm-0", "sda/sda2").file("dm-0", "dm/name", "vg-lv\n");
        let host = Snapshot::of(&tree.sysfs()).with(MOUNTS, SWAPS);
        let all = ["mounted on /mnt/a b\\c", "a part of /dev/dm-0 (vg-lv)"];
        assert_eq!(uses_of(makedev(8, 0), &host), all);
        assert_eq!(uses_of(makedev(8, 1), &host), all[..1]);
        assert_eq!(uses_of(makedev(8, 2), &host), all[1..]);
        assert!(uses_of(makedev(253, 0), &host).is_empty());
        let nowhere = Snapshot::of(&tree.sysfs()).with(SWAPS, b"");
        assert!(uses_of(makedev(8, 1), &nowhere).is_empty());
    }

    #[test]
    fn a_swap_file_is_found_by_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("a b"), "").unwrap();
        fs::hard_link(at("a b"), at("link")).unwrap();
        fs::write(at("other"), "").unwrap();
        let name = at("a b").display().to_string();
        let lines = format!(
            "Filename Type Size Used Priority\n/none/such file 1 0 -2\n{} file 8 0 -2\n\
             {} partition 8 0 -2\n",
            name.replace(' ', "\\040"),
            at("other").display()
        );
        let swaps = Swaps::parse(lines.as_bytes());
        let used = |file: &str| {
            let identity = Identity::of(&stat(at(file)).unwrap()).unwrap();
            // The integration tests cover a real swap file; this file cannot be opened.
            swaps_to(File::open(dir.path()).unwrap().as_fd(), identity, &swaps)
        };
        assert_eq!(used("link"), Some(format!("swapped to as {name}")));
        assert_eq!(used("other"), None);
        let file = File::open(at("a b")).unwrap();
        let identity = Identity::of_open(&file).unwrap();
        assert_eq!(swaps_to(file.as_fd(), identity, &swaps), None);
        // A file that is not swapped to is not written to, either.
        refuse_swap_file(&File::open(at("a b")).unwrap(), "x").unwrap();
    }

    #[test]
    fn only_loop_devices_that_may_conflict_are_examined() {
        let inode = |dev, ino| Identity::Inode { dev, ino };
        let block = |minor| Identity::Block { dev: makedev(7, minor), seq: 1 };
        let (disk, ext4, btrfs) = (makedev(8, 0), makedev(8, 1), makedev(0, 40));
        let own = [Extent::whole(inode(ext4, 1)), Extent::whole(block(1))];
        for (minor, backing, expected) in [
            (0, inode(ext4, 1), true),
            (0, inode(ext4, 2), false),
            (0, inode(disk, 1), false),
            (1, inode(ext4, 2), true),
            (0, block(2), true),
            (0, inode(btrfs, 1), true),
        ] {
            let device = LoopDevice { dev: makedev(7, minor), identity: block(minor), backing };
            assert_eq!(may_conflict(&device, &own), expected, "{device:?}");
        }
    }
}
