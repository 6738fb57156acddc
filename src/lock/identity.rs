//! What a resource really is, whatever name it came by.

use std::fmt;
use std::fs;

use nix::sys::stat::{FileStat, SFlag, major, minor};

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
}

impl Identity {
    /// The identity of a regular file or block device; `None` for anything else.
    #[must_use]
    pub fn of(stat: &FileStat) -> Option<Self> {
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => Some(Self::Inode { dev: stat.st_dev, ino: stat.st_ino }),
            SFlag::S_IFBLK => {
                Some(Self::Block { dev: stat.st_rdev, seq: disk_sequence(stat.st_rdev) })
            }
            _ => None,
        }
    }
}

/// The sequence number of a disk, from sysfs; a partition has that of its disk.
///
/// Not every device has one (the file came with Linux 5.15): then 0, and the device number alone
/// decides.
fn disk_sequence(dev: u64) -> u64 {
    let folder = format!("/sys/dev/block/{}:{}", major(dev), minor(dev));
    [format!("{folder}/diskseq"), format!("{folder}/../diskseq")]
        .iter()
        .find_map(|file| fs::read_to_string(file).ok())
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

impl fmt::Display for Identity {
    /// `inode:fe:00:10085382`, spelt as in `/proc/locks`, or `block:7:0:12`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Inode { dev, ino } => {
                write!(f, "inode:{:02x}:{:02x}:{ino}", major(dev), minor(dev))
            }
            Self::Block { dev, seq } => write!(f, "block:{}:{}:{seq}", major(dev), minor(dev)),
        }
    }
}
