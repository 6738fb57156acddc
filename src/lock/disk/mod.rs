//! The layers below a disk, and whether this host uses the disk itself.
//!
//! [`stack`] is the first file to read: partitions, volumes, loop devices and files, down to the
//! hardware. It reads [`sysfs`](super::sysfs), [`loop_device`], [`file_system`], [`overlay`] and [`swaps`];
//! [`snapshot`] describes what must be read again, and when. [`in_use`] finds out whether a disk is
//! mounted, swapped to or a part of another device.

pub(super) mod backing;
pub(super) mod file_system;
pub mod in_use;
pub mod loop_device;
pub(super) mod overlay;
pub mod snapshot;
pub(super) mod stack;
pub(super) mod swaps;
