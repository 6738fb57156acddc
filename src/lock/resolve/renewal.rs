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
//!
//! A file of an overlay is copied up once, under the name that it has by then, which need not be the one
//! by which it was locked. So it is looked for by the descriptor that the lock is on, whose name the kernel
//! adapts. Where the copy is not found (its name was removed, or its layer renamed), any wanted disk on the
//! file system of the upper layer may be the copy. A file that looks the same is; where no descriptor can
//! be compared, the wanted disk is refused.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::stat::{fstat, major};

use crate::lock::disk::file_system::devices_of;
use crate::lock::disk::overlay::{self, Unknown};
use crate::lock::disk::snapshot::Snapshot;
use crate::lock::disk::stack::Stack;
use crate::lock::disk::sysfs::{Sysfs, UNKNOWN_SEQUENCE};
use crate::lock::model::extent::Extent;
use crate::lock::model::identity::Identity;
use crate::lock::model::lock::Want;
use crate::lock::mount::Mounts;
use crate::lock::path::open::{self, Links};
use crate::lock::path::walk::far_mount;
use crate::lock::resolve::Target;

/// What a locked disk lies on by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// As [`Want::below`].
    pub below: Vec<Extent>,
    /// As [`Want::copies`].
    pub copies: Vec<PathBuf>,
}

/// The result of a second look at a locked disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// What it lies on by now; `None` where that is what it was, or cannot be told.
    pub renewed: Option<Renewed>,
    /// The place of the first wanted disk that may be, or lie on, a copy of it that was not found.
    pub possible_copy: Option<usize>,
}

/// Looks again at what a locked disk lies on, where that may have changed. Asks local file systems only.
///
/// `disk` is a descriptor of the locked disk, where there is one. The `wanted` disks are those for which
/// locks are requested.
#[must_use]
pub fn look_again(
    want: &Want,
    disk: Option<BorrowedFd<'_>>,
    wanted: &[&Target],
    host: &Snapshot,
) -> Seen {
    let Ok(mounts) = host.mounts() else {
        let current = restacked(want, host);
        return Seen { renewed: current.and_then(|it| it.renewed(want)), possible_copy: None };
    };
    let located = if disk.is_none() { locked_file(want, mounts) } else { None };
    let file = disk.or_else(|| located.as_ref().map(|file| file.as_fd()));
    let current = match want.identity {
        Identity::Block { .. } => restacked(want, host),
        Identity::Inode { .. } => Some(relayered(want, file, mounts, host.sysfs())),
        Identity::Key { .. } => None,
    };
    let Some(mut current) = current else { return Seen::default() };
    let file = file.filter(|_| matches!(want.identity, Identity::Inode { .. }));
    let possible_copy = current.find_copy(file, wanted, mounts);
    Seen { renewed: current.renewed(want), possible_copy }
}

/// Returns what a disk lies on that is known by its identity alone: its record is damaged. What can't be
/// found out is left out. Asks no file system that may not answer.
#[must_use]
pub fn found_below(identity: Identity) -> Vec<Extent> {
    let sysfs = Sysfs::default().once();
    let stack = Stack::below(identity, "", &sysfs).unwrap_or_default();
    let devices = stack.devices(identity, &sysfs);
    [stack.below, devices.extents].concat()
}

/// What a locked disk lies on by now, as far as it was found.
struct Current {
    below: Vec<Extent>,
    copies: Vec<PathBuf>,
    /// Whether that is all.
    is_complete: bool,
}

impl Current {
    /// What was known before, where nothing can be found out.
    fn unknown(want: &Want) -> Self {
        Self { below: want.below.clone(), copies: want.copies.clone(), is_complete: false }
    }

    /// Adds what was known before, which counts as long as not all is found.
    fn or_as_before(self, want: &Want) -> Self {
        if self.is_complete {
            return self;
        }
        let below = union(&want.below, self.below);
        Self { below, copies: union(&want.copies, self.copies), is_complete: false }
    }

    /// Returns it if it is not what is known already.
    fn renewed(self, want: &Want) -> Option<Renewed> {
        let Self { below, copies, .. } = self;
        let is_new = below != want.below || copies != want.copies;
        is_new.then_some(Renewed { below, copies })
    }

    /// Looks for a copy that was not found among the wanted disks. One that is recognised is added to what
    /// the locked disk lies on. Returns the place of the first one that may be the copy.
    fn find_copy(
        &mut self,
        file: Option<BorrowedFd<'_>>,
        wanted: &[&Target],
        mounts: &Mounts,
    ) -> Option<usize> {
        if self.is_complete || self.copies.is_empty() || wanted.is_empty() {
            return None;
        }
        let uppers = devices_of_layers(&self.copies, mounts);
        let mut possible = None;
        for (n, target) in wanted.iter().enumerate() {
            let is_new = |extent: &Extent| {
                let on_layer =
                    matches!(extent.identity, Identity::Inode { dev, .. } if uppers.contains(&dev));
                on_layer && !self.below.iter().any(|known| known.identity == extent.identity)
            };
            let itself = Extent::whole(target.identity);
            let layers = target.stack.below.iter().chain(&target.stack.lower);
            let is_file = matches!(target.identity, Identity::Inode { .. });
            // Each file that it lies on as a file of an overlay looks like itself.
            let is_on_layer = [itself].iter().chain(layers).any(is_new);
            let is_above = target.devices.extents.iter().any(is_new);
            match file.filter(|_| is_file) {
                Some(file) if is_on_layer && overlay::is_copy(file, target.pin.as_fd()) => {
                    self.below.push(itself);
                }
                Some(_) if !is_above => {}
                _ if is_on_layer || is_above => possible = possible.or(Some(n)),
                _ => {}
            }
        }
        possible
    }
}

