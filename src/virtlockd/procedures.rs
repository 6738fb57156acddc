//! The procedures of the protocol, executed on the service.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::call::acquire;
use super::error_mapping::Target;
use super::remote_error::{Code, Domain, RemoteError};
use crate::lock::acquire::EditKeyFile;
use crate::lock::disk::in_use::InUse;
use crate::lock::lockspace::key::{Key, resource_of};
use crate::lock::lockspace::{Lockspace, LockspaceKind};
use crate::lock::model::disk_path::DiskPath;
use crate::lock::model::lease_name::check_key;
use crate::lock::path::open::Links;
use crate::lock::request::{Asked as Dependence, Work as _};
use crate::lock::resolve::lock_file::Naming;
use crate::lock::resolve::{Resolve, Wanted};
use crate::lock::text::escape::spelt_path;
use crate::lock::{self, Mode, OwnerId};
use crate::service::{CallerProcess, Disk, Error, LockRequest, Publication, Service};

/// The procedures, for one caller.
pub(super) struct Procedures<'s> {
    service: &'s Service,
    caller: &'s Arc<CallerProcess>,
}

fn invalid(text: &(impl ToString + ?Sized)) -> RemoteError {
    RemoteError::new(Code::InvalidArgument, Domain::Lockspace, text.to_string())
}

/// Returns the name of a key, if it is valid.
fn key_name(name: &[u8]) -> Result<&str, RemoteError> {
    let text = str::from_utf8(name).map_err(|_| invalid("a resource name is not UTF-8"))?;
    check_key(text).map_err(|error| invalid(&error))?;
    Ok(text)
}

/// Returns the path of a directory, if it is valid.
fn directory_path(path: &[u8]) -> Result<PathBuf, RemoteError> {
    let path = DiskPath::from_bytes(path).map_err(|error| invalid(&error))?;
    if path.has_parent_component() {
        return Err(invalid(&format!("lockspace {} leads through '..'", path.shown())));
    }
    Ok(path.as_path().to_owned())
}

impl<'s> Procedures<'s> {
    pub(super) fn new(service: &'s Service, caller: &'s Arc<CallerProcess>) -> Self {
        Self { service, caller }
    }

    /// Returns the lock request of an `AcquireResource`. A disk is not resolved yet.
    ///
    /// The rules of the configuration do not apply: libvirt's plugin has its own, and its calls contain
    /// the result.
    pub(super) fn lock_request(
        &self,
        target: Target<'_>,
        flags: u32,
    ) -> Result<LockRequest, RemoteError> {
        let shared = flags & acquire::SHARED != 0;
        let mode = if shared { Mode::Shared } else { Mode::Exclusive };
        if target.lockspace.is_empty() {
            let path = DiskPath::from_bytes(target.name).map_err(|error| invalid(&error))?;
            let (wanted, naming) = (Wanted::Path(path), Naming::Direct);
            // The CREATE flag is ignored for a disk: a missing disk is an error.
            let disk = Disk::Wanted(Resolve::new(wanted, naming, Links::Follow));
            let (in_use, named_by) = (InUse::Allowed, Some(Arc::clone(self.caller)));
            return Ok(LockRequest { disk, mode, in_use, with_lease: false, named_by });
        }
        let fleeting = flags & acquire::CREATE != 0;
        let disk = Disk::Key(self.key(target, fleeting)?);
        Ok(LockRequest { disk, mode, in_use: InUse::Allowed, with_lease: false, named_by: None })
    }

    fn lockspace(&self, path: &[u8]) -> Result<Lockspace, RemoteError> {
        let lockspace = self.service.lockspace(Path::new(OsStr::from_bytes(path)));
        lockspace.ok_or_else(|| RemoteError::no_lockspace(path))
    }

    /// Returns the key of a name in a lockspace, after a check of the lockspace's directory.
    fn key(&self, target: Target<'_>, fleeting: bool) -> Result<Key, RemoteError> {
        let lockspace = self.lockspace(target.lockspace)?;
        let text = key_name(target.name)?;
        let refused = |error: Error| RemoteError::from_key_error(&error, target, fleeting);
        let storage = self.service.executor();
        let _permits = storage
            .admit_here(&lockspace.asks().into_iter().collect::<Vec<_>>())
            .map_err(refused)?;
        // A file system may have been mounted since; a lock file beneath it would protect nothing.
        let lockspace = self.service.lockspaces().renew(lockspace).map_err(refused)?;
        if let Some(directory) = lockspace.directory() {
            let path = Path::new(OsStr::from_bytes(target.lockspace));
            self.service
                .inspection()
                .check_lockspace(self.caller, path, directory)
                .map_err(refused)?;
        }
        Key::new(lockspace, text, fleeting).map_err(|error| refused(error.into()))
    }

