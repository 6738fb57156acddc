//! Determines the present layers below a locked disk.
//!
//! The table compares the layers that were found when a lock was requested. While it is locked, a
//! loop device can be set up again, or get another offset or size limit, and a file of an overlay
//! that is locked in shared mode is copied up when a program opens it for writing. So whatever can
//! change is examined again before another lock is granted.
//!
//! All properties of a loop device are read again for each grant: its disk sequence number, offset
//! and size limit, since each of them can change while the device is open. For the layers above and
//! below it, one [`Snapshot`] serves all locked disks and the in-use check of the new ones. Disks
//! that lie on no loop device are not examined: the kernel deletes no partition that is open, and
//! their stack is the same as when they were locked.
//!
//! A file of an overlay is copied up once, under the name that it has at that time, which need not
//! be the one by which it was locked. So its name is read from the descriptor that the lock is on:
//! the kernel keeps it up to date. If the copy is not found (its name was removed, or its layer
//! renamed), any wanted disk on the file system of the upper layer may be the copy. A file with
//! matching properties is the copy; if no descriptor can be compared, the wanted disk is refused.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{fstat, major};

use crate::lock::disk::file_system::devices_of;
use crate::lock::disk::overlay::{self, Unknown};
use crate::lock::disk::snapshot::Snapshot;
use crate::lock::disk::stack::Stack;
use crate::lock::model::extent::Extent;
use crate::lock::model::identity::Identity;
use crate::lock::model::identity::UNKNOWN_SEQUENCE;
use crate::lock::model::lock::Want;
use crate::lock::mount::Mounts;
use crate::lock::path::open::{self, Links};
use crate::lock::path::walk::remote_mount;
use crate::lock::resolve::Target;
use crate::lock::sysfs::Sysfs;
use crate::lock::table::renewal::Renewed;

/// The result of examining a locked disk again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The present layers; `None` if they are unchanged or unknown.
    pub renewed: Option<Renewed>,
    /// The index of the first wanted disk that may be, or lie on, a copy that was not found.
    pub possible_copy: Option<usize>,
}

/// Examines the layers below a locked disk again, if they may have changed. Queries local file
/// systems only.
///
/// `disk` is a descriptor of the locked disk, if there is one. The `wanted` disks are those for
/// which locks are requested.
#[must_use]
pub fn look_again(
    want: &Want,
    disk: Option<BorrowedFd<'_>>,
    wanted: &[&Target],
    host: &Snapshot,
) -> Seen {
    let Ok(mounts) = host.mounts() else {
        let current = current_of_device(want, host);
        return Seen { renewed: current.and_then(|it| it.renewed(want)), possible_copy: None };
    };
    let located = if disk.is_none() { locked_file(want, mounts) } else { None };
    let file = disk.or_else(|| located.as_ref().map(|file| file.as_fd()));
    let current = match want.identity {
        Identity::Block { .. } => current_of_device(want, host),
        Identity::Inode { .. } => Some(current_of_file(want, file, mounts, host.sysfs())),
        Identity::Key { .. } => None,
    };
    let Some(mut current) = current else { return Seen::default() };
    let file = file.filter(|_| matches!(want.identity, Identity::Inode { .. }));
    let possible_copy = current.find_copy(file, wanted, mounts);
    Seen { renewed: current.renewed(want), possible_copy }
}

/// Returns the layers below a disk that is known by its identity only, since its entry in the state
/// file is damaged. Omits unknown ones. Queries no file system that may not respond.
#[must_use]
pub fn found_below(identity: Identity) -> Vec<Extent> {
    let sysfs = Sysfs::default().once();
    let stack = Stack::below(identity, "", &sysfs).unwrap_or_default();
    let devices = stack.devices(identity, &sysfs);
    [stack.below, devices.extents].concat()
}

/// The layers below a locked disk that were found.
struct Current {
    below: Vec<Extent>,
    copies: Vec<PathBuf>,
    /// Whether these are all.
    is_complete: bool,
}

impl Current {
    /// Returns the previous layers, for a disk whose present layers are unknown.
    fn unknown(want: &Want) -> Self {
        Self { below: want.below.clone(), copies: want.copies.clone(), is_complete: false }
    }

    /// Adds the previous layers, which count as long as not all are found.
    fn or_previous(self, want: &Want) -> Self {
        if self.is_complete {
            return self;
        }
        let below = union(&want.below, self.below);
        Self { below, copies: union(&want.copies, self.copies), is_complete: false }
    }

