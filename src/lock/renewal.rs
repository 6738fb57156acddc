//! Finds out what a locked disk lies on by now.
//!
//! The table compares what was found when a lock was asked for. A loop device can be set up anew, or
//! get another offset or size limit, while it is locked, and a file of an overlay that is locked in
//! shared mode is copied up when a program opens it for writing. So what can change is looked at again
//! before another lock is granted.
//!
//! Of a loop device all is read anew for each grant: its disk sequence number, offset and size limit,
//! since each of them can change while the device is open. Of what lies above and below it, the same
//! [`Snapshot`] is used for all locked disks and for the in-use check of the new ones. Disks that lie on
//! no loop device are not looked at: the kernel deletes no partition that is open, and their stack is
//! what it was when they were locked.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use super::extent::Extent;
use super::identity::Identity;
use super::mount::Mounts;
use super::open::{self, Links};
use super::overlay;
use super::record::Want;
use super::snapshot::Snapshot;
use super::stack::Stack;
use super::sysfs::Sysfs;
use super::way::far_mount;

/// What a locked disk lies on by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// As [`Want::below`].
    pub below: Vec<Extent>,
    /// As [`Want::copies`].
    pub copies: Vec<PathBuf>,
}

/// Returns what a locked disk lies on by now, where that may have changed; `None` where it is as it
/// was, or can't be told. Asks local file systems only.
#[must_use]
pub fn renewed(want: &Want, host: &Snapshot) -> Option<Renewed> {
    let renewed = match want.identity {
        Identity::Block { .. } => restacked(want, host),
        Identity::Inode { .. } => host.mounts().ok().map(|mounts| copied_up(want, mounts)),
        Identity::Key { .. } => None,
    };
    renewed.filter(|new| new.below != want.below || new.copies != want.copies)
}

/// Returns what a disk lies on that is known by its identity alone: its record is damaged. What can't be
/// found out is left out. Asks no file system that may not answer.
#[must_use]
pub fn found_below(identity: Identity) -> Vec<Extent> {
    let sysfs = Sysfs::default().once();
    let stack = Stack::below(identity, "", &sysfs).unwrap_or_default();
    let devices = stack.devices(identity, &sysfs);
    [stack.below, devices].concat()
}

fn restacked(want: &Want, host: &Snapshot) -> Option<Renewed> {
    let Identity::Block { dev, .. } = want.identity else { return None };
    let sysfs = host.sysfs();
    // Without the number that tells one that is set up anew, it had to be asked each time.
    if sysfs.disk_sequence(dev) == 0 {
        return None;
    }
    let stack = Stack::below(want.identity, "", sysfs).ok()?;
    // A detached device lies on nothing, but a program that has it open may still write to its former
    // file.
    if stack.below.is_empty() {
        return None;
    }
    let devices = stack.devices(want.identity, sysfs);
    let Stack { below, copies, .. } = stack;
    Some(Renewed { below: [below, devices].concat(), copies })
}

/// What was read before is still open at the lower layer's file, so that one is kept.
fn copied_up(want: &Want, mounts: &Mounts) -> Renewed {
    let locate = |path: &Path| {
        let near = far_mount(mounts, path).is_none();
        near.then(|| open::locate(path, Links::Follow).ok()).flatten()
    };
    let file = want.path.as_deref().and_then(locate);
    let file = file.filter(|file| Identity::of_open(file) == Some(want.identity));
    let mut renewed = Renewed { below: want.below.clone(), copies: Vec::new() };
    for path in &want.copies {
        let copy = locate(path).filter(|copy| {
            // Where the file can't be asked, the name alone has to do.
            file.as_ref().is_none_or(|file| overlay::is_copy(file.as_fd(), copy.as_fd()))
        });
        match copy.and_then(Identity::of_open) {
            Some(identity) => renewed.below.push(Extent::whole(identity)),
            None => renewed.copies.push(path.clone()),
        }
    }
    renewed
}
