//! Disks that this host uses itself: mounted, swapped to, or a part of another device.
//!
//! The kernel has a claim of its own on such a device (`O_EXCL` in `open(2)`), of which byte locks know
//! nothing. Whoever gave it to a machine as well would have both write to it. QEMU does not claim
//! what it opens, so a device that machines use passes.
//!
//! A file has no such claim. It is in use where a loop device is that is set up on it, or where the
//! host swaps to it.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat, major, minor, stat};
use nix::sys::uio::pwrite;

use super::error::Error;
use super::extent::Extent;
use super::identity::Identity;
use super::loop_device;
use super::open::{self, Links};
use super::printable::{shown, shown_path};
use super::stack::Stack;
use super::sysfs::Sysfs;

/// How many uses a refusal tells.
const TOLD: usize = 3;
/// What a claim may mean.
const CLAIMED: &str = "mounted, swapped to, or a part of another device";

/// What becomes of a disk that this host uses itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InUse {
    /// It is not locked exclusively.
    Refused,
    /// It is locked as any other.
    Allowed,
}

/// Refuses a disk that this host uses itself; `below` is all that it lies on.
///
/// # Errors
///
/// [`Error::NotLockable`] with the use, as far as it can be told.
pub(super) fn refuse_if_used(
    disk: BorrowedFd<'_>,
    identity: Identity,
    below: &[Extent],
    name: &str,
) -> Result<(), Error> {
    let host = Host::default();
    let mut uses = match identity {
        Identity::Block { dev, .. } if is_claimed(disk) => or_claimed(host.uses(dev)),
        Identity::Block { .. } => Vec::new(),
        Identity::Inode { .. } => host.swaps_to(disk, identity).into_iter().collect(),
        Identity::Key { .. } => return Ok(()),
    };
    for used in host.uses_through_loops(identity, below) {
        if !uses.iter().any(|known| used.starts_with(known.as_str())) {
            uses.push(used);
        }
    }
    if uses.is_empty() { Ok(()) } else { Err(refusal(&uses, name)) }
}

/// Refuses a file that this host swaps to, also where the name that `/proc/swaps` has for it leads
/// elsewhere. The kernel refuses to write to such a file; of anything else, nothing is written.
///
/// # Errors
///
/// [`Error::NotLockable`].
pub(super) fn refuse_swap_file(file: &File, name: &str) -> Result<(), Error> {
    if Host::default().swap_files().is_empty() {
        return Ok(());
    }
    let stat = fstat(file).map_err(|errno| Error::system("looking at", name, errno))?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    if kind == SFlag::S_IFREG && is_swap_file(file) {
        return Err(refusal(&["swapped to".to_owned()], name));
    }
    Ok(())
}

/// Whether the kernel swaps to a file that is open for writing.
fn is_swap_file(file: &File) -> bool {
    pwrite(file, &[], 0) == Err(Errno::ETXTBSY)
}

fn refusal(uses: &[String], name: &str) -> Error {
    let more = if uses.len() > TOLD { ", and more" } else { "" };
    let uses = uses.get(..TOLD).unwrap_or(uses).join(", ");
    let why = format!("this host uses it ({uses}{more}), and 'in-use' was not said");
    Error::not_lockable(name, why)
}

/// What is said of a device that is claimed.
fn or_claimed(uses: Vec<String>) -> Vec<String> {
    if uses.is_empty() { vec![CLAIMED.to_owned()] } else { uses }
}

/// Whether somebody has claimed a device. Claims it, for an instant; should opening fail for another
/// reason, whoever opens it next is told that.
fn is_claimed(pin: BorrowedFd<'_>) -> bool {
    matches!(open::claim(pin), Err(Errno::EBUSY))
}

