//! Block devices that this host uses itself: mounted, swapped to, or a part of another device.
//!
//! The kernel has a claim of its own on such a device (`O_EXCL` in `open(2)`), of which byte locks know
//! nothing. Whoever gave it to a machine as well would have both write to it. QEMU does not claim
//! what it opens, so a device that machines use passes.

use std::fs;
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{SFlag, major, minor, stat};

use super::error::Error;
use super::identity::Identity;
use super::open;
use super::printable::shown;
use super::sysfs::Sysfs;

/// How many uses a refusal tells.
const TOLD: usize = 3;

/// What becomes of a device that this host uses itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InUse {
    /// It is not locked exclusively.
    Refused,
    /// It is locked as any other.
    Allowed,
}

/// Refuses a disk that this host uses itself.
///
/// # Errors
///
/// [`Error::NotLockable`] with the use, as far as it can be told.
pub(super) fn refuse_if_used(
    disk: BorrowedFd<'_>,
    identity: Identity,
    name: &str,
) -> Result<(), Error> {
    let Identity::Block { dev, .. } = identity else { return Ok(()) };
    if !is_claimed(disk) {
        return Ok(());
    }
    let uses = Host::default().uses(dev);
    let more = if uses.len() > TOLD { ", and more" } else { "" };
    let uses = match uses.get(..TOLD).unwrap_or(&uses) {
        [] => "mounted, swapped to, or a part of another device".to_owned(),
        uses => format!("{}{more}", uses.join(", ")),
    };
    let why = format!("this host uses it ({uses}), and 'in-use' was not said");
    Err(Error::not_lockable(name, why))
}

/// Whether somebody has claimed a device. Claims it, for an instant; should opening fail for another
/// reason, whoever opens it next is told that.
fn is_claimed(pin: BorrowedFd<'_>) -> bool {
    matches!(open::claim(pin), Err(Errno::EBUSY))
}

/// Where it is told what this host does with its devices.
struct Host<'h> {
    sysfs: Sysfs,
    mounts: &'h Path,
    swaps: &'h Path,
}

impl Default for Host<'_> {
    fn default() -> Self {
        let (mounts, swaps) = (Path::new("/proc/self/mountinfo"), Path::new("/proc/swaps"));
        Self { sysfs: Sysfs::default(), mounts, swaps }
    }
}

impl Host<'_> {
    /// What a device is used for, or its partitions are. What can't be read tells nothing.
    fn uses(&self, dev: u64) -> Vec<String> {
        let parts = self.sysfs.partitions(dev).unwrap_or_default();
        let devices: Vec<u64> = std::iter::once(dev).chain(parts).collect();
        let mut uses = Vec::new();
        let mounts = fs::read_to_string(self.mounts).unwrap_or_default();
        uses.extend(mounts.lines().filter_map(|line| mounted(line, &devices)));
        let swaps = fs::read_to_string(self.swaps).unwrap_or_default();
        let swapped = |line: &str| {
            let node = plain(line.split_ascii_whitespace().next()?);
            is_one_of(&node, &devices).then(|| format!("swapped to as {}", shown(&node)))
        };
        uses.extend(swaps.lines().skip(1).filter_map(swapped));
        for dev in devices {
            let holders = self.sysfs.holders(dev).unwrap_or_default();
            uses.extend(holders.iter().map(|holder| format!("a part of {}", shown(holder))));
        }
        uses
    }
}

/// Where one of these devices is mounted, if this line of `mountinfo` tells of it
/// (`proc_pid_mountinfo(5)`). Some file systems have a number of their own, and only the name of the
/// device.
fn mounted(line: &str, devices: &[u64]) -> Option<String> {
    let (before, after) = line.split_once(" - ")?;
    let mut words = before.split(' ');
    let (number, place) = (words.nth(2)?, words.nth(1)?);
    let numbered = |dev: &u64| number == format!("{}:{}", major(*dev), minor(*dev));
    let source = plain(after.split(' ').nth(1)?);
    (devices.iter().any(numbered) || is_one_of(&source, devices))
        .then(|| format!("mounted on {}", shown(&plain(place))))
}

fn is_one_of(node: &str, devices: &[u64]) -> bool {
    node.starts_with("/dev/")
        && stat(node).is_ok_and(|node| {
            let kind = SFlag::from_bits_truncate(node.st_mode) & SFlag::S_IFMT;
            kind == SFlag::S_IFBLK && devices.contains(&node.st_rdev)
        })
}

/// A word without the escapes that the kernel writes for blanks: `\040` and the like.
fn plain(word: &str) -> String {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let octal = more
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = octal.and_then(|_| more.get(3..)).unwrap_or(more);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::sysfs::tests::Tree;
    use nix::sys::stat::makedev;

    const MOUNTS: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
42 27 8:1 / /mnt/a\\040b\\134c rw,relatime shared:1 - ext4 /dev/none/sda1 rw
43 27 8:16 / /mnt/other rw - xfs /dev/none/sdb rw
44 27 0:40 / /mnt/tree rw - btrfs /dev/none/sdc rw
line";

    #[test]
    fn what_a_device_is_used_for_is_told_for_its_parts_too() {
        let dir = tempfile::tempdir().unwrap();
        let (mounts, swaps) = (dir.path().join("mountinfo"), dir.path().join("swaps"));
        fs::write(&mounts, MOUNTS).unwrap();
        fs::write(&swaps, "Filename Type Size Used Priority\n/dev/null partition 1 0 -2\n")
            .unwrap();
        let tree = Tree::new();
        tree.device("sda", "8:0").device("sda/sda1", "8:1").device("sda/sda2", "8:2");
        tree.device("dm-0", "253:0").on("dm-0", "sda/sda2").file("dm-0", "dm/name", "vg-lv\n");
        let host = Host { sysfs: tree.sysfs(), mounts: &mounts, swaps: &swaps };
        let all = ["mounted on /mnt/a b\\c", "a part of /dev/dm-0 (vg-lv)"];
        assert_eq!(host.uses(makedev(8, 0)), all);
        assert_eq!(host.uses(makedev(8, 1)), all[..1]);
        assert_eq!(host.uses(makedev(8, 2)), all[1..]);
        assert!(host.uses(makedev(253, 0)).is_empty());
        let nowhere = Host { mounts: &swaps, swaps: Path::new("/none"), ..host };
        assert!(nowhere.uses(makedev(8, 1)).is_empty());
    }

    #[test]
    fn what_the_kernel_escapes_is_read() {
        for (word, meant) in [("/a\\040b", "/a b"), ("\\011", "\t"), ("a\\", "a\\"), ("\\9", "\\9")]
        {
            assert_eq!(plain(word), meant);
        }
    }
}
