//! Selects the lockspace and the lock files of a disk.
//!
//! The order is that of libvirt's lockd plugin (`src/locking/lock_driver_lockd.c`), so that hosts
//! with virtlockd and hosts with vmlockd agree: for a disk under `/dev` the UUID of a logical
//! volume, then the id of a SCSI disk, each if a lockspace for it exists; then the hash of the
//! path; then the disk itself. A disk without a UUID, or without an id, is matched against the next
//! rule.

use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::lock::lockspace::{Lockspace, Lockspaces, hashed_name};
use crate::lock::model::error::Error;
use crate::lock::model::identity::Identity;
use crate::lock::request::Asked;
use crate::lock::resolve::scsi_id;
use crate::lock::sysfs::Sysfs;

/// The way in which the lock files of a disk are found.
#[derive(Debug, Clone)]
pub enum Naming {
    /// By the configured rules.
    Rules(Lockspaces),
    /// The disk is its own lock file, whatever the rules.
    Direct,
    /// They are known already: these names in this lockspace.
    Names(Lockspace, Vec<String>),
}

/// The properties of a disk that determine its lock files.
#[derive(Debug, Clone, Copy)]
pub(in crate::lock) struct Disk<'d> {
    /// Its name, for display.
    pub(in crate::lock) name: &'d str,
    /// The path as given, and without links and detours; `None` for a descriptor whose name leads
    /// elsewhere for the service.
    pub(in crate::lock) path: Option<(&'d Path, &'d Path)>,
    pub(in crate::lock) pin: BorrowedFd<'d>,
    pub(in crate::lock) identity: Identity,
}

impl Naming {
    /// Returns the file systems that have to be queried about lock files of a disk; `may_be_device`
    /// is whether the disk may be a device.
    pub(in crate::lock) fn asks(&self, may_be_device: bool) -> Vec<Asked<'_>> {
        match self {
            Self::Rules(Lockspaces { file, lvm, scsi, .. }) => {
                let devices = [lvm, scsi].into_iter().filter(|_| may_be_device);
                devices
                    .chain([file])
                    .flatten()
                    .map(|directory| Asked::path(directory.path()))
                    .collect()
            }
            Self::Direct => Vec::new(),
            Self::Names(lockspace, _) => lockspace.asks().into_iter().collect(),
        }
    }

    /// Returns the lockspace of a disk, and the names of its lock files in there; none if the disk
    /// itself is locked.
    ///
    /// # Errors
    ///
    /// [`Error::NotLockable`] if they are unknown.
    pub(in crate::lock) fn of(self, disk: Disk<'_>) -> Result<(Lockspace, Vec<String>), Error> {
        let rules = match self {
            Self::Rules(rules) => rules,
            Self::Direct => return Ok((Lockspace::Direct, Vec::new())),
            Self::Names(lockspace, names) => return Ok((lockspace, names)),
        };
        if let Some(found) = of_device(&rules, disk)? {
            return Ok(found);
        }
        let Some(directory) = rules.file else { return Ok((Lockspace::Direct, Vec::new())) };
        let Some((given, canonical)) = disk.path else {
            let why = "its lock file is named after it, and its name leads to another file in the mount namespace of vmlockd";
            return Err(Error::not_lockable(disk.name, why));
        };
        let names = hashed_names(given, canonical, &disk.identity);
        Ok((Lockspace::File(directory), names))
    }
}

/// Whether a name is one by which a device is known on other hosts.
pub(in crate::lock) fn is_below_dev(given: &Path) -> bool {
    given.starts_with("/dev")
}

