//! The node of an open file, as the kernel lists locks on it.

use std::fs;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::fs::{fstat, major, minor};

use crate::lock::model::process_search::Node;

impl Node {
    /// Returns the node of an open file.
    #[must_use]
    pub fn of(file: BorrowedFd<'_>) -> Option<Self> {
        let stat = fstat(file).ok()?;
        let device = device_of_mount(file).unwrap_or((major(stat.st_dev), minor(stat.st_dev)));
        let listed = format!("{:02x}:{:02x}:{}", device.0, device.1, stat.st_ino);
        Some(Self { listed, dev: stat.st_dev, ino: stat.st_ino })
    }
}

/// Returns the device by which the kernel lists locks: that of the mounted file system. `st_dev`
/// differs from it on overlayfs and in btrfs subvolumes. `None` for a mount that is not in this
/// namespace.
fn device_of_mount(file: BorrowedFd<'_>) -> Option<(u32, u32)> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().to_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    // "36 35 98:0 /root /mnt …": the mount, its parent, its device (proc_pid_mountinfo(5)).
    let device = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.next()? == mount).then(|| fields.nth(1))?
    })?;
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
