//! Which lockspace serves a resource.

use std::borrow::Cow;

/// The kind of a lockspace, without its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockspaceKind {
    /// The disk is its own lock file.
    Direct,
    /// A directory of hashed names.
    File,
    /// A directory of the UUIDs of logical volumes.
    Lvm,
    /// A directory of the ids of SCSI disks.
    Scsi,
    /// A directory of keys, by its number.
    Lease(u32),
}

impl LockspaceKind {
    /// The prefix of the names of leases' lockspaces; the number follows.
    const LEASE: &str = "lease_";

    /// The kinds of which there is at most one lockspace each, by configuration.
    pub const CONFIGURED: [Self; 3] = [Self::File, Self::Lvm, Self::Scsi];

    /// Returns the last component of its object path.
    #[must_use]
    pub fn name(self) -> Cow<'static, str> {
        match self {
            Self::Direct => "direct".into(),
            Self::File => "file".into(),
            Self::Lvm => "lvm".into(),
            Self::Scsi => "scsi".into(),
            Self::Lease(number) => format!("{}{number}", Self::LEASE).into(),
        }
    }

    /// Returns the kind with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "direct" => Some(Self::Direct),
            "file" => Some(Self::File),
            "lvm" => Some(Self::Lvm),
            "scsi" => Some(Self::Scsi),
            name => name.strip_prefix(Self::LEASE)?.parse().ok().map(Self::Lease),
        }
    }

    /// Whether its directory comes from the configuration.
    #[must_use]
    pub fn is_configured(self) -> bool {
        Self::CONFIGURED.contains(&self)
    }

    /// Whether its lock files are separate files beside the disks.
    #[must_use]
    pub fn has_files(self) -> bool {
        self != Self::Direct
    }
}
