//! Acquisition of locks: the requests that lock a byte, and find the holder of a conflicting lock.

pub mod goal;
pub mod handle;
pub(super) mod lease_break;
pub(super) mod nfs_expired;
pub mod probe;
pub mod reacquire;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::fstat;
use rustix::io::Errno;

use super::ofd::{self, ConflictingLock};
use super::resolve::Target;
use crate::lock::acquire::goal::Goal;
use crate::lock::acquire::{handle::Byte, handle::LockHandle, lease_break::open_leased};
use crate::lock::disk::in_use::{InUse, refuse_if_used, refuse_swap_file};
use crate::lock::disk::{loop_device::is_unset, snapshot::Snapshot};
use crate::lock::foreign::Request;
use crate::lock::holder_record::record::HolderRecord;
use crate::lock::lockspace::{directory::Directory, key::Key, lock_file::LockFile};
use crate::lock::model::operation::Operation;
use crate::lock::model::{error::Error, identity::Identity, mode::Mode};
use crate::lock::ofd::description::Description;
use crate::lock::path::open;
use crate::lock::request::{Asked, Work};
use crate::lock::text::{errno::errno_description, escape::shown_path};

/// The result of several requests: the answers of those that succeeded, and the first failure.
#[derive(Debug)]
pub struct Done<T> {
    /// The answers, in the order of the requests.
    pub answers: Vec<T>,
    /// The error after which the rest was not tried.
    pub failure: Option<Error>,
}

/// How often a lock file is opened again because it was removed in between.
const TRIES: usize = 64;

/// A request to lock a goal in a mode. After an error, nothing is left locked or created.
#[derive(Debug)]
pub struct LockFiles {
    /// The resource.
    pub goal: Arc<Goal>,
    /// The mode.
    pub mode: Mode,
    /// The owner, as the holder record beside the lock names it.
    pub record: HolderRecord,
    /// Retried often: the refusal names no holder, as that takes a search of all processes.
    pub non_blocking: bool,
    /// The policy for a disk that this host uses itself.
    pub in_use: InUse,
}

impl Work for LockFiles {
    type Answer = Result<LockHandle, Error>;

    fn asks(&self) -> Vec<Asked<'_>> {
        self.goal.asks()
    }

    fn perform(self) -> Result<LockHandle, Error> {
        self.perform_on(&Snapshot::default())
    }
}

/// Locks goals one after the other, up to the first that fails. `host` is used while it is fresh.
pub fn lock_all(requests: Vec<LockFiles>, mut host: Snapshot) -> Done<LockHandle> {
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        host.refresh();
        match request.perform_on(&host) {
            Ok(held) => answers.push(held),
            Err(failure) => return Done { answers, failure: Some(failure) },
        }
    }
    Done { answers, failure: None }
}

impl LockFiles {
    fn perform_on(self, host: &Snapshot) -> Result<LockHandle, Error> {
        let Self { goal, mode, record, non_blocking, in_use } = self;
        if mode == Mode::None {
            return Ok(LockHandle::of_nothing());
        }
        let host_id = record.host.as_ref().map(|host| host.id());
        let request = Request { host_id, non_blocking, ..Request::default() };
        let (held, resource, in_lockspace) = match &*goal {
            Goal::Disk(target) => {
                let refuse_used = in_use == InUse::Refused && mode == Mode::Exclusive;
                if refuse_used {
                    let Target { pin, identity, name, .. } = &**target;
                    refuse_if_used(pin.as_fd(), *identity, &target.below(mode), name, host)?;
                }
                refuse_unset(target, host)?;
                let in_lockspace = target.lockspace.kind().has_files();
                (lock_disk(target, mode, refuse_used, &request)?, target.name.clone(), in_lockspace)
            }
            Goal::Key(key) => (lock_key(key, mode, &request)?, key.resource(), true),
        };
        held.record(record.written(&resource, in_lockspace, mode));
        Ok(held)
    }
}

fn lock_disk(
    target: &Target,
    mode: Mode,
    refuse_used: bool,
    request: &Request<'_>,
) -> Result<LockHandle, Error> {
    let request = Request { resource: &target.name, ..*request };
    target.refuse_unknown_devices()?;
    if !target.is_copied_up(mode) {
        target.refuse_unknown(mode)?;
    }
    let (disk, writable) = open_disk(target, mode, &request)?;
    if refuse_used && writable {
        refuse_swap_file(&disk, &target.name)?;
    }
    let request = Request { disk: Some(disk.as_fd()), ..request };
    let Some(directory) = target.lockspace.directory() else {
        lock_byte(&disk, mode, &request)?;
        check_unchanged(target, mode)?;
        let byte =
            Byte { description: Description::with_fs_type(target.fs_type, disk), lock_file: None };
        return Ok(LockHandle::new(vec![byte], writable, mode));
    };
    // A holder that locks the disk directly does not use this host's lockspace directory.
    check_unlocked(&disk, mode, &request)?;
    let mut held = LockHandle::new(Vec::new(), true, mode);
    if mode == Mode::Shared && target.may_be_copied_up() {
        let pin = target.pin.try_clone().map_err(|error| duplication_failed(target, &error))?;
        held.disk = Some(Arc::new(pin.into()));
    }
    for name in &target.files {
        match lock_file(directory, name, true, mode, &request) {
            Ok(byte) => held.bytes.push(byte),
            Err(error) => return Err(error.with_undo(held.unlock())),
        }
    }
    match check_unchanged(target, mode) {
        Ok(()) => Ok(held),
        Err(error) => Err(error.with_undo(held.unlock())),
    }
}

