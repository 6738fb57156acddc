//! The layers below a disk that was found: which of them count for a lock, may change, or are
//! unknown.

use std::os::fd::AsFd as _;
use std::path::PathBuf;

use crate::lock::disk::file_system::Devices;
use crate::lock::disk::overlay::Unknown;
use crate::lock::disk::stack::Stack;
use crate::lock::model::error::Error;
use crate::lock::model::extent::Extent;
use crate::lock::model::identity::Identity;
use crate::lock::model::mode::Mode;
use crate::lock::resolve::Target;
use crate::lock::sysfs::Sysfs;

impl Target {
    /// Whether the layers below it are the same as when it was found: a loop device may have been
    /// set up again, or with another range, and an image on an overlay may have been copied up.
    ///
    /// # Errors
    ///
    /// [`Error::NotLockable`] if they are unknown.
    pub fn lies_as_found(&self) -> Result<bool, Error> {
        let (pin, sysfs) = (self.pin.as_fd(), Sysfs::default().once());
        if Stack::of((pin, Some(self.fs_type)), self.identity, &self.name, &sysfs)? != self.stack {
            return Ok(false);
        }
        let devices = &self.devices;
        Ok(!devices.may_change() || self.stack.devices(self.identity, &sysfs) == *devices)
    }

    /// Returns the same disk without the devices below its file system, for a lock that the service
    /// held before it was restarted: the entry of that lock in the state file has these devices.
    pub(in crate::lock) fn without_devices(self) -> Self {
        Self { devices: Devices::default(), ..self }
    }

    /// Returns the parts of other files and devices that it occupies now.
    #[must_use]
    pub fn occupies(&self) -> Vec<Extent> {
        [&self.stack.below[..], &self.stack.lower, &self.devices.extents].concat()
    }

    /// Returns the layers below it while it is locked in a mode. An exclusive lock copies a file of
    /// an overlay up, if there is an upper layer.
    pub(in crate::lock) fn below(&self, mode: Mode) -> Vec<Extent> {
        let Stack { below, lower, copies, .. } = &self.stack;
        let stays = mode == Mode::Shared || (mode == Mode::Exclusive && copies.is_empty());
        [&below[..], if stays { lower } else { &[] }].concat()
    }

    /// Whether opening it for writing may copy it, or its data, to the upper layer of its overlay.
    pub(in crate::lock) fn may_be_copied_up(&self) -> bool {
        let Stack { lower, unknown, .. } = &self.stack;
        let is_file = matches!(self.identity, Identity::Inode { .. });
        is_file && (!lower.is_empty() || unknown.is_some())
    }

    /// Whether a lock in this mode opens it for writing and so copies it up.
    pub(in crate::lock) fn is_copied_up(&self, mode: Mode) -> bool {
        mode == Mode::Exclusive && self.may_be_copied_up() && !self.stack.copies.is_empty()
    }

    /// Refuses a disk if the devices below its file system are unknown.
    ///
    /// # Errors
    ///
    /// [`Error::NotLockable`].
    pub(in crate::lock) fn refuse_unknown_devices(&self) -> Result<(), Error> {
        match &self.devices.unknown {
            None => Ok(()),
            Some(why) => Err(Error::not_lockable(&self.name, why)),
        }
    }

    /// Refuses a disk if the layers below it are unknown.
    ///
    /// # Errors
    ///
    /// [`Error::NotLockable`].
    pub(in crate::lock) fn refuse_unknown(&self, mode: Mode) -> Result<(), Error> {
        self.refuse_unknown_devices()?;
        match self.stack.unknown {
            None => Ok(()),
            // It was opened for writing, and its data copied up with it.
            Some(Unknown::Metacopy) if self.is_copied_up(mode) && self.stack.lower.is_empty() => {
                Ok(())
            }
            Some(unknown) => Err(Error::not_lockable(&self.name, unknown.to_string())),
        }
    }

    /// Returns the paths of future copies while it is locked in a mode. A file that is locked
    /// exclusively is copied up already.
    pub(in crate::lock) fn copies(&self, mode: Mode) -> Vec<PathBuf> {
        let is_file = matches!(self.identity, Identity::Inode { .. });
        let own: &[PathBuf] = match mode {
            Mode::None => return Vec::new(),
            Mode::Exclusive if is_file => &[],
            Mode::Exclusive | Mode::Shared => &self.stack.copies,
        };
        [own, &self.devices.copies].concat()
    }
}
