//! Held locks: their conversion and release.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use crate::lock::acquire::{check_unlocked, lock_byte};
use crate::lock::disk::in_use::{InUse, refuse_if_used, refuse_swap_file};
use crate::lock::disk::snapshot::Snapshot;
use crate::lock::disk::stack::Stack;
use crate::lock::foreign::Request;
use crate::lock::holder_record::record::{HolderRecord, UnwrittenRecord, Written};
use crate::lock::lockspace::lock_file::LockFile;
use crate::lock::model::error::Error;
use crate::lock::model::holder_entry::Entry;
use crate::lock::model::identity::Identity;
use crate::lock::model::mode::Mode;
use crate::lock::model::operation::Operation;
use crate::lock::model::owner::OwnerId;
use crate::lock::ofd;
use crate::lock::ofd::description::Description;
use crate::lock::path::open::{self, Links};
use crate::lock::request::Work;
use crate::lock::text::escape::shown_path;
use crate::sync;

/// The bytes of one lock: one, or two if a hashed lockspace knows a disk by two names. They are
/// unlocked when the last copy of their descriptions is closed, or by [`Unlock`].
#[derive(Debug)]
pub struct LockHandle {
    pub(in crate::lock) bytes: Vec<Byte>,
    /// Whether a shared lock can be upgraded: its description was opened for writing.
    pub(in crate::lock) writable: bool,
    /// The disk, if it is a file of an overlay that may be copied up and has no locked byte.
    pub(in crate::lock) disk: Option<Arc<File>>,
    /// The mode of the bytes; `None` once they are unlocked. Locked while that changes.
    pub(in crate::lock) mode: Mutex<Option<Mode>>,
    /// The owner and the number under which its descriptors are kept, from the first time that they
    /// are: they do not move when the lock is transferred to another owner.
    kept_as: OnceLock<(OwnerId, u64)>,
    /// The holder record beside its bytes. Locked after the mode.
    pub(in crate::lock) written: Mutex<Option<Written>>,
    /// The directory in which that could not be written, if that has to be logged.
    unrecorded: Mutex<Option<UnwrittenRecord>>,
}

#[derive(Debug)]
pub(in crate::lock) struct Byte {
    pub(in crate::lock) description: Description,
    /// The location of its lock file, if that is not the disk itself.
    pub(in crate::lock) lock_file: Option<LockFile>,
}

/// A request to unlock a lock, even if copies of its descriptions exist.
#[derive(Debug)]
pub struct Unlock(pub Arc<LockHandle>);

impl Work for Unlock {
    /// The errors; even so the byte is unlocked once the copies are closed.
    type Answer = Vec<Error>;

    fn perform(self) -> Vec<Error> {
        self.0.unlock()
    }
}

impl LockHandle {
    pub(in crate::lock) fn new(bytes: Vec<Byte>, writable: bool, mode: Mode) -> Self {
        let (mode, written) = (Mutex::new(Some(mode)), Mutex::default());
        let (kept_as, unrecorded) = (OnceLock::new(), Mutex::default());
        Self { bytes, writable, disk: None, mode, kept_as, written, unrecorded }
    }

    /// Returns the handle of a disk lock in mode none, which has no bytes.
    pub(in crate::lock) fn of_nothing() -> Self {
        Self::new(Vec::new(), false, Mode::None)
    }

    /// Returns a descriptor of the disk, if this process has one open.
    #[must_use]
    pub fn disk(&self) -> Option<Arc<File>> {
        let direct = self.bytes.iter().find(|byte| byte.lock_file.is_none());
        let direct = direct.filter(|byte| !byte.description.is_away());
        direct.and_then(|byte| byte.description.file().ok()).or_else(|| self.disk.clone())
    }

    /// Returns the owner and the number under which its descriptors are kept; stores these if there
    /// are none yet.
    pub fn kept_as(&self, owner: OwnerId, number: u64) -> (OwnerId, u64) {
        *self.kept_as.get_or_init(|| (owner, number))
    }