fn duplication_failed(target: &Target, error: &io::Error) -> Error {
    let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
    Error::system(Operation::DuplicateDescriptor, &target.name, errno)
}

fn lock_key(key: &Key, mode: Mode, request: &Request<'_>) -> Result<LockHandle, Error> {
    let resource = key.resource();
    let request = Request { resource: &resource, ..*request };
    let Some(directory) = key.lockspace().directory() else {
        return Err(Error::not_lockable(resource, "it is in no lockspace"));
    };
    let byte = lock_file(directory, key.name(), key.is_fleeting(), mode, &request)?;
    Ok(LockHandle::new(vec![byte], true, mode))
}

/// Creates or removes the file of a key. It is removed only if it is not locked and still empty.
#[derive(Debug)]
pub enum EditKeyFile {
    /// Creates the file if it is missing.
    Make(Key),
    /// Removes the file if it exists.
    Remove(Key),
}

impl Work for EditKeyFile {
    type Answer = Result<(), Error>;

    fn asks(&self) -> Vec<Asked<'_>> {
        let (Self::Make(key) | Self::Remove(key)) = self;
        key.asks().into_iter().collect()
    }

    fn perform(self) -> Result<(), Error> {
        let (Self::Make(key) | Self::Remove(key)) = &self;
        let Some(directory) = key.lockspace().directory() else {
            return Err(Error::not_lockable(key.resource(), "it is in no lockspace"));
        };
        if let Self::Make(key) = &self {
            return directory.open_file(key.name()).map(drop);
        }
        if directory.find_file(key.name())?.is_none() {
            return Ok(());
        }
        let resource = key.resource();
        let request = Request { resource: &resource, ..Request::default() };
        let byte = lock_file(directory, key.name(), true, Mode::Exclusive, &request)?;
        if has_content(&byte)? {
            let byte = Byte { lock_file: None, ..byte };
            let kept = LockHandle::new(vec![byte], true, Mode::Exclusive).unlock();
            let why = "it is not empty, so it is not a lock file, and is not removed";
            return Err(Error::not_lockable(resource, why).with_undo(kept));
        }
        let mut failed = LockHandle::new(vec![byte], true, Mode::Exclusive).unlock();
        failed.pop().map_or(Ok(()), Err)
    }
}

/// Whether a lock file has content. The files that the service creates stay empty.
fn has_content(byte: &Byte) -> Result<bool, Error> {
    let stat = fstat(&*byte.description.file()?);
    let name = || byte.shown().unwrap_or_default();
    Ok(stat.map_err(|errno| Error::system(Operation::StatLockFile, name(), errno))?.st_size > 0)
}

/// Opens the disk itself: for writing if an exclusive lock will be on it, and if possible for a
/// shared one too, since a description opened for reading can never be upgraded.
pub(super) fn open_disk(
    target: &Target,
    mode: Mode,
    request: &Request<'_>,
) -> Result<(File, bool), Error> {
    let pin = target.pin.as_fd();
    let only_tested = target.lockspace.kind().has_files() && !target.is_copied_up(mode);
    let only_read = mode == Mode::Shared && target.may_be_copied_up();
    open_with(target, request, || {
        if only_tested || only_read {
            open::reopen(pin, false).map(|file| (file, false))
        } else {
            match (open::reopen(pin, true), mode) {
                (Err(Errno::ROFS | Errno::ACCESS | Errno::PERM | Errno::TXTBSY), Mode::Shared) => {
                    open::reopen(pin, false).map(|file| (file, false))
                }
                (attempt, _) => attempt.map(|file| (file, true)),
            }
        }
    })
}

/// Opens a disk in order to find the holder of a lock. Never opens it for writing: that would break
/// leases, prevent the execution of a program in the file, and copy up a file of an overlay.
pub(super) fn open_to_test(target: &Target, request: &Request<'_>) -> Result<File, Error> {
    let opened = || open::reopen(target.pin.as_fd(), false).map(|file| (file, false));
    open_with(target, request, opened).map(|(file, _)| file)
}

