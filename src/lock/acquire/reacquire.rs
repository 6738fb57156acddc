//! Locks that were there before the service was started again: the requests that see to them.
//!
//! Nothing here is asked before the service serves: the storage may be dead, and a lock that can't
//! be looked at is a lock all the same.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::fstat;

use crate::lock::acquire::handle::{Byte, Held, Place};
use crate::lock::acquire::nfs_expired::is_expired;
use crate::lock::acquire::{Goal, Take};
use crate::lock::disk::in_use::InUse;
use crate::lock::holder_record::record::Signature;
use crate::lock::lockspace::key::Key;
use crate::lock::lockspace::{Directory, Lockspace, LockspaceKind};
use crate::lock::model::disk_path::DiskPath;
use crate::lock::model::error::Error;
use crate::lock::model::event::Loss;
use crate::lock::model::identity::Identity;
use crate::lock::model::lock::Want;
use crate::lock::model::mode::Mode;
use crate::lock::ofd;
use crate::lock::ofd::description::Description;
use crate::lock::path::open::{self, Links};
use crate::lock::request::Work;
use crate::lock::resolve::lock_file::Naming;
use crate::lock::resolve::{Access, Resolve, Wanted};
use crate::lock::text::escape::spelt_path;

/// The directories of lock files that restored locks refer to, each once and none opened yet.
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

impl Held {
    /// A lock from its descriptions; `None` where they are not as many as it has lock files.
    #[must_use]
    pub fn restored(
        descriptions: Vec<Description>,
        want: &Want,
        signature: &Signature,
        directories: &mut Directories,
    ) -> Option<Self> {
        if want.mode == Mode::None && descriptions.is_empty() {
            return Some(Self::of_nothing());
        }
        if descriptions.len() != want.lock_files.len() || descriptions.is_empty() {
            return None;
        }
        let writable = descriptions.iter().all(is_writable);
        // Elsewhere is where those are kept whose file systems others serve.
        let is_far = descriptions.iter().any(Description::is_away);
        let signature = Signature { is_far, ..signature.clone() };
        let place = |file: &PathBuf| {
            let (directory, name) = directories.of(file).filter(|_| want.lockspace.has_files())?;
            Some(Place { directory, name, fleeting: want.fleeting })
        };
        let places: Vec<_> = want.lock_files.iter().map(place).collect();
        let byte = |(description, place)| Byte { description, place };
        let bytes = descriptions.into_iter().zip(places).map(byte);
        let held = Self::new(bytes.collect(), writable, want.mode);
        // As it was recorded when it was taken.
        let in_lockspace = want.lockspace.has_files();
        *held.written() = signature.written(&want.resource, in_lockspace, want.mode);
        Some(held)
    }

    /// The descriptions of its bytes, in order.
    pub fn descriptions(&self) -> impl Iterator<Item = &Description> {
        self.bytes.iter().map(|byte| &byte.description)
    }

    /// Whether a file system has to be asked for it that may not answer.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.descriptions().any(Description::is_away)
    }
}

/// What can be told of a lock of which there are descriptors and no record. Asks no file system.
///
/// `None` where they are of nothing that is ever locked.
#[must_use]
pub fn recognise(descriptions: &[Description], number: u64) -> Option<Want> {
    let mut files = Vec::new();
    for description in descriptions.iter().filter(|description| !description.is_away()) {
        files.push(description.file().ok()?);
    }
    // Of those that are not open it is not known; so it counts as locked.
    let mode = files.first().map_or(Some(Mode::Exclusive), |file| mode_of(file))?;
    let identity = match files.first() {
        Some(file) => Identity::of_open(&**file)?,
        // Nothing can be told without its file system: none that is like any other's.
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

/// How a description is locked, as its own `fdinfo` tells (`proc_pid_fdinfo(5)`); the stronger mode
/// where it can't be read. `None`: it is not locked.
fn mode_of(file: &File) -> Option<Mode> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()));
    let Ok(info) = info else { return Some(Mode::Exclusive) };
    let lock = info.lines().find(|line| line.starts_with("lock:"))?;
    Some(if lock.contains(" READ ") { Mode::Shared } else { Mode::Exclusive })
}

/// How the description was opened; asks nobody but the kernel. Of one that is kept elsewhere it is
/// not known before it is tried.
fn is_writable(description: &Description) -> bool {
    if description.is_away() {
        return true;
    }
    let Ok(file) = description.file() else { return false };
    let flags = fcntl(&*file, FcntlArg::F_GETFL).map(OFlag::from_bits_truncate);
    flags.is_ok_and(|flags| flags & OFlag::O_ACCMODE == OFlag::O_RDWR)
}

/// Looks whether a restored lock is there: on the file that it was on, and still ours. A network
/// file system may have lost it, and tells only whoever locks again.
#[derive(Debug)]
pub struct Reassert {
    /// The lock.
    pub held: Arc<Held>,
    /// What it is on.
    pub want: Want,
}

