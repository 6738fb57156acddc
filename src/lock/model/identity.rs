//! What a resource really is, whatever name it came by.

use std::fmt;
use std::os::fd::AsFd;

use nix::sys::stat::{FileStat, SFlag, major, minor};
use rustix::fs::{AtFlags, FileType, StatxFlags, makedev, statx};

use crate::lock::disk::sysfs::{Sysfs, UNKNOWN_SEQUENCE};

/// What two names must share to be one resource.
///
/// Lock files know names or inodes; this is what the table compares, so that a symlink, a hard
/// link, a bind mount or a second device node meets the lock taken through another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// A regular file.
    Inode {
        /// `st_dev` of the file.
        dev: u64,
        /// `st_ino` of the file; unique on that device only.
        ino: u64,
    },
    /// A block device, whatever node it was opened through: the kernel's own lock sits on the
    /// node's inode, so two nodes of one device do not meet there.
    Block {
        /// `st_rdev` of the node.
        dev: u64,
        /// The kernel's disk sequence number (Linux 5.15 and later, else 0), which tells a device
        /// from an earlier one that had the same number.
        seq: u64,
    },
    /// A key in a lockspace: no disk that this host could know.
    Key {
        /// `st_dev` of the lockspace's directory.
        dev: u64,
        /// `st_ino` of the directory.
        ino: u64,
        /// The beginning of the SHA-256 of the key.
        key: u64,
    },
}

impl Identity {
    /// The identity of what a descriptor has open, as far as this host knows without asking the
    /// file system, which may be dead.
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

    /// The identity of a regular file or block device; `None` for anything else.
    #[must_use]
    pub fn of(stat: &FileStat) -> Option<Self> {
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => Some(Self::Inode { dev: stat.st_dev, ino: stat.st_ino }),
            SFlag::S_IFBLK => Some(Self::device(stat.st_rdev, &Sysfs::default())),
            _ => None,
        }
    }

    /// Whether it is that of a block device whose disk sequence number cannot be read: it is equal to no
    /// other identity of the device.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Block { seq: UNKNOWN_SEQUENCE, .. })
    }

    /// The identity of a block device, by its number.
    #[must_use]
    pub fn device(dev: u64, sysfs: &Sysfs) -> Self {
        Self::Block { dev, seq: sysfs.disk_sequence(dev) }
    }
}

impl fmt::Display for Identity {
    /// `inode:fe:00:10085382`, spelt as in `/proc/locks`, `block:7:0:12`, or
    /// `key:fe:00:10085382:78ed52ac4f5cb86b`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Inode { dev, ino } => {
                write!(f, "inode:{:02x}:{:02x}:{ino}", major(dev), minor(dev))
            }
            Self::Block { dev, seq } => write!(f, "block:{}:{}:{seq}", major(dev), minor(dev)),
            Self::Key { dev, ino, key } => {
                write!(f, "key:{:02x}:{:02x}:{ino}:{key:016x}", major(dev), minor(dev))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_looking_see_the_same() {
        let file = tempfile::tempfile().unwrap();
        let stat = nix::sys::stat::fstat(&file).unwrap();
        assert!(Identity::of(&stat).is_some());
        assert_eq!(Identity::of_open(&file), Identity::of(&stat));
        assert_eq!(Identity::of_open(std::fs::File::open("/dev/null").unwrap()), None);
    }
}