/// Returns the device numbers of the file systems of upper layers, by paths in these.
fn devices_of_layers(copies: &[PathBuf], mounts: &Mounts) -> Vec<u64> {
    let device = |path: &PathBuf| match far_mount(mounts, path) {
        Some(mount) => Some(mount.dev),
        // The layer or a directory in it may have another name by now.
        None => path.ancestors().skip(1).find_map(|directory| {
            let directory = open::locate(directory, Links::Follow).ok()?;
            Some(fstat(&directory).ok()?.st_dev)
        }),
    };
    copies.iter().filter_map(device).collect()
}

/// Returns the first with those of the others that are not in it.
fn union<T: Clone + PartialEq>(first: &[T], others: Vec<T>) -> Vec<T> {
    let mut all = first.to_vec();
    for other in others {
        if !all.contains(&other) {
            all.push(other);
        }
    }
    all
}

fn restacked(want: &Want, host: &Snapshot) -> Option<Current> {
    let Identity::Block { dev, .. } = want.identity else { return None };
    let sysfs = host.sysfs();
    // Without the number that tells one that is set up anew, it had to be asked each time.
    if [0, UNKNOWN_SEQUENCE].contains(&sysfs.disk_sequence(dev)) {
        return None;
    }
    let Ok(stack) = Stack::below(want.identity, "", sysfs) else {
        return Some(Current::unknown(want));
    };
    // A detached device lies on nothing, but a program that has it open may still write to its former
    // file.
    if stack.below.is_empty() {
        return None;
    }
    let devices = stack.devices(want.identity, sysfs);
    let is_complete = stack.unknown.is_none() && devices.unknown.is_none();
    let below = [stack.below, devices.extents].concat();
    let copies = union(&stack.copies, devices.copies);
    Some(Current { below, copies, is_complete }.or_as_before(want))
}

/// Returns the file that was locked, by its path.
fn locked_file(want: &Want, mounts: &Mounts) -> Option<OwnedFd> {
    let file = locate_near(want.path.as_deref()?, mounts)?;
    (Identity::of_open(&file) == Some(want.identity)).then_some(file)
}

/// Returns what a path leads to, unless that may not answer.
fn locate_near(path: &Path, mounts: &Mounts) -> Option<OwnedFd> {
    let near = far_mount(mounts, path).is_none();
    near.then(|| open::locate(path, Links::Follow).ok()).flatten()
}

/// What was read before is still open at the lower layer's file, so that one is kept.
fn relayered(want: &Want, file: Option<BorrowedFd<'_>>, mounts: &Mounts, sysfs: &Sysfs) -> Current {
    // Once it is copied there, the file itself may not answer.
    if want.copies.iter().any(|copy| far_mount(mounts, copy).is_some()) {
        return Current::unknown(want);
    }
    let mut found = Current { below: Vec::new(), copies: Vec::new(), is_complete: true };
    if let Some(file) = file {
        let real = overlay::real(file);
        let is_found = !real.upper.is_empty() || !real.lower.is_empty();
        let is_overlay = open::is_overlay(file).unwrap_or(true);
        found.is_complete =
            !is_overlay || (is_found && matches!(real.unknown, None | Some(Unknown::Metacopy)));
        found.below = [real.upper, real.lower].concat();
        found.copies = real.copies;
    } else if may_be_on_overlay(want.identity, mounts) {
        // The names alone have to do; other files may have these by now.
        let named = want.copies.iter().filter_map(|path| locate_near(path, mounts));
        found.below = named.filter_map(Identity::of_open).map(Extent::whole).collect();
        found.is_complete = false;
    }
    let below = union(&want.below, found.below);
    let files = [want.identity].into_iter().chain(below.iter().map(|extent| extent.identity));
    let devices = devices_of(files, sysfs);
    let is_complete = found.is_complete && devices.unknown.is_none();
    let copies = union(&found.copies, devices.copies);
    let below = union(&below, devices.extents);
    Current { below, copies, is_complete }.or_as_before(want)
}

/// Whether a file may be on an overlay, as far as its device number tells: those of mounts of other
/// namespaces, and of lower layers, are not known.
fn may_be_on_overlay(file: Identity, mounts: &Mounts) -> bool {
    let Identity::Inode { dev, .. } = file else { return false };
    let mount = mounts.iter().find(|mount| mount.dev == dev);
    major(dev) == 0 && mount.is_none_or(|mount| mount.kind == "overlay")
}
