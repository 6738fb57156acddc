//! Lockspaces: they map a resource to the file whose byte is locked.
//!
//! That file is the disk itself; or a file in a directory that hosts share, named by the UUID of a
//! logical volume, the id of a SCSI disk, or the SHA-256 of the disk's path. libvirt's lockd plugin
//! uses the same names (`src/locking/lock_driver_lockd.c`), so that locks of virtlockd and vmlockd
//! on different hosts conflict. [`crate::lock::resolve::lock_file`] selects one of these for a
//! disk.

pub mod directory;
pub mod key;
pub(super) mod lock_file;

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::lock::model::host::Host;
use crate::lock::model::recording::Recording;
use crate::lock::request::Asked;

pub use self::directory::Directory;
pub use crate::lock::model::lockspace_kind::LockspaceKind;

/// The configured lockspaces of disks.
#[derive(Debug, Clone, Default)]
pub struct Lockspaces {
    /// The directory of lock files of disks; `None`: the disks themselves are locked.
    pub file: Option<Arc<Directory>>,
    /// The directory of lock files of logical volumes; `None`: they are locked as other disks are.
    pub lvm: Option<Arc<Directory>>,
    /// The directory of lock files of SCSI disks; `None`: they are locked as other disks are.
    pub scsi: Option<Arc<Directory>>,
    /// This host, as holder records name it; `None` if it has no unique id.
    pub host: Option<Arc<Host>>,
    /// The locks for which holder records are written.
    pub recording: Recording,
}

impl Lockspaces {
    /// Returns the configured lockspaces, in the order in which a directory is searched for.
    pub fn configured(&self) -> impl Iterator<Item = Lockspace> {
        let file = self.file.clone().map(Lockspace::File);
        let lvm = self.lvm.clone().map(Lockspace::Lvm);
        file.into_iter().chain(lvm).chain(self.scsi.clone().map(Lockspace::Scsi))
    }

    /// Replaces the directory of a configured lockspace by the same directory, opened again.
    pub fn renew(&mut self, kind: LockspaceKind, directory: &Arc<Directory>) {
        let slot = match kind {
            LockspaceKind::File => &mut self.file,
            LockspaceKind::Lvm => &mut self.lvm,
            LockspaceKind::Scsi => &mut self.scsi,
            LockspaceKind::Direct | LockspaceKind::Lease(_) => return,
        };
        // Another directory may have been configured meanwhile.
        if slot.as_ref().is_some_and(|current| current.path() == directory.path()) {
            *slot = Some(Arc::clone(directory));
        }
    }
}

/// A rule that maps a resource to a lock file.
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
    /// `<directory>/<key>`, one of several, by its number.
    Lease(u32, Arc<Directory>),
}

impl Lockspace {
    /// Returns its kind.
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

    /// Returns the file system that has to be queried for its lock files.
    #[must_use]
    pub fn asks(&self) -> Option<Asked<'_>> {
        self.directory().map(|directory| Asked::path(directory.path()))
    }

    /// Returns the directory of its lock files; `None` if the disks are their own.
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

impl LockspaceKind {
    /// Returns the lockspace of this kind in a directory.
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
}

/// Returns the name of a path's lock file: its SHA-256 in lower-case hex.
#[must_use]
pub fn hashed_name(path: &Path) -> String {
    let digest = Sha256::digest(path.as_os_str().as_bytes());
    digest.iter().fold(String::with_capacity(64), |mut name, byte| {
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
        name
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashed_names_equal_those_of_libvirt() {
        assert_eq!(
            hashed_name(Path::new("/var/lib/libvirt/images/web1.qcow2")),
            // printf %s PATH | sha256sum
            "78ed52ac4f5cb86b69df6dba9d9ecdecde4cc8e36b25727d7208f4bd21ec796b"
        );
    }

    #[test]
    fn kind_names_round_trip() {
        let others = [LockspaceKind::Direct, LockspaceKind::Lease(3)];
        for kind in LockspaceKind::CONFIGURED.into_iter().chain(others) {
            assert_eq!(LockspaceKind::named(&kind.name()), Some(kind));
            let directory = Arc::new(Directory::unopened(Path::new("/none")));
            assert_eq!(kind.lockspace(directory).kind(), kind);
        }
        assert_eq!(LockspaceKind::named("lease"), None);
    }
}