/// What looking at a lock may find, other than the lock.
#[derive(Debug)]
pub enum Doubt {
    /// It is not there.
    Lost(Lost),
    /// The file system does not say: that it is dead is no sign that others have the lock.
    Unknown(String),
}

/// What is wrong with a lock.
#[derive(Debug)]
pub struct Lost {
    /// In a word.
    pub loss: Loss,
    /// In a sentence.
    pub why: String,
}

impl Work for Reassert {
    type Answer = Result<(), Doubt>;

    fn perform(self) -> Result<(), Doubt> {
        let Self { held, want } = self;
        // As it is by now: it may have been converted, or given up, while this waited.
        let mode = held.mode();
        match *mode {
            Some(mode) => held.bytes.iter().try_for_each(|byte| reassert(byte, &want, mode)),
            None => Ok(()),
        }
    }
}

fn reassert(byte: &Byte, want: &Want, mode: Mode) -> Result<(), Doubt> {
    let unknown = |errno: nix::errno::Errno| Doubt::Unknown(errno.desc().to_owned());
    let lost = |loss, why: &str| Err(Doubt::Lost(Lost { loss, why: why.to_owned() }));
    let told = |error: Error| Doubt::Unknown(error.to_string());
    let file = byte.description.file().map_err(told)?;
    match &byte.place {
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
        Some(Place { directory, name, .. }) => {
            if !directory.still_names(name, &file).map_err(told)? {
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

/// Takes a lock again of which nothing but the record is left.
#[derive(Debug)]
pub struct Retake {
    /// What it is on.
    pub want: Want,
    /// For whom.
    pub signature: Signature,
}

impl Work for Retake {
    type Answer = Result<Held, Lost>;

    fn perform(self) -> Result<Held, Lost> {
        let Self { want, signature } = self;
        let mode = want.mode;
        let goal = match find_in_place(&want).map_or_else(|| find(&want), Ok)? {
            Goal::Disk(target) => Goal::Disk(Box::new(target.without_devices())),
            goal @ Goal::Key(_) => goal,
        };
        let goal = Arc::new(goal);
        // It was locked before, and its machine lives.
        let take = Take { goal, mode, signature, hasty: false, in_use: InUse::Allowed };
        take.perform().map_err(|error| Lost {
            loss: match error {
                Error::HeldElsewhere(_) => Loss::Taken,
                Error::Changed(_) => Loss::Replaced,
                _ => Loss::Unlockable,
            },
            why: error.to_string(),
        })
    }
}

/// Finds again what somebody remembers. Opens no disk.
///
/// # Errors
///
/// [`Error::Changed`] where its name leads elsewhere by now, or nowhere; [`Error::NotLockable`].
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

/// Finds what was locked: by its name, if that still leads to the same thing.
fn find(want: &Want) -> Result<Goal, Lost> {
    let lost = |loss: Loss, why: String| Lost { loss, why };
    let mut directories = Directories::default();
    let mut places = want.lock_files.iter().map(|file| directories.of(file));
    if matches!(want.identity, Identity::Key { .. }) {
        let place = places.next().flatten();
        let (directory, name) =
            place.ok_or_else(|| lost(Loss::Unlockable, "its lock file is unknown".into()))?;
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

/// Finds a disk that is where it was locked: by its canonical path, which has no links. So neither the
/// lookup nor its outcome depends on where links lead by now. `None` where it is not there.
fn find_in_place(want: &Want) -> Option<Goal> {
    let path = DiskPath::parse(want.canonical.as_deref()?).ok()?;
    find_at(want, path, Links::Refuse).ok()
}

/// Finds a disk by a path, if that leads to it.
fn find_at(want: &Want, path: DiskPath, links: Links) -> Result<Goal, Lost> {
    let lost = |loss: Loss, why: String| Lost { loss, why };
    let mut directories = Directories::default();
    let mut places = want.lock_files.iter().map(|file| directories.of(file));
    let naming = match places.next().flatten().filter(|_| want.lockspace.has_files()) {
        Some((directory, _)) => {
            let names = want.lock_files.iter().filter_map(|file| file.file_name()?.to_str());
            let names = names.map(str::to_owned).collect();
            Naming::Known(want.lockspace.lockspace(directory), names)
        }
        None => Naming::Direct,
    };
    let resolve = Resolve { wanted: Wanted::Path(path), naming, links };
    let mut target = resolve.perform().map_err(|error| lost(Loss::Replaced, error.to_string()))?;
    if target.identity != want.identity {
        return Err(lost(Loss::Replaced, "its name leads to another disk".into()));
    }
    target.name.clone_from(&want.resource);
    Ok(Goal::Disk(Box::new(target)))
}