/// Whether somebody has claimed the device with this number; `None` where it can't be opened.
fn is_device_claimed(dev: u64, node: &Path) -> Option<bool> {
    let pin = open::locate(node, Links::Follow).ok()?;
    let stat = fstat(&pin).ok()?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFBLK || stat.st_rdev != dev {
        return None;
    }
    match open::claim(pin.as_fd()) {
        Ok(()) => Some(false),
        Err(Errno::EBUSY) => Some(true),
        Err(_) => None,
    }
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
    /// The files that are swapped to, by the names that the kernel has for them.
    fn swap_files(&self) -> Vec<String> {
        let swaps = fs::read_to_string(self.swaps).unwrap_or_default();
        let file = |line: &str| {
            let mut words = line.split_ascii_whitespace();
            let (name, kind) = (words.next()?, words.next()?);
            (kind == "file").then(|| plain(name))
        };
        swaps.lines().skip(1).filter_map(file).collect()
    }

    /// By which name a file is swapped to. That another file has the name by now is seen where the
    /// file can be opened for writing.
    fn swaps_to(&self, file: BorrowedFd<'_>, identity: Identity) -> Option<String> {
        let is_it = |name: &String| {
            let found = open::locate_known(Path::new(name)).ok();
            found.and_then(Identity::of_open) == Some(identity)
        };
        let name = self.swap_files().into_iter().find(is_it)?;
        let swaps = open::reopen(file, true).map_or(true, |file| is_swap_file(&file));
        swaps.then(|| format!("swapped to as {}", shown(&name)))
    }

    /// What the loop devices are used for, and their partitions, that have bytes in common with a
    /// disk.
    fn uses_through_loops(&self, identity: Identity, below: &[Extent]) -> Vec<String> {
        let own: Vec<Extent> =
            std::iter::once(Extent::whole(identity)).chain(below.iter().copied()).collect();
        let conflicts = |extent: &Extent| own.iter().any(|own| own.conflicts(extent));
        let mut uses = Vec::new();
        for (device, _) in loop_device::extents(&self.sysfs) {
            let parts = self.sysfs.partitions(device).unwrap_or_default();
            // The claim on a part is one on the whole, too.
            let devices = if parts.is_empty() { vec![device] } else { parts };
            for dev in devices {
                let itself = Identity::device(dev, &self.sysfs);
                let Ok(Stack { below, .. }) = Stack::below(itself, "", &self.sysfs) else {
                    continue;
                };
                if itself != identity && below.iter().any(conflicts) {
                    uses.extend(self.uses_of_other(dev));
                }
            }
        }
        uses
    }

    /// What another device is used for that has bytes in common with a disk.
    fn uses_of_other(&self, dev: u64) -> Vec<String> {
        let Ok(Some(node)) = self.sysfs.node(dev) else { return Vec::new() };
        let uses = self.uses(dev);
        let uses = match is_device_claimed(dev, &node) {
            Some(true) => or_claimed(uses),
            Some(false) => Vec::new(),
            None => uses,
        };
        let through = shown_path(&node);
        uses.into_iter().map(|used| format!("{used} through {through}")).collect()
    }

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
        assert!(host.swap_files().is_empty());
        let nowhere = Host { mounts: &swaps, swaps: Path::new("/none"), ..host };
        assert!(nowhere.uses(makedev(8, 1)).is_empty());
    }

    #[test]
    fn a_swap_file_is_found_by_what_it_is() {
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
        fs::write(at("swaps"), lines).unwrap();
        let swaps = at("swaps");
        let host = Host { swaps: &swaps, ..Host::default() };
        let used = |file: &str| {
            let identity = Identity::of(&stat(&at(file)).unwrap()).unwrap();
            // What is swapped to is tested where the kernel does it; this can't be opened.
            host.swaps_to(File::open(dir.path()).unwrap().as_fd(), identity)
        };
        assert_eq!(used("link"), Some(format!("swapped to as {name}")));
        assert_eq!(used("other"), None);
        let file = File::open(at("a b")).unwrap();
        let identity = Identity::of_open(&file).unwrap();
        assert_eq!(host.swaps_to(file.as_fd(), identity), None);
        // What nobody swaps to is not written to, either.
        refuse_swap_file(&File::open(at("a b")).unwrap(), "x").unwrap();
    }

    #[test]
    fn what_the_kernel_escapes_is_read() {
        for (word, meant) in [("/a\\040b", "/a b"), ("\\011", "\t"), ("a\\", "a\\"), ("\\9", "\\9")]
        {
            assert_eq!(plain(word), meant);
        }
    }
}
