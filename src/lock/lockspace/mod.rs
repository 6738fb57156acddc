//! From a resource to the file whose byte is locked.
//!
//! Directly the disk itself; or a file in a directory that hosts share, named by the UUID of a logical
//! volume, the id of a SCSI disk, or the SHA-256 of the disk's path, as libvirt's lockd plugin names it
//! (`src/locking/lock_driver_lockd.c`), so that virtlockd and vmlockd on different hosts meet. Which
//! of them it is for a disk, [`crate::lock::resolve::lock_file`] tells.

pub mod directory;
pub mod key;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::lock::holder_record::record::Recording;
use crate::lock::model::host::Host;
use crate::lock::request::Asked;

pub use crate::lock::lockspace::directory::Directory;

/// The rules in force: which lockspace serves which resource.
#[derive(Debug, Clone, Default)]
pub struct Lockspaces {
    /// Where lock files of disks are; `None`: the disks themselves are locked.
    pub file: Option<Arc<Directory>>,
    /// Where lock files of logical volumes are; `None`: they are disks like any other.
    pub lvm: Option<Arc<Directory>>,
    /// The same for SCSI disks.
    pub scsi: Option<Arc<Directory>>,
    /// This host, as the records of its holders name it; `None` where nothing tells it from others.
    pub host: Option<Arc<Host>>,
    /// Which holders are recorded.
    pub recording: Recording,
}

impl Lockspaces {
    /// Those that are configured, in the order in which a directory is looked for.
    pub fn configured(&self) -> impl Iterator<Item = Lockspace> {
        let file = self.file.clone().map(Lockspace::File);
        let lvm = self.lvm.clone().map(Lockspace::Lvm);
        file.into_iter().chain(lvm).chain(self.scsi.clone().map(Lockspace::Scsi))
    }

    /// Puts another directory in the place of one that is configured.
    pub fn renew(&mut self, kind: LockspaceKind, directory: &Arc<Directory>) {
        let place = match kind {
            LockspaceKind::File => &mut self.file,
            LockspaceKind::Lvm => &mut self.lvm,
            LockspaceKind::Scsi => &mut self.scsi,
            LockspaceKind::Direct | LockspaceKind::Lease(_) => return,
        };
        // Another may have been configured meanwhile.
        if place.as_ref().is_some_and(|there| there.path() == directory.path()) {
            *place = Some(Arc::clone(directory));
        }
    }
}

/// A rule from resource to lock file.
#[derive(Debug, Clone)]
pub enum Lockspace {
    /// The disk is its own lock file.
    Direct,
    /// `<directory>/<SHA-256 of the path>`.
    File(Arc<Directory>),
    /// `<directory>/<UUID of the logical volume>`.
    Lvm(Arc<Directory>),
    /// `<directory>/<id of the SCSI disk>`.
    Scsi(Arc<Directory>),
    /// `<directory>/<key>`, one of several, numbered.
    Lease(u32, Arc<Directory>),
}

impl Lockspace {
    /// Its name on the bus.
    #[must_use]
    pub fn kind(&self) -> LockspaceKind {
        match self {
            Self::Direct => LockspaceKind::Direct,
            Self::File(_) => LockspaceKind::File,
            Self::Lvm(_) => LockspaceKind::Lvm,
            Self::Scsi(_) => LockspaceKind::Scsi,
            Self::Lease(number, _) => LockspaceKind::Lease(*number),
        }
    }

    /// What has to be asked about its lock files.
    #[must_use]
    pub fn asks(&self) -> Option<Asked<'_>> {
        self.directory().map(|directory| Asked::path(directory.path()))
    }

    /// Where its lock files are; `None` where the disks are their own.
    #[must_use]
    pub fn directory(&self) -> Option<&Arc<Directory>> {
        match self {
            Self::Direct => None,
            Self::File(directory)
            | Self::Lvm(directory)
            | Self::Scsi(directory)
            | Self::Lease(_, directory) => Some(directory),
        }
    }
}

/// Which of the lockspaces, without what it needs to work.
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
    /// How the names of the numbered ones begin.
    const LEASE: &str = "lease_";

    /// Those of which there is one each, where it is configured.
    pub const CONFIGURED: [Self; 3] = [Self::File, Self::Lvm, Self::Scsi];

    /// The one of this kind in a directory.
    #[must_use]
    pub fn lockspace(self, directory: Arc<Directory>) -> Lockspace {
        match self {
            Self::Direct => Lockspace::Direct,
            Self::File => Lockspace::File(directory),
            Self::Lvm => Lockspace::Lvm(directory),
            Self::Scsi => Lockspace::Scsi(directory),
            Self::Lease(number) => Lockspace::Lease(number, directory),
        }
    }

    /// The last part of its object path.
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

    /// The one of that name.
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

    /// Whether it is the configuration that names it.
    #[must_use]
    pub fn is_configured(self) -> bool {
        Self::CONFIGURED.contains(&self)
    }

    /// Whether its lock files are files of their own, beside the disks.
    #[must_use]
    pub fn has_files(self) -> bool {
        self != Self::Direct
    }
}

/// The name of a path's lock file: its SHA-256 in lower-case hex.
#[must_use]
pub fn hashed_name(path: &Path) -> String {
    let digest = Sha256::digest(path.as_os_str().as_bytes());
    digest.iter().fold(String::with_capacity(64), |mut name, byte| {
        // Writing to a String has no way to fail.
        let _ = write!(name, "{byte:02x}");
        name
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_libvirts() {
        assert_eq!(
            hashed_name(Path::new("/var/lib/libvirt/images/web1.qcow2")),
            // printf %s PATH | sha256sum
            "78ed52ac4f5cb86b69df6dba9d9ecdecde4cc8e36b25727d7208f4bd21ec796b"
        );
    }

    #[test]
    fn kinds_have_names() {
        let others = [LockspaceKind::Direct, LockspaceKind::Lease(3)];
        for kind in LockspaceKind::CONFIGURED.into_iter().chain(others) {
            assert_eq!(LockspaceKind::named(&kind.name()), Some(kind));
            let directory = Arc::new(Directory::unopened(Path::new("/none")));
            assert_eq!(kind.lockspace(directory).kind(), kind);
        }
        assert_eq!(LockspaceKind::named("lease"), None);
    }
}