    /// Returns the kind of lockspace and the name by which the table knows a resource.
    ///
    /// Reads no file, so that a lock can be released whatever has become of its storage.
    fn resource(&self, target: Target<'_>) -> Result<(LockspaceKind, String), RemoteError> {
        if target.lockspace.is_empty() {
            let path = DiskPath::from_bytes(target.name).map_err(|error| invalid(&error))?;
            return Ok((LockspaceKind::Direct, spelt_path(path.as_path())));
        }
        let lockspace = self.lockspace(target.lockspace)?;
        let text = key_name(target.name)?;
        let Some(directory) = lockspace.directory() else {
            return Err(RemoteError::no_lockspace(target.lockspace));
        };
        let resource = resource_of(directory, text).map_err(|error| invalid(&error))?;
        Ok((lockspace.kind(), resource))
    }

    pub(super) fn release(
        &self,
        owner: Option<OwnerId>,
        pid: u32,
        target: Target<'_>,
    ) -> Result<Publication, RemoteError> {
        let (kind, resource) = self.resource(target)?;
        let released = owner.map(|owner| self.service.release_named(owner, kind, &resource));
        match released {
            Some(Ok(Some(event))) => Ok(event),
            Some(Err(error)) if !matches!(error, Error::Lock(lock::Error::NoSuchOwner(_))) => {
                Err(RemoteError::from_service(&error, target, false))
            }
            _ if self.service.lock_named(kind, &resource).is_some() => {
                Err(RemoteError::not_the_holder(pid))
            }
            _ => Err(RemoteError::not_locked(target.name)),
        }
    }

    /// Creates a lockspace, unless it exists.
    pub(super) fn create_lockspace(&self, path: &[u8]) -> Result<(), RemoteError> {
        if path.is_empty() {
            return Err(RemoteError::default_lockspace_exists());
        }
        let directory = directory_path(path)?;
        let refused = |error: Error| RemoteError::from_lockspace_error(&error, path);
        let storage = self.service.executor();
        let _permits = storage.admit_here(&[Dependence::path(&directory)]).map_err(refused)?;
        self.service
            .inspection()
            .check_directory(self.caller, &directory, Links::Follow)
            .map_err(refused)?;
        let created = self.service.lockspaces().make(&directory, Links::Follow);
        created.map(drop).map_err(|error| {
            // The text is libvirt's, so it depends on what the path leads to.
            match std::fs::metadata(&directory) {
                Ok(found) if !found.is_dir() => RemoteError::not_a_directory(path),
                Err(found) if found.kind() == std::io::ErrorKind::NotADirectory => {
                    RemoteError::lockspace_not_created(path, Errno::NOTDIR)
                }
                _ => refused(error),
            }
        })
    }

    /// Creates a lockspace, which must not exist.
    pub(super) fn create_new_lockspace(&self, path: &[u8]) -> Result<(), RemoteError> {
        if !path.is_empty() && self.service.lockspace(&directory_path(path)?).is_some() {
            return Err(RemoteError::lockspace_exists(path));
        }
        self.create_lockspace(path)
    }

    /// Creates a lock file.
    pub(super) fn create_resource(&self, target: Target<'_>) -> Result<(), RemoteError> {
        let key = self.unlocked_key(target)?;
        let created = EditKeyFile::Make(key).perform();
        created.map_err(|error| {
            RemoteError::from_lock_file_error(&error, target, RemoteError::not_created)
        })
    }

    /// Deletes a lock file.
    pub(super) fn delete_resource(&self, target: Target<'_>) -> Result<(), RemoteError> {
        let key = self.unlocked_key(target)?;
        let deleted = EditKeyFile::Remove(key).perform();
        deleted.map_err(|error| {
            RemoteError::from_lock_file_error(&error, target, RemoteError::not_deleted)
        })
    }

    /// Returns a key that no owner of this service has locked.
    fn unlocked_key(&self, target: Target<'_>) -> Result<Key, RemoteError> {
        if target.lockspace.is_empty() {
            let text = "vmlockd neither creates nor deletes disks";
            return Err(RemoteError::new(Code::OperationInvalid, Domain::Lockspace, text));
        }
        let key = self.key(target, false)?;
        match self.service.lock_named(key.lockspace().kind(), &key.resource()) {
            Some(_) => Err(RemoteError::locked(target.name, None)),
            None => Ok(key),
        }
    }
}
