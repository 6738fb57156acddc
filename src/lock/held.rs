//! Locks that are taken, changed and given up: the requests that touch a lock file's byte.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::description::Description;
use super::error::Error;
use super::holder::{Stranger, StrangersLock};
use super::identity::Identity;
use super::lockspace::{Directory, Lockspace};
use super::mode::Mode;
use super::ofd;
use super::open::{self, Links};
use super::printable::shown_path;
use super::resolve::Target;
use super::stranger;
use super::work::Work;

/// How often a lock file is opened anew because somebody removed it in between.
const TRIES: usize = 64;

/// The bytes that one lock consists of: one, or two where a hashed lockspace knows a disk by two
/// names. They are free when the last copy of their descriptions is closed, or by [`Give`].
#[derive(Debug)]
pub struct Held {
    pub(super) bytes: Vec<Byte>,
    /// Whether a shared lock could be strengthened: its description was opened for writing.
    pub(super) writable: bool,
    /// How the bytes are locked; `None` once they were given up. Taken while that changes.
    pub(super) mode: Mutex<Option<Mode>>,
}

#[derive(Debug)]
pub(super) struct Byte {
    pub(super) description: Description,
    /// The lock file and its name, where it is not the disk itself.
    pub(super) place: Option<(Arc<Directory>, String)>,
}

/// Locks a target in a mode. Nothing is left locked or created when it fails.
#[derive(Debug)]
pub struct Take {
    /// The disk.
    pub target: Target,
    /// How.
    pub mode: Mode,
}

impl Work for Take {
    type Answer = Result<Held, Error>;

    fn perform(self) -> Result<Held, Error> {
        let Self { target, mode } = self;
        let (disk, writable) = open_disk(&target, mode)?;
        match &target.lockspace {
            Lockspace::Direct => {
                lock_byte(&disk, mode, &target.name, None)?;
                still_there(&target)?;
                Ok(Held::new(
                    vec![Byte { description: Description::new(disk), place: None }],
                    writable,
                    mode,
                ))
            }
            Lockspace::File(directory) => {
                // A holder that locks the disk directly does not know of our directory.
                free_byte(&disk, mode, &target.name, None)?;
                let mut held = Held::new(Vec::new(), true, mode);
                for name in &target.files {
                    match lock_file(directory, name, mode, &target.name) {
                        Ok(byte) => held.bytes.push(byte),
                        Err(error) => return Err(error.with_undo(held.give())),
                    }
                }
                match still_there(&target) {
                    Ok(()) => Ok(held),
                    Err(error) => Err(error.with_undo(held.give())),
                }
            }
        }
    }
}

/// Opens the disk itself: for writing where an exclusive lock will sit on it, and where possible
/// for a shared one too, since a description opened for reading can never be strengthened.
fn open_disk(target: &Target, mode: Mode) -> Result<(File, bool), Error> {
    let pin = target.pin.as_fd();
    let only_tested = matches!(target.lockspace, Lockspace::File(_));
    let attempt = if only_tested {
        open::reopen(pin, false).map(|file| (file, false))
    } else {
        match (open::reopen(pin, true), mode) {
            (Err(Errno::EROFS | Errno::EACCES | Errno::EPERM | Errno::ETXTBSY), Mode::Shared) => {
                open::reopen(pin, false).map(|file| (file, false))
            }
            (attempt, _) => attempt.map(|file| (file, true)),
        }
    };
    let (file, writable) = attempt.map_err(|errno| match errno {
        Errno::EAGAIN => stranger::error(&target.name, None, pin, mode, None, StrangersLock::Lease),
        Errno::EROFS | Errno::EACCES | Errno::EPERM | Errno::ETXTBSY => Error::not_lockable(
            &target.name,
            format!("it can't be opened for writing ({})", errno.desc()),
        ),
        errno => Error::system("opening", &target.name, errno),
    })?;
    let stat = fstat(&file).map_err(|errno| Error::system("looking at", &target.name, errno))?;
    if open::same_node(&stat, &target.stat) && Identity::of(&stat) == Some(target.identity) {
        Ok((file, writable))
    } else {
        Err(Error::changed(&target.name))
    }
}

