//! Requests that check or reacquire locks that were held before the service was restarted.
//!
//! The service serves before any of these is sent: the storage may be dead, and a lock that cannot
//! be checked counts as held.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl, fstat};
use rustix::io::Errno;

use crate::lock::acquire::LockFiles;
use crate::lock::acquire::goal::Goal;
use crate::lock::acquire::handle::{Byte, LockHandle};
use crate::lock::acquire::nfs_expired::is_expired;
use crate::lock::disk::in_use::InUse;
use crate::lock::holder_record::record::HolderRecord;
use crate::lock::lockspace::key::Key;
use crate::lock::lockspace::lock_file::LockFile;
use crate::lock::lockspace::{Directory, Lockspace, LockspaceKind};
use crate::lock::model::disk_path::DiskPath;
use crate::lock::model::error::Error;
use crate::lock::model::event::Loss;
use crate::lock::model::identity::Identity;
use crate::lock::model::lock::Want;
use crate::lock::model::mode::Mode;
use crate::lock::mount::{Mount, Mounts};
use crate::lock::ofd;
use crate::lock::ofd::description::Description;
use crate::lock::path::open::{self, Links};
use crate::lock::request::Work;
use crate::lock::resolve::lock_file::Naming;
use crate::lock::resolve::{Access, Resolve, Wanted};
use crate::lock::text::errno::errno_description;
use crate::lock::text::escape::spelt_path;

/// The directories of the lock files of restored locks, each once and not opened yet.
#[derive(Debug, Default)]
pub struct Directories(HashMap<PathBuf, Arc<Directory>>);

impl Directories {
    fn of(&mut self, file: &Path) -> Option<(Arc<Directory>, String)> {
        let (path, name) = (file.parent()?, file.file_name()?.to_str()?);
        let directory = self.0.entry(path.to_owned());
        let directory = directory.or_insert_with(|| Arc::new(Directory::unopened(path)));
        Some((Arc::clone(directory), name.to_owned()))
    }
}

impl LockHandle {
    /// Returns a lock made from its descriptions; `None` if their number is not that of its lock
    /// files.
    #[must_use]
    pub fn restored(
        descriptions: Vec<Description>,
        want: &Want,
        record: &HolderRecord,
        directories: &mut Directories,
    ) -> Option<Self> {
        if want.mode == Mode::None && descriptions.is_empty() {
            return Some(Self::of_nothing());
        }
        if descriptions.len() != want.lock_files.len() || descriptions.is_empty() {
            return None;
        }
        let writable = descriptions.iter().all(is_writable);
        // Found out without a query to the file system. Descriptors of some are kept elsewhere.
        let mounts = Mounts::current().unwrap_or_default();
        let on_remote = |file: &PathBuf| mounts.of(file).is_some_and(Mount::is_remote);
        // The path of a lockspace may lead there through a link. To erase a record that does not
        // exist does no harm.
        let may_be_shared = want.lockspace.has_files()
            || descriptions.iter().any(Description::is_away)
            || want.lock_files.iter().any(on_remote);
        let record = HolderRecord { may_be_shared, ..record.clone() };
        let lock_file = |file: &PathBuf| {
            let (directory, name) = directories.of(file).filter(|_| want.lockspace.has_files())?;
            Some(LockFile { directory, name, fleeting: want.fleeting })
        };
        let lock_files: Vec<_> = want.lock_files.iter().map(lock_file).collect();
        let byte = |(description, lock_file)| Byte { description, lock_file };
        let bytes = descriptions.into_iter().zip(lock_files).map(byte);
        let held = Self::new(bytes.collect(), writable, want.mode);
        // As it was recorded when the lock was acquired.
        let in_lockspace = want.lockspace.has_files();
        *held.written() = record.written(&want.resource, in_lockspace, want.mode);
        Some(held)
    }

    /// Returns the descriptions of its bytes, in order.
    pub fn descriptions(&self) -> impl Iterator<Item = &Description> {
        self.bytes.iter().map(|byte| &byte.description)
    }

    /// Whether a use of the lock has to query a file system that may not respond.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.descriptions().any(Description::is_away)
    }
}

