//! What is done for a call, once it may be asked.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

use super::call::acquire;
use super::fault::{Code, Domain, Fault};
use super::refusal::Asked;
use crate::lock::in_use::InUse;
use crate::lock::key::{Key, check_key, resource_of};
use crate::lock::lockspace::{Lockspace, LockspaceKind};
use crate::lock::naming::Naming;
use crate::lock::open::Links;
use crate::lock::printable::spelt_path;
use crate::lock::resolve::{Resolve, Wanted};
use crate::lock::resource::DiskPath;
use crate::lock::take::Tend;
use crate::lock::work::{Asked as Dependence, Work as _};
use crate::lock::{self, Mode, OwnerId};
use crate::service::{Ask, CallerProcess, Disk, Error, Service, Shown};

/// The deeds, done to a service.
pub(super) struct Deed<'s> {
    service: &'s Service,
    caller: &'s Arc<CallerProcess>,
}

fn invalid(text: impl AsRef<str>) -> Fault {
    Fault::new(Code::InvalidArgument, Domain::Lockspace, text)
}

/// The name of a key, checked.
fn key_name(name: &[u8]) -> Result<&str, Fault> {
    let text = str::from_utf8(name).map_err(|_| invalid("a resource name is not UTF-8"))?;
    check_key(text).map_err(|error| invalid(error.to_string()))?;
    Ok(text)
}

/// A directory that a client named.
fn directory(path: &[u8]) -> Result<PathBuf, Fault> {
    let path = DiskPath::from_bytes(path).map_err(|error| invalid(error.to_string()))?;
    if path.climbs() {
        return Err(invalid(format!("lockspace {} leads through '..'", path.shown())));
    }
    Ok(path.as_path().to_owned())
}

impl<'s> Deed<'s> {
    pub(super) fn of(service: &'s Service, caller: &'s Arc<CallerProcess>) -> Self {
        Self { service, caller }
    }

    /// What is asked for, not looked at yet. The rules of the configuration are for others:
    /// libvirt's plugin goes by its own, and says what came of them.
    pub(super) fn ask(&self, lockspace: &[u8], name: &[u8], flags: u32) -> Result<Ask, Fault> {
        let shared = flags & acquire::SHARED != 0;
        let mode = if shared { Mode::Shared } else { Mode::Exclusive };
        if lockspace.is_empty() {
            let path = DiskPath::from_bytes(name).map_err(|error| invalid(error.to_string()))?;
            let (wanted, naming) = (Wanted::Path(path), Naming::Direct);
            // Nothing is created, whatever the flags say: a disk that is not there is none.
            let disk = Disk::Wanted(Resolve { wanted, naming, links: Links::Follow });
            let (in_use, named_by) = (InUse::Allowed, Some(Arc::clone(self.caller)));
            return Ok(Ask { disk, mode, in_use, with_lease: false, named_by });
        }
        let fleeting = flags & acquire::CREATE != 0;
        let disk = Disk::Key(self.key(lockspace, name, fleeting)?);
        Ok(Ask { disk, mode, in_use: InUse::Allowed, with_lease: false, named_by: None })
    }

    fn lockspace(&self, path: &[u8]) -> Result<Lockspace, Fault> {
        let there = self.service.lockspace(Path::new(OsStr::from_bytes(path)));
        there.ok_or_else(|| Fault::no_lockspace(path))
    }

    fn key(&self, lockspace: &[u8], name: &[u8], fleeting: bool) -> Result<Key, Fault> {
        let there = self.lockspace(lockspace)?;
        let text = key_name(name)?;
        let refused =
            |error: Error| Fault::of_nothing_there(&error, Asked { lockspace, name }, fleeting);
        let storage = self.service.storage();
        let _passes =
            storage.admit_here(&there.asks().into_iter().collect::<Vec<_>>()).map_err(refused)?;
        // Its storage may have been mounted since; what lies beneath would protect nothing.
        let there = self.service.renew_lockspace(there).map_err(refused)?;
        if let Some(directory) = there.directory() {
            let name = Path::new(OsStr::from_bytes(lockspace));
            self.service.check_lockspace(self.caller, name, directory).map_err(refused)?;
        }
        Key::new(there, text, fleeting).map_err(|error| refused(error.into()))
    }