/// After the lock: does the name that was asked for still lead to what is locked?
fn still_there(target: &Target) -> Result<(), Error> {
    let Some(path) = &target.path else {
        return Ok(());
    };
    match open::leads_to(path, &target.stat) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::changed(&target.name)),
        Err(errno) => Err(Error::system("looking at", &target.name, errno)),
    }
}

fn lock_byte(file: &File, mode: Mode, disk: &str, lock_file: Option<&str>) -> Result<(), Error> {
    let no_locks = |errno: Errno| no_locks(disk, lock_file, errno);
    if ofd::try_lock(file, mode).map_err(no_locks)? {
        return Ok(());
    }
    let other = ofd::in_the_way(file, mode).map_err(no_locks)?;
    Err(stranger::error(disk, lock_file, file.as_fd(), mode, other, StrangersLock::Byte))
}

fn free_byte(file: &File, mode: Mode, disk: &str, lock_file: Option<&str>) -> Result<(), Error> {
    match ofd::in_the_way(file, mode).map_err(|errno| no_locks(disk, lock_file, errno))? {
        None => Ok(()),
        other => {
            Err(stranger::error(disk, lock_file, file.as_fd(), mode, other, StrangersLock::Byte))
        }
    }
}

fn no_locks(disk: &str, lock_file: Option<&str>, errno: Errno) -> Error {
    Error::not_lockable(
        lock_file.unwrap_or(disk),
        format!("its file system gives no lock ({})", errno.desc()),
    )
}

/// Opens, locks and compares a lock file until the one that is locked is the one that is there.
fn lock_file(
    directory: &Arc<Directory>,
    name: &str,
    mode: Mode,
    disk: &str,
) -> Result<Byte, Error> {
    let shown = shown_path(&directory.path_of(name));
    for _ in 0..TRIES {
        let file = directory.open_file(name)?;
        lock_byte(&file, mode, disk, Some(&shown))?;
        if directory.still_names(name, &file)? {
            let place = Some((Arc::clone(directory), name.to_owned()));
            return Ok(Byte { description: Description::new(file), place });
        }
    }
    Err(Error::changed(shown))
}

/// Finds out who else holds a disk of which the table knows no holder. Creates nothing.
#[derive(Debug)]
pub struct Probe(pub Target);

impl Work for Probe {
    type Answer = Result<Option<Stranger>, Error>;

    fn perform(self) -> Self::Answer {
        let target = self.0;
        let (name, mode) = (&target.name, Mode::Exclusive);
        let tested = open_disk(&target, Mode::Shared)
            .and_then(|(disk, _)| free_byte(&disk, mode, name, None))
            .and_then(|()| {
                let Lockspace::File(directory) = &target.lockspace else {
                    return Ok(());
                };
                target.files.iter().try_for_each(|file| {
                    let shown = shown_path(&directory.path_of(file));
                    match directory.find_file(file)? {
                        Some(lock_file) => free_byte(&lock_file, mode, name, Some(&shown)),
                        None => Ok(()),
                    }
                })
            });
        match tested {
            Ok(()) => Ok(None),
            Err(Error::HeldElsewhere(stranger)) => Ok(Some(*stranger)),
            Err(error) => Err(error),
        }
    }
}

/// Gives a lock up, whatever copies of its descriptions exist.
#[derive(Debug)]
pub struct Give(pub Arc<Held>);

impl Work for Give {
    /// What could not be done; the byte itself is free in any case once the copies are closed.
    type Answer = Vec<Error>;

    fn perform(self) -> Vec<Error> {
        self.0.give()
    }
}

impl Held {
    pub(super) fn new(bytes: Vec<Byte>, writable: bool, mode: Mode) -> Self {
        Self { bytes, writable, mode: Mutex::new(Some(mode)) }
    }

    /// Its mode, and the right to change it.
    pub(super) fn mode(&self) -> MutexGuard<'_, Option<Mode>> {
        self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self) -> Vec<Error> {
        // Held until all are unlocked: who looks at it in between would lock them again.
        let mut mode = self.mode();
        *mode = None;
        self.bytes.iter().flat_map(Byte::give).collect()
    }
}