/// Returns the known properties of an orphan: a lock that has descriptions but no entry in the state
/// file. Queries no file system.
///
/// `None` if the descriptions are of files that are never locked.
#[must_use]
pub fn recognise(descriptions: &[Description], number: u64) -> Option<Want> {
    let mut files = Vec::new();
    for description in descriptions.iter().filter(|description| !description.is_away()) {
        files.push(description.file().ok()?);
    }
    // The mode of a description that is not open here is unknown, and counts as exclusive.
    let mode = files.first().map_or(Some(Mode::Exclusive), |file| mode_of(file))?;
    let identity = match files.first() {
        Some(file) => Identity::of_open(&**file)?,
        // Nothing is known without its file system, so it gets an identity that no other has.
        None => Identity::Inode { dev: 0, ino: u64::MAX - number },
    };
    let name =
        |file: &Arc<File>| open::name_of(file.as_fd()).ok().filter(|name| name.is_absolute());
    let unnamed = || PathBuf::from(format!("fd:{identity}"));
    let named = files.iter().map(|file| name(file).unwrap_or_else(unnamed));
    let lock_files: Vec<PathBuf> =
        named.chain(std::iter::repeat_with(unnamed)).take(descriptions.len()).collect();
    let resource = spelt_path(lock_files.first()?);
    Some(Want { lock_files, ..Want::direct(resource, identity, mode) })
}

/// Returns the mode in which a description is locked, from its `fdinfo` (`proc_pid_fdinfo(5)`).
/// Exclusive if that cannot be read; `None` if it is not locked.
fn mode_of(file: &File) -> Option<Mode> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()));
    let Ok(info) = info else { return Some(Mode::Exclusive) };
    let lock = info.lines().find(|line| line.starts_with("lock:"))?;
    Some(if lock.contains(" READ ") { Mode::Shared } else { Mode::Exclusive })
}

/// Whether the description was opened for writing, according to the kernel. True for one that is
/// kept elsewhere: only a use of it shows its access mode.
fn is_writable(description: &Description) -> bool {
    if description.is_away() {
        return true;
    }
    let Ok(file) = description.file() else { return false };
    let flags = fcntl_getfl(&*file);
    flags.is_ok_and(|flags| flags & OFlags::ACCMODE == OFlags::RDWR)
}

/// Verifies a restored lock: it has to be on the same file as before, and still held. A network
/// file system may have lost it, and reports that only to a new attempt to lock.
#[derive(Debug)]
pub struct VerifyLock {
    /// The lock.
    pub held: Arc<LockHandle>,
    /// The resource that it is on.
    pub want: Want,
}

/// The result of a verification that does not confirm the lock.
#[derive(Debug)]
pub enum Doubt {
    /// The lock is not held.
    Lost(Lost),
    /// The file system does not respond. That does not mean that another host has the lock.
    Unknown(String),
}

/// A lost lock.
#[derive(Debug)]
pub struct Lost {
    /// The kind of the loss.
    pub loss: Loss,
    /// The cause, as a sentence.
    pub why: String,
}

impl Work for VerifyLock {
    type Answer = Result<(), Doubt>;

    fn perform(self) -> Result<(), Doubt> {
        let Self { held, want } = self;
        // The present mode: the lock may have been converted or released while this waited.
        let mode = held.mode();
        match *mode {
            Some(mode) => held.bytes.iter().try_for_each(|byte| verify_byte(byte, &want, mode)),
            None => Ok(()),
        }
    }
}

fn verify_byte(byte: &Byte, want: &Want, mode: Mode) -> Result<(), Doubt> {
    let unknown = |errno: Errno| Doubt::Unknown(errno_description(errno).to_owned());
    let lost = |loss, why: &str| Err(Doubt::Lost(Lost { loss, why: why.to_owned() }));
    let failed = |error: Error| Doubt::Unknown(error.to_string());
    let file = byte.description.file().map_err(failed)?;
    match &byte.lock_file {
        None => {
            let stat = fstat(&*file).map_err(unknown)?;
            let found = Identity::of(&stat);
            if found.is_some_and(|found| found.is_unknown()) {
                return Err(Doubt::Unknown("its disk sequence number cannot be read".to_owned()));
            }
            if found != Some(want.identity) {
                return lost(Loss::Replaced, "its descriptor leads to another disk");
            }
        }
        Some(LockFile { directory, name, .. }) => {
            if !directory.still_names(name, &file).map_err(failed)? {
                return lost(Loss::Replaced, "another program has removed its lock file");
            }
        }
    }
    if is_expired(&file).map_err(unknown)? {
        return lost(
            Loss::Expired,
            "the server dropped it, because it had no contact with this host for too long",
        );
    }
    match ofd::try_lock(&*file, mode) {
        Ok(true) => Ok(()),
        Ok(false) => lost(Loss::Taken, "another program or host has locked it"),
        Err(errno) => Err(unknown(errno)),
    }
}

