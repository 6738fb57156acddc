//! Types of file systems, by the magic number that `fstatfs(2)` reports.
//!
//! The numbers are those of <linux/magic.h>, and of the sources of file systems that it lacks.
//! rustix has only two of them.

use std::os::fd::AsFd;

use rustix::fs::{FsWord, NFS_SUPER_MAGIC, PROC_SUPER_MAGIC, fstatfs};
use rustix::io::Errno;

/// The type of a file system: its magic number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsType(pub FsWord);

impl FsType {
    pub(in crate::lock) const FUSE: Self = Self(0x6573_5546);
    pub(in crate::lock) const NFS: Self = Self(NFS_SUPER_MAGIC);
    pub(in crate::lock) const OVERLAY: Self = Self(0x794c_7630);
    pub(in crate::lock) const PROC: Self = Self(PROC_SUPER_MAGIC);
    /// AppArmor's own file system, which has magic links, too.
    pub(in crate::lock) const APPARMOR: Self = Self(0x5a3c_69f0);

    /// Returns the type of the file system of an open file.
    ///
    /// # Errors
    ///
    /// Errors of `fstatfs(2)`.
    pub(in crate::lock) fn of(fd: impl AsFd) -> Result<Self, Errno> {
        Ok(Self(fstatfs(fd)?.f_type))
    }

    /// Whether this host's kernel alone serves it, and it lies on no other file system.
    #[must_use]
    pub(in crate::lock) fn is_local(self) -> bool {
        const LOCAL: [FsWord; 16] = [
            0xef53,      // ext2, ext3, ext4
            0x5846_5342, // xfs
            0x9123_683e, // btrfs
            0x0102_1994, // tmpfs
            0xf2f5_2010, // f2fs
            0x9660,      // iso9660
            0x4d44,      // vfat
            0x5265_4973, // reiserfs
            0x9584_58f6, // hugetlbfs
            0x2fc1_2fc1, // zfs
            0xca45_1a4e, // bcachefs
            0x3153_464a, // jfs
            0x7366_746e, // ntfs3
            0x2011_bab0, // exfat
            0x7371_7368, // squashfs
            0x8584_58f6, // ramfs
        ];
        LOCAL.contains(&self.0)
    }

    /// Whether closing a file of this file system may block for ever and uninterruptibly.
    ///
    /// FUSE sends a request to its server on each close. Other file systems with a server write
    /// back dirty data. Local ones do neither, and a process that waits for NFS can be killed
    /// (`nfs(5)`, on `intr`). An unknown file system may do anything.
    #[must_use]
    pub(in crate::lock) fn may_hang(self) -> bool {
        !self.is_local() && ![Self::OVERLAY, Self::NFS].contains(&self)
    }

    /// Whether other hosts may access its files as well. An overlay belongs to this host alone,
    /// whatever its layers are on.
    #[must_use]
    pub(in crate::lock) fn may_be_shared(self) -> bool {
        !self.is_local() && self != Self::OVERLAY
    }

    /// Whether a file that is reached through a mount of another process may be on FUSE without
    /// showing it: any user can mount an overlay over its own FUSE in a namespace of its own.
    #[must_use]
    pub(in crate::lock) fn may_hide_fuse(self) -> bool {
        self == Self::OVERLAY || self.may_hang()
    }

    /// Returns the name of a file system whose content the kernel generates: it contains no disks,
    /// and opening some of its files for writing has effects.
    #[must_use]
    pub(in crate::lock) fn artificial_name(self) -> Option<&'static str> {
        const ARTIFICIAL: [(FsWord, &str); 17] = [
            (PROC_SUPER_MAGIC, "proc"),
            (0x6265_6572, "sysfs"),
            (0x6462_6720, "debugfs"),
            (0x7472_6163, "tracefs"),
            (0x7363_6673, "securityfs"),
            (0x0027_e0eb, "a cgroup file system"),
            (0x6367_7270, "a cgroup file system"),
            (0x1cd1, "devpts"),
            (0xcafe_4a11, "bpffs"),
            (0x6e73_6673, "nsfs"),
            (0x6265_6570, "configfs"),
            (0xf97c_ff8c, "selinuxfs"),
            (0xde5e_81e4, "efivarfs"),
            (0x5049_4446, "pidfs"),
            (0x6165_676c, "pstore"),
            (0x4249_4e4d, "binfmt_misc"),
            (0x1980_0202, "mqueue"),
        ];
        ARTIFICIAL.into_iter().find_map(|(magic, name)| (magic == self.0).then_some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::statfs as nix;

    #[test]
    fn magic_numbers_are_those_of_the_kernel() {
        let of = |kind: nix::FsType| FsType(kind.0);
        for kind in [
            nix::EXT4_SUPER_MAGIC,
            nix::XFS_SUPER_MAGIC,
            nix::BTRFS_SUPER_MAGIC,
            nix::TMPFS_MAGIC,
            nix::F2FS_SUPER_MAGIC,
            nix::ISOFS_SUPER_MAGIC,
            nix::MSDOS_SUPER_MAGIC,
            nix::REISERFS_SUPER_MAGIC,
            nix::HUGETLBFS_MAGIC,
        ] {
            assert!(of(kind).is_local(), "{kind:?}");
        }
        for (kind, name) in [
            (nix::PROC_SUPER_MAGIC, "proc"),
            (nix::SYSFS_MAGIC, "sysfs"),
            (nix::DEBUGFS_MAGIC, "debugfs"),
            (nix::TRACEFS_MAGIC, "tracefs"),
            (nix::SECURITYFS_MAGIC, "securityfs"),
            (nix::CGROUP_SUPER_MAGIC, "a cgroup file system"),
            (nix::CGROUP2_SUPER_MAGIC, "a cgroup file system"),
            (nix::DEVPTS_SUPER_MAGIC, "devpts"),
            (nix::BPF_FS_MAGIC, "bpffs"),
            (nix::NSFS_MAGIC, "nsfs"),
        ] {
            assert_eq!(of(kind).artificial_name(), Some(name));
        }
        assert_eq!(of(nix::FUSE_SUPER_MAGIC), FsType::FUSE);
        assert_eq!(of(nix::NFS_SUPER_MAGIC), FsType::NFS);
        assert_eq!(of(nix::OVERLAYFS_SUPER_MAGIC), FsType::OVERLAY);
    }
}