/// Returns the lockspace and lock files of a device that has a UUID or an id.
fn of_device(
    rules: &Lockspaces,
    disk: Disk<'_>,
) -> Result<Option<(Lockspace, Vec<String>)>, Error> {
    let Identity::Block { dev, .. } = disk.identity else { return Ok(None) };
    // By the given name, as libvirt does: a device with another name counts as a plain disk.
    if disk.path.is_some_and(|(given, _)| !is_below_dev(given)) {
        return Ok(None);
    }
    let refuse = |what, why| Error::not_lockable(disk.name, format!("its {what}: {why}"));
    if let Some(directory) = &rules.lvm {
        let uuid = Sysfs::default().volume_uuid(dev);
        let unknown = |error| refuse("volume's UUID cannot be read", error);
        if let Some(uuid) = uuid.map_err(|error| unknown(error.to_string()))? {
            return Ok(Some((Lockspace::Lvm(directory.clone()), vec![uuid])));
        }
    }
    if let Some(directory) = &rules.scsi {
        let id = scsi_id::of_this_host().id(disk.pin, disk.identity);
        if let Some(id) = id.map_err(|why| refuse("SCSI id cannot be read", why))? {
            return Ok(Some((Lockspace::Scsi(directory.clone()), vec![id])));
        }
    }
    Ok(None)
}

/// Returns the names of the lock files: that of the path as given, which other hosts use; and for a
/// regular file that of its canonical path, so that its aliases conflict on other hosts too. A
/// device never gets the latter: `/dev/sda` is another disk on another host.
fn hashed_names(given: &Path, canonical: &Path, identity: &Identity) -> Vec<String> {
    let mut names = vec![hashed_name(given)];
    // Compared as bytes: `Path` considers "//a/./b" and "/a/b" equal, but their digests differ.
    if given.as_os_str() != canonical.as_os_str() && matches!(identity, Identity::Inode { .. }) {
        names.push(hashed_name(canonical));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::lockspace::{Directory, LockspaceKind};
    use std::os::fd::AsFd as _;
    use std::sync::Arc;

    fn lockspaces(with_file: bool) -> Lockspaces {
        let directory = |path| Some(Arc::new(Directory::unopened(Path::new(path))));
        let file = with_file.then(|| directory("/file")).flatten();
        Lockspaces {
            file,
            lvm: directory("/lvm"),
            scsi: directory("/scsi"),
            ..Lockspaces::default()
        }
    }

    /// Returns the result for a file or a device that is neither a volume nor a SCSI disk.
    fn kind(
        path: Option<&str>,
        identity: Identity,
        with_file: bool,
    ) -> Result<LockspaceKind, Error> {
        let file = tempfile::tempfile().unwrap();
        let path = path.map(|path| (Path::new(path), Path::new(path)));
        let disk = Disk { name: "x", path, pin: file.as_fd(), identity };
        Ok(Naming::Rules(lockspaces(with_file)).of(disk)?.0.kind())
    }

    #[test]
    fn plain_disks_are_hashed_by_name_or_locked_directly() {
        use LockspaceKind::{Direct, File};
        let (inode, block) =
            (Identity::Inode { dev: 1, ino: 1 }, Identity::Block { dev: 0, seq: 0 });
        for (path, identity) in
            [("/srv/a", inode), ("/dev/shm/a", inode), ("/srv/disk", block), ("/devices/a", block)]
        {
            assert_eq!(kind(Some(path), identity, true).unwrap(), File, "{path}");
            assert_eq!(kind(Some(path), identity, false).unwrap(), Direct, "{path}");
        }
        assert_eq!(kind(None, inode, false).unwrap(), Direct);
        let error = kind(None, inode, true).unwrap_err().to_string();
        assert!(error.contains("leads to another file"), "{error}");
    }

    #[test]
    fn known_lock_files_are_kept() {
        let file = tempfile::tempfile().unwrap();
        let identity = Identity::Inode { dev: 1, ino: 1 };
        let disk = Disk { name: "x", path: None, pin: file.as_fd(), identity };
        let Lockspaces { lvm, .. } = lockspaces(true);
        let known = Naming::Names(Lockspace::Lvm(lvm.unwrap()), vec!["a".into()]);
        let (lockspace, names) = known.of(disk).unwrap();
        assert_eq!((lockspace.kind(), names), (LockspaceKind::Lvm, vec!["a".to_owned()]));
        assert_eq!(Naming::Direct.of(disk).unwrap().0.kind(), LockspaceKind::Direct);
    }
}
