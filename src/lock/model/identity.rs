//! The identity of a resource, which is independent of its name.

use std::fmt;

use rustix::fs::{major, minor};

/// The sequence number that stands for one that cannot be read: it is no device's.
pub const UNKNOWN_SEQUENCE: u64 = u64::MAX;

/// The major number of loop devices and of their partitions (`Documentation/admin-guide/devices.txt`
/// of the kernel).
const LOOP_MAJOR: u32 = 7;

/// Whether a device number is that of a loop device, or of a part of one.
#[must_use]
pub(in crate::lock) fn is_loop(dev: u64) -> bool {
    major(dev) == LOOP_MAJOR
}

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
    /// Whether it is a block device whose disk sequence number cannot be read. It differs from
    /// every other identity of the device.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Block { seq: UNKNOWN_SEQUENCE, .. })
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
