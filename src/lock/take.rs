//! Taking a lock: the requests that lock a byte that was not locked, and ask who has it.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::description::Description;
use super::directory::Directory;
use super::error::Error;
use super::held::{Byte, Held, Place};
use super::holder::{Stranger, StrangersLock};
use super::identity::Identity;
use super::key::Key;
use super::mode::Mode;
use super::ofd;
use super::open;
use super::printable::shown_path;
use super::record::Want;
use super::resolve::Target;
use super::stranger;
use super::work::Work;

/// How often a lock file is opened anew because somebody removed it in between.
const TRIES: usize = 64;

/// What is to be locked: found, and not touched yet.
#[derive(Debug)]
pub enum Goal {
    /// A disk.
    Disk(Box<Target>),
    /// A key in a lockspace.
    Key(Key),
}

impl Goal {
    /// What the table is told of it.
    #[must_use]
    pub fn want(&self, mode: Mode) -> Want {
        match self {
            Self::Disk(target) => target.want(mode),
            Self::Key(key) => key.want(mode),
        }
    }
}

/// Locks a goal in a mode. Nothing is left locked or created when it fails.
#[derive(Debug)]
pub struct Take {
    /// What.
    pub goal: Arc<Goal>,
    /// How.
    pub mode: Mode,
}

impl Work for Take {
    type Answer = Result<Held, Error>;

    fn perform(self) -> Result<Held, Error> {
        match &*self.goal {
            Goal::Disk(target) => take_disk(target, self.mode),
            Goal::Key(key) => take_key(key, self.mode),
        }
    }
}

fn take_disk(target: &Target, mode: Mode) -> Result<Held, Error> {
    let (disk, writable) = open_disk(target, mode)?;
    let Some(directory) = target.lockspace.directory() else {
        lock_byte(&disk, mode, &target.name, None)?;
        still_there(target)?;
        let byte = Byte { description: Description::new(disk), place: None };
        return Ok(Held::new(vec![byte], writable, mode));
    };
    // A holder that locks the disk directly does not know of our directory.
    free_byte(&disk, mode, &target.name, None)?;
    let mut held = Held::new(Vec::new(), true, mode);
    for name in &target.files {
        match lock_file(directory, name, true, mode, &target.name) {
            Ok(byte) => held.bytes.push(byte),
            Err(error) => return Err(error.with_undo(held.give())),
        }
    }
    match still_there(target) {
        Ok(()) => Ok(held),
        Err(error) => Err(error.with_undo(held.give())),
    }
}

fn take_key(key: &Key, mode: Mode) -> Result<Held, Error> {
    let resource = key.resource();
    let Some(directory) = key.lockspace().directory() else {
        return Err(Error::not_lockable(resource, "it is in no lockspace"));
    };
    let byte = lock_file(directory, key.name(), key.is_fleeting(), mode, &resource)?;
    Ok(Held::new(vec![byte], true, mode))
}

/// Makes the file of a key, or removes it; the latter only while nobody has it locked.
#[derive(Debug)]
pub enum Tend {
    /// Makes it where it is missing.
    Make(Key),
    /// Removes it where it is there.
    Remove(Key),
}

impl Work for Tend {
    type Answer = Result<(), Error>;

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
        let byte = lock_file(directory, key.name(), true, Mode::Exclusive, &resource)?;
        let mut failed = Held::new(vec![byte], true, Mode::Exclusive).give();
        failed.pop().map_or(Ok(()), Err)
    }
}

/// Opens the disk itself: for writing where an exclusive lock will sit on it, and where possible
/// for a shared one too, since a description opened for reading can never be strengthened.
fn open_disk(target: &Target, mode: Mode) -> Result<(File, bool), Error> {
    let pin = target.pin.as_fd();
    let only_tested = target.lockspace.kind().has_files();
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

pub(super) fn lock_byte(
    file: &File,
    mode: Mode,
    disk: &str,
    lock_file: Option<&str>,
) -> Result<(), Error> {
    let no_locks = |errno: Errno| no_locks(disk, lock_file, errno);
    if ofd::try_lock(file, mode).map_err(no_locks)? {
        return Ok(());
    }
    let other = ofd::in_the_way(file, mode).map_err(no_locks)?;
    Err(stranger::error(disk, lock_file, file.as_fd(), mode, other, StrangersLock::Byte))
}

pub(super) fn free_byte(
    file: &File,
    mode: Mode,
    disk: &str,
    lock_file: Option<&str>,
) -> Result<(), Error> {
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
    fleeting: bool,
    mode: Mode,
    resource: &str,
) -> Result<Byte, Error> {
    let shown = shown_path(&directory.path_of(name));
    for _ in 0..TRIES {
        let file = if fleeting {
            directory.open_file(name)?
        } else {
            directory.find_file(name)?.ok_or_else(|| Error::missing(&shown))?
        };
        lock_byte(&file, mode, resource, Some(&shown))?;
        if directory.still_names(name, &file)? {
            let (directory, name) = (Arc::clone(directory), name.to_owned());
            let place = Some(Place { directory, name, fleeting });
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
                let Some(directory) = target.lockspace.directory() else { return Ok(()) };
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