/// Reacquires a lock of which only the entry in the state file is left.
#[derive(Debug)]
pub struct ReacquireLock {
    /// The resource to lock.
    pub want: Want,
    /// The owner.
    pub record: HolderRecord,
}

impl Work for ReacquireLock {
    type Answer = Result<LockHandle, Lost>;

    fn perform(self) -> Result<LockHandle, Lost> {
        let Self { want, record } = self;
        let mode = want.mode;
        let goal = match find_in_place(&want).map_or_else(|| find(&want), Ok)? {
            Goal::Disk(target) => Goal::Disk(Box::new(target.without_devices())),
            goal @ Goal::Key(_) => goal,
        };
        let goal = Arc::new(goal);
        let may_be_shared = goal.may_be_shared().unwrap_or(false);
        let record = HolderRecord { may_be_shared, ..record };
        // It was locked before, and its VM is alive.
        let request = LockFiles { goal, mode, record, non_blocking: false, in_use: InUse::Allowed };
        request.perform().map_err(|error| Lost {
            loss: match error {
                Error::HeldElsewhere(_) => Loss::Taken,
                Error::Changed(_) => Loss::Replaced,
                _ => Loss::Unlockable,
            },
            why: error.to_string(),
        })
    }
}

/// Finds again a resource that a suspended owner remembers. Opens no disk.
///
/// # Errors
///
/// [`Error::Changed`] if its name leads elsewhere by now, or nowhere; [`Error::NotLockable`].
pub fn find_again(want: &Want) -> Result<Goal, Error> {
    let mut found = find(want).map_err(|Lost { loss, why }| match loss {
        Loss::Replaced => Error::changed(&want.resource),
        Loss::Taken | Loss::Expired | Loss::Unlockable => Error::not_lockable(&want.resource, why),
    })?;
    if let Goal::Disk(target) = &mut found {
        target.shown = want.write_shown.then_some(Access::ReadWrite);
    }
    Ok(found)
}

/// Finds the locked resource by its name, if that still leads to it.
fn find(want: &Want) -> Result<Goal, Lost> {
    let lost = |loss: Loss, why: String| Lost { loss, why };
    let mut directories = Directories::default();
    let mut locations = want.lock_files.iter().map(|file| directories.of(file));
    if matches!(want.identity, Identity::Key { .. }) {
        let location = locations.next().flatten();
        let (directory, name) =
            location.ok_or_else(|| lost(Loss::Unlockable, "its lock file is unknown".into()))?;
        let lockspace = match want.lockspace {
            LockspaceKind::Direct => Lockspace::File(directory),
            kind => kind.lockspace(directory),
        };
        let key = Key::new(lockspace, &name, want.fleeting);
        let key = key.map(|key| if want.write_shown { key } else { key.for_one_mode() });
        return key.map(Goal::Key).map_err(|error| lost(Loss::Unlockable, error.to_string()));
    }
    let path = want.path.as_deref().and_then(Path::to_str).map(DiskPath::parse);
    let Some(Ok(path)) = path else {
        return Err(lost(Loss::Unlockable, "it has no name by which it could be found".into()));
    };
    find_at(want, path, Links::Follow)
}

/// Finds a disk at the path where it was locked: its canonical path, which has no links. So neither
/// the lookup nor its outcome depends on the present targets of links. `None` if it is not there.
fn find_in_place(want: &Want) -> Option<Goal> {
    let path = DiskPath::parse(want.canonical.as_deref()?).ok()?;
    find_at(want, path, Links::Refuse).ok()
}

/// Finds a disk by a path, if that leads to it.
fn find_at(want: &Want, path: DiskPath, links: Links) -> Result<Goal, Lost> {
    let lost = |loss: Loss, why: String| Lost { loss, why };
    let mut directories = Directories::default();
    let mut locations = want.lock_files.iter().map(|file| directories.of(file));
    let naming = match locations.next().flatten().filter(|_| want.lockspace.has_files()) {
        Some((directory, _)) => {
            let names = want.lock_files.iter().filter_map(|file| file.file_name()?.to_str());
            let names = names.map(str::to_owned).collect();
            Naming::Names(want.lockspace.lockspace(directory), names)
        }
        None => Naming::Direct,
    };
    let resolve = Resolve::new(Wanted::Path(path), naming, links);
    let mut target = resolve.perform().map_err(|error| lost(Loss::Replaced, error.to_string()))?;
    if target.identity != want.identity {
        return Err(lost(Loss::Replaced, "its name leads to another disk".into()));
    }
    target.name.clone_from(&want.resource);
    Ok(Goal::Disk(Box::new(target)))
}
