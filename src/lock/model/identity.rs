//! The identity of a resource, which is independent of its name.

use std::fmt;
use std::os::fd::AsFd;

use nix::sys::stat::{FileStat, SFlag, major, minor};
use rustix::fs::{AtFlags, FileType, StatxFlags, makedev, statx};

use crate::lock::disk::sysfs::{Sysfs, UNKNOWN_SEQUENCE};

/// The properties that are equal for two names of one resource.
///
/// Lock files are found by names or inodes. The table compares identities, so that a request
/// through a symlink, a hard link, a bind mount or a second device node conflicts with a lock that
/// was acquired through another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// A regular file.
    Inode {
        /// `st_dev` of the file.
        dev: u64,
        /// `st_ino` of the file; unique on that device only.
        ino: u64,
    },
    /// A block device, independent of the node it was opened through. The kernel's own lock is on
    /// the node's inode, so locks through two nodes of one device do not conflict there.
    Block {
        /// `st_rdev` of the node.
        dev: u64,
        /// The kernel's disk sequence number (Linux 5.15 and later, otherwise 0), which
        /// distinguishes a device from an earlier one with the same number.
        seq: u64,
    },
    /// A key in a lockspace; no disk.
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
    pub fn of(stat: &FileStat) -> Option<Self> {
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => Some(Self::Inode { dev: stat.st_dev, ino: stat.st_ino }),
            SFlag::S_IFBLK => Some(Self::device(stat.st_rdev, &Sysfs::default())),
            _ => None,
        }
    }

    /// Whether it is a block device whose disk sequence number cannot be read. It differs from
    /// every other identity of the device.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Block { seq: UNKNOWN_SEQUENCE, .. })
    }

    /// Returns the identity of a block device, by its number.
    #[must_use]
    pub fn device(dev: u64, sysfs: &Sysfs) -> Self {
        Self::Block { dev, seq: sysfs.disk_sequence(dev) }
    }
}

impl fmt::Display for Identity {
    /// Formats it as `inode:fe:00:10085382`, with the numbers as in `/proc/locks`, `block:7:0:12`,
    /// or `key:fe:00:10085382:78ed52ac4f5cb86b`.
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
    fn of_open_agrees_with_of() {
        let file = tempfile::tempfile().unwrap();
        let stat = nix::sys::stat::fstat(&file).unwrap();
        assert!(Identity::of(&stat).is_some());
        assert_eq!(Identity::of_open(&file), Identity::of(&stat));
        assert_eq!(Identity::of_open(std::fs::File::open("/dev/null").unwrap()), None);
    }
}
