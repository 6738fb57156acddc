//! The state of the block devices of this host, its loop devices, mounts and swap areas, read once
//! for all checks of one attempt to grant locks.
//!
//! An attempt takes three snapshots:
//!
//! 1. *The lookup* of its disks: the layers below each. The table compares these.
//! 2. *The grant*: the layers that are by now below the disks that are locked already
//!    ([`renewal`](crate::lock::resolve::renewal)), and whether the host uses one of the new disks
//!    itself ([`in_use`](super::in_use)). This is read again, since a loop device can be set up, or
//!    be given another range, between the lookup and the grant, and a waiting request is granted
//!    long after its lookup.
//! 3. *After the byte is locked*: whether the layers below the disk are the same as at the lookup
//!    (`Target::lies_as_found`). This is read again for the same reason: what the table compared
//!    must be what was locked. For a regular file of a local file system no file of sysfs is read.
//!
//! A snapshot reads everything on the first request for it, and may be used for [`FRESH`] only. It
//! does not show what the host does between the snapshot and the lock; no system call does both at
//! once.
//!
//! Only the following is cached beyond one snapshot:
//!
//! - The lists of mounts and swap areas, since the kernel reports when they change
//!   ([`polled`](crate::lock::mount::polled)).
//! - The file that a loop device is set up on ([`loop_device`]), for as long as
//!   the device has the same disk sequence number, which is read each time. The kernel gives it
//!   another one whenever it sets a file up, also by `LOOP_CHANGE_FD`. There is no cheaper
//!   notification: several releases before Linux 6.15 send no uevent for a loop device that
//!   `LOOP_CONFIGURE` has set up, so `/sys/kernel/uevent_seqnum` does not change either. Offset and
//!   size limit change without a notification, and are read whenever they matter.
//! - The layers below the device of a mounted file system ([`file_system`](super::file_system)),
//!   for some seconds: while it is mounted, the kernel gives its number to no other device and
//!   deletes no partition that is in use. A volume can be moved.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::loop_device::{self, LoopDevice};
use super::swaps::Swaps;
use crate::lock::mount::Mounts;
use crate::lock::sysfs::Sysfs;

/// How long a snapshot may be used.
const FRESH: Duration = Duration::from_millis(100);

/// Opens the lists of mounts and swap areas, so that the number of open descriptors of this process
/// does not depend on later requests. A list that cannot be read is opened again then.
pub fn open_lists() {
    let _ = (Mounts::current(), Swaps::current());
}

/// The state of the devices of this host, each part read on the first request for it.
#[derive(Debug)]
pub struct Snapshot {
    since: Instant,
    sysfs: Sysfs,
    loops: OnceLock<Vec<LoopDevice>>,
    mounts: OnceLock<Arc<Mounts>>,
    swaps: OnceLock<Arc<Swaps>>,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self::of(&Sysfs::default())
    }
}

impl Snapshot {
    /// Returns a snapshot of this sysfs.
    pub(in crate::lock) fn of(sysfs: &Sysfs) -> Self {
        Self {
            since: Instant::now(),
            sysfs: sysfs.once(),
            loops: OnceLock::new(),
            mounts: OnceLock::new(),
            swaps: OnceLock::new(),
        }
    }

    /// Begins a new snapshot if this one is too old to be used.
    pub fn refresh(&mut self) {
        if self.since.elapsed() >= FRESH {
            *self = Self::default();
        }
    }

    /// Returns sysfs, each file of which is read at most once.
    pub(in crate::lock) fn sysfs(&self) -> &Sysfs {
        &self.sysfs
    }

    /// Returns the loop devices that are set up.
    pub(in crate::lock) fn loops(&self) -> &[LoopDevice] {
        self.loops.get_or_init(|| loop_device::all(&self.sysfs))
    }

    /// Returns the mounts.
    ///
    /// # Errors
    ///
    /// If the list cannot be read.
    pub(in crate::lock) fn mounts(&self) -> io::Result<&Mounts> {
        if let Some(mounts) = self.mounts.get() {
            return Ok(mounts);
        }
        let current = Mounts::current()?;
        Ok(self.mounts.get_or_init(|| current))
    }

    /// Returns the swap areas of the host; none if they are unknown.
    pub(in crate::lock) fn swaps(&self) -> &Swaps {
        self.swaps.get_or_init(|| Swaps::current().unwrap_or_default())
    }

    /// Returns the same snapshot with other mounts and swap areas.
    #[cfg(test)]
    pub(in crate::lock) fn with(self, mounts: &[u8], swaps: &[u8]) -> Self {
        let mounts = OnceLock::from(Arc::new(Mounts::parse(mounts)));
        let swaps = OnceLock::from(Arc::new(Swaps::parse(swaps)));
        Self { mounts, swaps, ..self }
    }
}

#[cfg(test)]
mod tests;
