//! The identities of open files and of devices, for which the disk sequence number is read.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Stat, StatxFlags, makedev, statx};

use super::Sysfs;
use crate::lock::model::identity::Identity;

impl Identity {
    /// Returns the identity of an open file, without a query to its file system, which may be dead.
    #[must_use]
    pub fn of_open(fd: impl AsFd) -> Option<Self> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let seen = statx(fd, "", flags, StatxFlags::BASIC_STATS).ok()?;
        match FileType::from_raw_mode(seen.stx_mode.into()) {
            FileType::RegularFile => {
                let dev = makedev(seen.stx_dev_major, seen.stx_dev_minor);
                Some(Self::Inode { dev, ino: seen.stx_ino })
            }
            FileType::BlockDevice => {
                let dev = makedev(seen.stx_rdev_major, seen.stx_rdev_minor);
                Some(Self::device(dev, &Sysfs::default()))
            }
            _ => None,
        }
    }

    /// Returns the identity of a regular file or block device; `None` for any other type.
    #[must_use]
    pub fn of(stat: &Stat) -> Option<Self> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Some(Self::Inode { dev: stat.st_dev, ino: stat.st_ino }),
            FileType::BlockDevice => Some(Self::device(stat.st_rdev, &Sysfs::default())),
            _ => None,
        }
    }

    /// Returns the identity of a block device, by its number.
    #[must_use]
    pub fn device(dev: u64, sysfs: &Sysfs) -> Self {
        Self::Block { dev, seq: sysfs.disk_sequence(dev) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_open_agrees_with_of() {
        let file = tempfile::tempfile().unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        assert!(Identity::of(&stat).is_some());
        assert_eq!(Identity::of_open(&file), Identity::of(&stat));
        assert_eq!(Identity::of_open(std::fs::File::open("/dev/null").unwrap()), None);
    }
}