    /// Under which name the table knows it. Touches no file: what is held can be released, whatever
    /// became of its storage.
    fn named(&self, lockspace: &[u8], name: &[u8]) -> Result<(LockspaceKind, String), Fault> {
        if lockspace.is_empty() {
            let path = DiskPath::from_bytes(name).map_err(|error| invalid(error.to_string()))?;
            return Ok((LockspaceKind::Direct, spelt_path(path.as_path())));
        }
        let there = self.lockspace(lockspace)?;
        let text = key_name(name)?;
        let Some(directory) = there.directory() else { return Err(Fault::no_lockspace(lockspace)) };
        let resource = resource_of(directory, text).map_err(|error| invalid(error.to_string()))?;
        Ok((there.kind(), resource))
    }

    pub(super) fn release(
        &self,
        owner: Option<OwnerId>,
        pid: u32,
        lockspace: &[u8],
        name: &[u8],
    ) -> Result<Shown, Fault> {
        let (kind, resource) = self.named(lockspace, name)?;
        let released = owner.map(|owner| self.service.release_named(owner, kind, &resource));
        match released {
            Some(Ok(Some(shown))) => Ok(shown),
            Some(Err(error)) if !matches!(error, Error::Lock(lock::Error::NoSuchOwner(_))) => {
                Err(Fault::of(&error, Asked { lockspace, name }, false))
            }
            _ if self.service.lock_named(kind, &resource).is_some() => {
                Err(Fault::not_the_holder(pid))
            }
            _ => Err(Fault::not_locked(name)),
        }
    }

    /// A lockspace that may be there already.
    pub(super) fn make_lockspace(&self, path: &[u8]) -> Result<(), Fault> {
        if path.is_empty() {
            return Err(Fault::default_lockspace_exists());
        }
        let directory = directory(path)?;
        let storage = self.service.storage();
        let _passes = storage
            .admit_here(&[Dependence::path(&directory)])
            .map_err(|silent| Fault::of_lockspace(&silent, path))?;
        self.service
            .check_directory(self.caller, &directory, Links::Follow)
            .map_err(|error| Fault::of_lockspace(&error, path))?;
        let made = self.service.make_lockspace(&directory, Links::Follow);
        made.map(drop).map_err(|error| {
            // Through links, too: what counts is what is there.
            match std::fs::metadata(&directory) {
                Ok(there) if !there.is_dir() => Fault::not_a_directory(path),
                Err(seen) if seen.kind() == std::io::ErrorKind::NotADirectory => {
                    Fault::lockspace_not_made(path, Errno::ENOTDIR)
                }
                _ => Fault::of_lockspace(&error, path),
            }
        })
    }

    /// A lockspace that must not be there.
    pub(super) fn make_new_lockspace(&self, path: &[u8]) -> Result<(), Fault> {
        if !path.is_empty() && self.service.lockspace(&directory(path)?).is_some() {
            return Err(Fault::lockspace_exists(path));
        }
        self.make_lockspace(path)
    }

    pub(super) fn create(&self, lockspace: &[u8], name: &[u8]) -> Result<(), Fault> {
        let key = self.free_key(lockspace, name)?;
        let made = Tend::Make(key).perform();
        made.map_err(|error| {
            Fault::of_tending(&error, Asked { lockspace, name }, Fault::not_created)
        })
    }

    pub(super) fn delete(&self, lockspace: &[u8], name: &[u8]) -> Result<(), Fault> {
        let key = self.free_key(lockspace, name)?;
        let removed = Tend::Remove(key).perform();
        removed.map_err(|error| {
            Fault::of_tending(&error, Asked { lockspace, name }, Fault::not_deleted)
        })
    }

    /// A key that nobody of ours holds.
    fn free_key(&self, lockspace: &[u8], name: &[u8]) -> Result<Key, Fault> {
        if lockspace.is_empty() {
            let text = "vmlockd neither creates nor deletes disks";
            return Err(Fault::new(Code::OperationInvalid, Domain::Lockspace, text));
        }
        let key = self.key(lockspace, name, false)?;
        match self.service.lock_named(key.lockspace().kind(), &key.resource()) {
            Some(_) => Err(Fault::locked(name, None)),
            None => Ok(key),
        }
    }
}