    /// Returns the layers if they have changed.
    fn renewed(self, want: &Want) -> Option<Renewed> {
        let Self { below, copies, .. } = self;
        let is_new = below != want.below || copies != want.copies;
        is_new.then_some(Renewed { below, copies })
    }

    /// Searches the wanted disks for a copy that was not found. A copy that matches is added to the
    /// layers below the locked disk. Returns the index of the first disk that may be the copy.
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
            // A file always matches itself, so its own layers are no copies.
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
    let device = |path: &PathBuf| match remote_mount(mounts, path) {
        Some(mount) => Some(mount.dev),
        // The layer or a directory in it may have another name by now.
        None => path.ancestors().skip(1).find_map(|directory| {
            let directory = open::locate(directory, Links::Follow).ok()?;
            Some(fstat(&directory).ok()?.st_dev)
        }),
    };
    copies.iter().filter_map(device).collect()
}

/// Returns `first`, with those of `others` that it does not contain.
fn union<T: Clone + PartialEq>(first: &[T], others: Vec<T>) -> Vec<T> {
    let mut all = first.to_vec();
    for other in others {
        if !all.contains(&other) {
            all.push(other);
        }
    }
    all
}

fn current_of_device(want: &Want, host: &Snapshot) -> Option<Current> {
    let Identity::Block { dev, .. } = want.identity else { return None };
    let sysfs = host.sysfs();
    // Without a sequence number, a device that is set up again can be detected only by a query on
    // each call.
    if [0, UNKNOWN_SEQUENCE].contains(&sysfs.disk_sequence(dev)) {
        return None;
    }
    let Ok(stack) = Stack::below(want.identity, "", sysfs) else {
        return Some(Current::unknown(want));
    };
    // A detached device lies on nothing, but a program that has it open may still write to its
    // former file.
    if stack.below.is_empty() {
        return None;
    }
    let devices = stack.devices(want.identity, sysfs);
    let is_complete = stack.unknown.is_none() && devices.unknown.is_none();
    let below = [stack.below, devices.extents].concat();
    let copies = union(&stack.copies, devices.copies);
    Some(Current { below, copies, is_complete }.or_previous(want))
}

/// Opens the locked file by its path.
fn locked_file(want: &Want, mounts: &Mounts) -> Option<OwnedFd> {
    let file = locate_local(want.path.as_deref()?, mounts)?;
    (Identity::of_open(&file) == Some(want.identity)).then_some(file)
}

/// Opens the file that a path leads to, unless that may not respond.
fn locate_local(path: &Path, mounts: &Mounts) -> Option<OwnedFd> {
    let is_local = remote_mount(mounts, path).is_none();
    is_local.then(|| open::locate(path, Links::Follow).ok()).flatten()
}

/// A descriptor opened before still refers to the file of the lower layer, so that one is kept.
fn current_of_file(
    want: &Want,
    file: Option<BorrowedFd<'_>>,
    mounts: &Mounts,
    sysfs: &Sysfs,
) -> Current {
    // Once the file is copied to a remote layer, the file itself may not respond.
    if want.copies.iter().any(|copy| remote_mount(mounts, copy).is_some()) {
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
        // Only the names are known; they may lead to other files by now.
        let named = want.copies.iter().filter_map(|path| locate_local(path, mounts));
        found.below = named.filter_map(Identity::of_open).map(Extent::whole).collect();
        found.is_complete = false;
    }
    let below = union(&want.below, found.below);
    let files = [want.identity].into_iter().chain(below.iter().map(|extent| extent.identity));
    let devices = devices_of(files, sysfs);
    let is_complete = found.is_complete && devices.unknown.is_none();
    let copies = union(&found.copies, devices.copies);
    let below = union(&below, devices.extents);
    Current { below, copies, is_complete }.or_previous(want)
}

/// Whether a file may be on an overlay according to its device number: those of mounts of other
/// namespaces, and of lower layers, are unknown.
fn may_be_on_overlay(file: Identity, mounts: &Mounts) -> bool {
    let Identity::Inode { dev, .. } = file else { return false };
    let mount = mounts.iter().find(|mount| mount.dev == dev);
    major(dev) == 0 && mount.is_none_or(|mount| mount.kind == "overlay")
}