    pub(in crate::lock) fn written(&self) -> MutexGuard<'_, Option<Written>> {
        sync::lock(&self.written)
    }

    /// Writes the holder record, if there is one. No lock depends on it: a failure is only logged.
    pub(in crate::lock) fn record(&self, written: Option<Written>) {
        let mut record = self.written();
        let before = std::mem::replace(&mut *record, written);
        let Some(written) = record.as_ref() else { return };
        let write = |byte: &Byte| {
            let file = byte.description.file().ok()?;
            written.write(&file, byte.lock_file.as_ref(), before.as_ref())
        };
        if let Some(unrecorded) = self.bytes.iter().filter_map(write).last() {
            *sync::lock(&self.unrecorded) = Some(unrecorded);
        }
    }

    /// Returns the directory in which its holder record could not be written, for the log: once for
    /// each directory.
    pub fn unrecorded(&self) -> Option<UnwrittenRecord> {
        sync::lock(&self.unrecorded).take()
    }

    /// Updates the holder record for another owner on this host.
    fn update_record(&self, record: &HolderRecord) {
        let mode = self.mode();
        let written = self.written().clone().filter(|_| mode.is_some());
        if let Some(mut written) = written {
            written.update(record);
            self.record(Some(written));
        }
    }

    /// Returns its mode, locked for a change.
    pub(in crate::lock) fn mode(&self) -> MutexGuard<'_, Option<Mode>> {
        sync::lock(&self.mode)
    }

    /// Unlocks the rest of a lock that another program may hold by now. Changes nothing of that
    /// holder's.
    #[must_use]
    pub fn abandon(&self) -> Vec<Error> {
        let mut mode = self.mode();
        *mode = None;
        let free = |byte: &Byte| match byte.description.file() {
            Ok(file) => byte.unlock(&file),
            Err(error) => Some(error),
        };
        self.bytes.iter().filter_map(free).collect()
    }

    pub(in crate::lock) fn unlock(&self) -> Vec<Error> {
        // Locked until all bytes are unlocked: a verification in between would lock them again.
        let mut mode = self.mode();
        *mode = None;
        let written = self.written().take();
        self.bytes.iter().flat_map(|byte| byte.release(written.as_ref())).collect()
    }
}

/// A request to rewrite the holder record of a lock, for an owner to which it is transferred, or of
/// which more is known by now.
#[derive(Debug)]
pub struct RewriteRecord {
    /// The lock.
    pub held: Arc<LockHandle>,
    /// The holder.
    pub record: HolderRecord,
}

impl Work for RewriteRecord {
    type Answer = ();

    fn perform(self) {
        self.held.update_record(&self.record);
    }
}

impl Byte {
    /// Returns the path of its lock file, for display.
    pub(in crate::lock) fn shown(&self) -> Option<String> {
        self.lock_file.as_ref().map(LockFile::shown)
    }

    fn release(&self, written: Option<&Written>) -> Vec<Error> {
        let file = match self.description.file() {
            Ok(file) => file,
            Err(error) => return vec![error],
        };
        let (removed, failure) = match self.remove(&file) {
            Ok(removed) => (removed, None),
            Err(error) => (false, Some(error)),
        };
        if let Some(written) = written.filter(|_| !removed) {
            written.erase(&file, self.lock_file.as_ref());
        }
        [failure, self.unlock(&file)].into_iter().flatten().collect()
    }

    /// Removes the lock file, but only while this service holds it exclusively. Otherwise a holder
    /// that shares it would be left with a lock that the next one does not see. Returns whether it
    /// was removed.
    fn remove(&self, file: &File) -> Result<bool, Error> {
        let Some(lock_file) = self.lock_file.as_ref().filter(|lock_file| lock_file.fleeting) else {
            return Ok(false);
        };
        let LockFile { directory, name, .. } = lock_file;
        let is_exclusive = ofd::try_lock(file, Mode::Exclusive)
            .map_err(|errno| Error::system(Operation::LockFile, lock_file.shown(), errno))
            .and_then(|is_exclusive| Ok(is_exclusive && directory.still_names(name, file)?));
        let is_exclusive = is_exclusive?;
        if is_exclusive {
            directory.remove_file(name)?;
        }
        Ok(is_exclusive)
    }

    fn unlock(&self, file: &File) -> Option<Error> {
        let name = || {
            let name = open::name_of(file.as_fd()).map(|path| shown_path(&path));
            self.shown().or(name.ok()).unwrap_or_else(|| "a disk".to_owned())
        };
        ofd::unlock(file).err().map(|errno| Error::system(Operation::Unlock, name(), errno))
    }
}

