//! The files behind a loop device. Its file may be on an overlay, and then others lie behind that.
//!
//! The kernel reports device and inode of the file, and provides no descriptor of it. The name in
//! `loop/backing_file` of `sysfs(5)` is a hint, which is followed and compared. If it leads
//! elsewhere, the device number shows whether the file may be on an overlay at all. An unprivileged
//! instance of the service may not open the device, so it has only the name, which the kernel
//! updates when the file is renamed.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::fs::major;
use rustix::io::Errno;

use super::loop_device::{self, Unknown as NoAnswer};
use super::overlay::{self, Unknown};
use crate::lock::model::extent::Extent;
use crate::lock::model::identity::Identity;
use crate::lock::mount::Mounts;
use crate::lock::path::open::{self, Links};
use crate::lock::path::walk::remote_mount;
use crate::lock::sysfs::Sysfs;

/// The files behind a loop device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::lock) struct Backing {
    /// The range that the device occupies of its file or device, and the same range of the files
    /// behind that.
    pub(in crate::lock) extents: Vec<Extent>,
    /// The paths at which upper layers will have the file once it is copied up.
    pub(in crate::lock) copies: Vec<PathBuf>,
    /// Why a file may be missing.
    pub(in crate::lock) unknown: Option<Unknown>,
}

/// Returns what a loop device that is set up occupies.
///
/// # Errors
///
/// The cause, if the kernel does not report it.
pub(in crate::lock) fn of(dev: u64, sysfs: &Sysfs) -> Result<Backing, String> {
    let extent = loop_device::extent_of(dev, sysfs);
    let extent = extent.or_else(|unknown| named_extent(dev, sysfs, unknown));
    let extent = extent.map_err(|unknown| unknown.to_string())?;
    let mut backing = Backing { extents: vec![extent], ..Backing::default() };
    // A device number without a device has the major number 0, also that of an overlay.
    let Some(on) = device_of(extent.identity).filter(|on| major(*on) == 0) else {
        return Ok(backing);
    };
    let mounts = Mounts::current().ok();
    let file = mounts.as_ref().and_then(|mounts| named_file(dev, sysfs, mounts));
    if let Some(file) = file.filter(|file| Identity::of_open(file) == Some(extent.identity)) {
        let real = overlay::real(file.as_fd());
        let behind = real.upper.into_iter().chain(real.lower);
        backing.extents.extend(behind.map(|real| Extent { identity: real.identity, ..extent }));
        backing.copies = real.copies;
        backing.unknown = real.unknown;
    } else {
        // If the mount is in this namespace, its type is known.
        let mounts = mounts.as_ref();
        let mount = mounts.and_then(|mounts| mounts.iter().find(|mount| mount.dev == on));
        let may_be = mount.is_none_or(|mount| mount.kind == "overlay");
        backing.unknown = may_be.then_some(Unknown::Backing);
    }
    Ok(backing)
}

/// Opens the file that the name of a loop device's file leads to, unless that may not respond.
fn named_file(dev: u64, sysfs: &Sysfs, mounts: &Mounts) -> Option<OwnedFd> {
    let name = sysfs.backing_name(dev).ok()??;
    let is_local = remote_mount(mounts, &name).is_none();
    is_local.then(|| open::locate(&name, Links::Follow).ok()).flatten()
}

/// Returns what a loop device occupies according to the name of its file, for a process that has no
/// permission to query the device.
fn named_extent(dev: u64, sysfs: &Sysfs, why: NoAnswer) -> Result<Extent, NoAnswer> {
    if !matches!(why, NoAnswer::Refused(Errno::ACCESS | Errno::PERM)) {
        return Err(why);
    }
    let mounts = Mounts::current().map_err(|_| why)?;
    let file = named_file(dev, sysfs, &mounts).and_then(Identity::of_open).ok_or(why)?;
    loop_device::extent(dev, file, sysfs)
}

fn device_of(identity: Identity) -> Option<u64> {
    match identity {
        Identity::Inode { dev, .. } => Some(dev),
        Identity::Block { .. } | Identity::Key { .. } => None,
    }
}