fn open_with(
    target: &Target,
    request: &Request<'_>,
    try_open: impl Fn() -> Result<(File, bool), Errno>,
) -> Result<(File, bool), Error> {
    let pin = target.pin.as_fd();
    // A waiting request is retried anyway.
    let attempt = if request.non_blocking { try_open() } else { open_leased(try_open) };
    let (file, writable) = attempt.map_err(|errno| match errno {
        Errno::AGAIN => request.refused_by_lease(pin),
        // The file system or the unit file makes the directory read-only.
        Errno::ROFS => Error::not_lockable(
            &target.name,
            "it cannot be opened for writing (Read-only file system; see SECURITY in vmlockd(8) for \
             what the service's unit makes read-only)",
        ),
        Errno::ACCESS | Errno::PERM | Errno::TXTBSY => Error::not_lockable(
            &target.name,
            format!("it cannot be opened for writing ({})", errno_description(errno)),
        ),
        errno => Error::system(Operation::Open, &target.name, errno),
    })?;
    let stat = fstat(&file).map_err(|errno| Error::system(Operation::Stat, &target.name, errno))?;
    if open::same_node(&stat, &target.stat) && Identity::of(&stat) == Some(target.identity) {
        Ok((file, writable))
    } else {
        Err(Error::changed(&target.name))
    }
}

/// Refuses a loop device that is not set up: its future file is unknown, and not compared.
///
/// # Errors
///
/// [`Error::NotLockable`].
fn refuse_unset(target: &Target, host: &Snapshot) -> Result<(), Error> {
    let Identity::Block { dev, .. } = target.identity else { return Ok(()) };
    let failed = |error: io::Error| Error::not_lockable(&target.name, error.to_string());
    if is_unset(dev, host.sysfs()).map_err(failed)? {
        return Err(Error::not_lockable(&target.name, "this loop device has no file"));
    }
    Ok(())
}

/// Checks, after the lock, that the requested name still leads to the locked file, and that the
/// layers below it are those that the table compared, all of which are known.
fn check_unchanged(target: &Target, mode: Mode) -> Result<(), Error> {
    match target.is_named() {
        Ok(true) => {}
        Ok(false) => return Err(Error::changed(&target.name)),
        Err(errno) => return Err(Error::system(Operation::Stat, &target.name, errno)),
    }
    if target.lies_as_found()? {
        target.refuse_unknown(mode)
    } else {
        Err(Error::changed(&target.name))
    }
}

pub(super) fn lock_byte(file: &File, mode: Mode, request: &Request<'_>) -> Result<(), Error> {
    let no_locks = |errno: Errno| no_locks(request, errno);
    if ofd::try_lock(file, mode).map_err(no_locks)? {
        return Ok(());
    }
    let mut other = ofd::conflicting_lock(file, mode).map_err(no_locks)?;
    if other.is_none() {
        // The conflicting lock was released; or a server does not report shared holders. Linux
        // 6.1.192 does not, by version 3 of NFS, whatever the query.
        if ofd::try_lock(file, mode).map_err(no_locks)? {
            return Ok(());
        }
        let unreported = ConflictingLock { mode: Mode::Shared, pid: None };
        other = ofd::conflicting_lock(file, mode).map_err(no_locks)?;
        other = other.or((mode == Mode::Exclusive).then_some(unreported));
    }
    Err(request.refused(file, other))
}

pub(super) fn check_unlocked(file: &File, mode: Mode, request: &Request<'_>) -> Result<(), Error> {
    match ofd::conflicting_lock(file, mode).map_err(|errno| no_locks(request, errno))? {
        None => Ok(()),
        other => Err(request.refused(file, other)),
    }
}

fn no_locks(request: &Request<'_>, errno: Errno) -> Error {
    Error::not_lockable(
        request.lock_file.unwrap_or(request.resource),
        format!("its file system does not support locks ({})", errno_description(errno)),
    )
}

/// Opens, locks and compares a lock file until the locked one is the one in the directory.
fn lock_file(
    directory: &Arc<Directory>,
    name: &str,
    fleeting: bool,
    mode: Mode,
    request: &Request<'_>,
) -> Result<Byte, Error> {
    let shown = shown_path(&directory.path_of(name));
    for _ in 0..TRIES {
        let file = if fleeting {
            directory.open_file(name)?
        } else {
            directory.find_file(name)?.ok_or_else(|| Error::missing(request.resource))?
        };
        lock_byte(&file, mode, &Request { lock_file: Some(&shown), ..*request })?;
        if directory.still_names(name, &file)? {
            // A lock file is on the mount of its directory.
            let description = Description::with_fs_type(directory.fs_type()?, file);
            let (directory, name) = (Arc::clone(directory), name.to_owned());
            let lock_file = Some(LockFile { directory, name, fleeting });
            return Ok(Byte { description, lock_file });
        }
    }
    Err(Error::changed(shown))
}