impl Byte {
    /// The name of its lock file, for people.
    fn shown(&self) -> Option<String> {
        self.place.as_ref().map(|(directory, name)| shown_path(&directory.path_of(name)))
    }

    fn give(&self) -> Vec<Error> {
        let file = match self.description.file() {
            Ok(file) => file,
            Err(error) => return vec![error],
        };
        [self.remove(&file), self.unlock(&file)].into_iter().flatten().collect()
    }

    /// Removes the lock file, but only while we hold it alone: whoever shares it would be left
    /// with a lock that the next to come does not see.
    fn remove(&self, file: &File) -> Option<Error> {
        let (directory, name) = self.place.as_ref()?;
        let shown = || self.shown().unwrap_or_default();
        let alone = ofd::try_lock(file, Mode::Exclusive)
            .map_err(|errno| Error::system("locking lock file", shown(), errno))
            .and_then(|alone| Ok(alone && directory.still_names(name, file)?));
        match alone {
            Ok(true) => directory.remove_file(name).err(),
            Ok(false) => None,
            Err(error) => Some(error),
        }
    }

    fn unlock(&self, file: &File) -> Option<Error> {
        let name = || {
            let name = open::name_of(file.as_fd()).map(|path| shown_path(&path));
            self.shown().or(name.ok()).unwrap_or_else(|| "a disk".to_owned())
        };
        ofd::unlock(file).err().map(|errno| Error::system("unlocking", name(), errno))
    }
}

/// Changes the mode of a lock. When it fails, the lock is as it was.
#[derive(Debug)]
pub struct Convert {
    /// The lock.
    pub held: Arc<Held>,
    /// The mode it shall have.
    pub mode: Mode,
    /// Its name for people.
    pub name: String,
    /// In a hashed lockspace the disk's path and identity: before strengthening, the disk's own
    /// byte is tested, as when the lock was taken.
    pub disk: Option<(PathBuf, Identity)>,
}

impl Work for Convert {
    type Answer = Result<(), Error>;

    fn perform(self) -> Result<(), Error> {
        if self.mode == Mode::Exclusive {
            if !self.held.writable {
                let why = "it could only be opened for reading, so its lock can't be strengthened";
                return Err(Error::not_lockable(&self.name, why));
            }
            if let Some((path, identity)) = &self.disk {
                self.test_disk(path, *identity)?;
            }
        }
        let mut mode = self.held.mode();
        if mode.is_none() {
            return Err(Error::not_lockable(&self.name, "it has been released meanwhile"));
        }
        for (n, byte) in self.held.bytes.iter().enumerate() {
            let lock_file = byte.shown();
            let locked = byte
                .description
                .file()
                .and_then(|file| lock_byte(&file, self.mode, &self.name, lock_file.as_deref()));
            if let Err(error) = locked {
                let undo = self.held.bytes[..n].iter().filter_map(|byte| self.weaken(byte));
                return Err(error.with_undo(undo.collect()));
            }
        }
        *mode = Some(self.mode);
        Ok(())
    }
}

impl Convert {
    /// Undoes a strengthening.
    fn weaken(&self, byte: &Byte) -> Option<Error> {
        let failed = |errno| Error::system("weakening the lock on", &self.name, errno);
        let weakened = byte
            .description
            .file()
            .and_then(|file| ofd::try_lock(&*file, Mode::Shared).map_err(failed));
        weakened.err()
    }

    fn test_disk(&self, path: &std::path::Path, identity: Identity) -> Result<(), Error> {
        let changed = || Error::changed(&self.name);
        let pin = open::locate(path, Links::Follow).map_err(|_| changed())?;
        let (_, found) = open::examine(pin.as_fd(), &self.name)?;
        if found != identity {
            return Err(changed());
        }
        let disk = open::reopen(pin.as_fd(), false)
            .map_err(|errno| Error::system("opening", &self.name, errno))?;
        free_byte(&disk, self.mode, &self.name, None)
    }
}