/// A request to change the mode of a lock. After an error, the lock is as it was.
#[derive(Debug)]
pub struct Convert {
    /// The lock.
    pub held: Arc<LockHandle>,
    /// The new mode.
    pub mode: Mode,
    /// Its name for display.
    pub name: String,
    /// In a hashed lockspace the disk's path and identity: before an upgrade, the disk's own byte
    /// is tested, as when the lock was acquired.
    pub disk: Option<(PathBuf, Identity)>,
    /// The request is retried often, see [`crate::lock::acquire::LockFiles`].
    pub non_blocking: bool,
    /// The policy for a disk that this host uses itself.
    pub in_use: InUse,
}

impl Work for Convert {
    type Answer = Result<(), Error>;

    fn perform(self) -> Result<(), Error> {
        if self.mode == Mode::Exclusive {
            if !self.held.writable {
                let why = "it can only be opened for reading, so its lock cannot be upgraded";
                return Err(Error::not_lockable(&self.name, why));
            }
            match &self.disk {
                Some((path, identity)) => self.test_disk(path, *identity)?,
                None => self.test_own_byte()?,
            }
        }
        let mut mode = self.held.mode();
        if mode.is_none() {
            return Err(Error::not_lockable(&self.name, "it was released in the meantime"));
        }
        let mut written = self.held.written().clone();
        let own: Vec<Entry> = written.iter().map(|written| written.entry.clone()).collect();
        for (n, byte) in self.held.bytes.iter().enumerate() {
            let lock_file = byte.shown();
            let locked = byte.description.file().and_then(|file| {
                let request = Request {
                    lock_file: lock_file.as_deref(),
                    disk: byte.lock_file.is_none().then_some(file.as_fd()),
                    own: own.as_slice(),
                    ..self.request(written.as_ref())
                };
                lock_byte(&file, self.mode, &request)
            });
            if let Err(error) = locked {
                let undo = self.held.bytes[..n].iter().filter_map(|byte| self.downgrade(byte));
                return Err(error.with_undo(undo.collect()));
            }
        }
        *mode = Some(self.mode);
        if let Some(written) = &mut written {
            written.entry.mode = self.mode;
            self.held.record(Some(written.clone()));
        }
        Ok(())
    }
}

impl Convert {
    fn request<'r>(&'r self, written: Option<&'r Written>) -> Request<'r> {
        let host_id = written.map(|written| written.host.id());
        Request {
            resource: &self.name,
            host_id,
            non_blocking: self.non_blocking,
            ..Request::default()
        }
    }

    /// Downgrades a lock again (rollback of an upgrade).
    fn downgrade(&self, byte: &Byte) -> Option<Error> {
        let failed = |errno| Error::system(Operation::Downgrade, &self.name, errno);
        let downgraded = byte
            .description
            .file()
            .and_then(|file| ofd::try_lock(&*file, Mode::Shared).map_err(failed));
        downgraded.err()
    }

    /// Tests the byte of a disk that is its own lock file.
    fn test_own_byte(&self) -> Result<(), Error> {
        let direct = self.held.bytes.iter().find(|byte| byte.lock_file.is_none());
        let Some(byte) = direct.filter(|_| self.in_use == InUse::Refused) else { return Ok(()) };
        let file = byte.description.file()?;
        match Identity::of_open(file.as_fd()) {
            Some(identity) => {
                self.test_use(file.as_fd(), identity)?;
                refuse_swap_file(&file, &self.name)
            }
            None => Ok(()),
        }
    }

    fn test_use(&self, disk: BorrowedFd<'_>, identity: Identity) -> Result<(), Error> {
        let host = Snapshot::default();
        let stack = Stack::of((disk, None), identity, &self.name, host.sysfs())?;
        refuse_if_used(disk, identity, &stack.below, &self.name, &host)
    }

    fn test_disk(&self, path: &std::path::Path, identity: Identity) -> Result<(), Error> {
        let changed = || Error::changed(&self.name);
        let pin = open::locate(path, Links::Follow).map_err(|_| changed())?;
        let found = open::examine(pin.as_fd(), &self.name)?;
        if found.identity != identity {
            return Err(changed());
        }
        if self.in_use == InUse::Refused {
            self.test_use(pin.as_fd(), identity)?;
        }
        let disk = open::reopen(pin.as_fd(), false)
            .map_err(|errno| Error::system(Operation::Open, &self.name, errno))?;
        let request = Request { disk: Some(disk.as_fd()), ..self.request(None) };
        check_unlocked(&disk, self.mode, &request)
    }
}
