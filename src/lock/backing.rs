//! What a loop device is set up on, and what that lies on: its file may be one of an overlay.
//!
//! The kernel tells device and inode of the file, and gives no descriptor of it. The name in
//! `loop/backing_file` of `sysfs(5)` is a hint, which is followed and compared. Where it leads elsewhere,
//! the device tells whether the file may be on an overlay at all.

use std::os::fd::AsFd as _;
use std::path::PathBuf;

use nix::sys::stat::major;

use super::extent::Extent;
use super::identity::Identity;
use super::loop_device;
use super::mount::Mounts;
use super::open::{self, Links};
use super::overlay::{self, Unknown};
use super::sysfs::Sysfs;
use super::way::far_mount;

/// What a loop device is set up on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Backing {
    /// The range of its file or device that it occupies, and the same range of the files behind that.
    pub(super) extents: Vec<Extent>,
    /// The paths at which upper layers will have the file once it is copied up.
    pub(super) copies: Vec<PathBuf>,
    /// Why a file may be missing.
    pub(super) unknown: Option<Unknown>,
}

/// Returns what a loop device occupies that is set up.
///
/// # Errors
///
/// The cause, where the kernel does not tell it.
pub(super) fn of(dev: u64, sysfs: &Sysfs) -> Result<Backing, String> {
    let extent = loop_device::extent_of(dev, sysfs).map_err(|unknown| unknown.to_string())?;
    let mut backing = Backing { extents: vec![extent], ..Backing::default() };
    // A device that the kernel made up has no major number; an overlay's is one.
    let Some(on) = device_of(extent.identity).filter(|on| major(*on) == 0) else {
        return Ok(backing);
    };
    let mounts = Mounts::current().ok();
    let file = sysfs.backing_name(dev).ok().flatten().filter(|name| {
        // It is asked in another process, as it may not answer.
        mounts.as_ref().is_some_and(|mounts| far_mount(mounts, name).is_none())
    });
    let file = file.and_then(|name| open::locate(&name, Links::Follow).ok());
    if let Some(file) = file.filter(|file| Identity::of_open(file) == Some(extent.identity)) {
        let real = overlay::real(file.as_fd());
        let behind = real.upper.into_iter().chain(real.lower);
        backing.extents.extend(behind.map(|real| Extent { identity: real.identity, ..extent }));
        backing.copies = real.copies;
        backing.unknown = real.unknown;
    } else {
        // Where the mount is of this namespace, its type is known.
        let mounts = mounts.as_ref();
        let mount = mounts.and_then(|mounts| mounts.iter().find(|mount| mount.dev == on));
        let may_be = mount.is_none_or(|mount| mount.kind == "overlay");
        backing.unknown = may_be.then_some(Unknown::Backing);
    }
    Ok(backing)
}

fn device_of(identity: Identity) -> Option<u64> {
    match identity {
        Identity::Inode { dev, .. } => Some(dev),
        Identity::Block { .. } | Identity::Key { .. } => None,
    }
}
