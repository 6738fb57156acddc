//! Resolution of a request: from the name or descriptor of the caller to the disk.

pub mod lock_file;
pub mod name_state;
pub mod renewal;
pub(super) mod scsi_id;
pub(super) mod target;
pub mod view;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, OFlags, Stat, fcntl_getfl, fstat, statat};
use rustix::io::Errno;

use super::lockspace::Lockspace;
use crate::lock::descriptor::passed::{self, Sender};
use crate::lock::descriptor::received::Received;
use crate::lock::disk::file_system::Devices;
use crate::lock::disk::snapshot::Snapshot;
use crate::lock::disk::stack::Stack;
use crate::lock::model::disk_path::DiskPath;
use crate::lock::model::error::Error;
use crate::lock::model::identity::Identity;
use crate::lock::model::lock::Want;
use crate::lock::model::mode::Mode;
use crate::lock::model::operation::Operation;
use crate::lock::path::fs_type::FsType;
use crate::lock::path::open::{self, Examined, Links};
use crate::lock::request::{Asked, FoundFile, Work};
use crate::lock::resolve::view::FileId;
use crate::lock::text::escape::spelt_path;
use lock_file::Naming;

/// The name of a passed descriptor in errors.
const PASSED: &str = "the descriptor's file";

/// The disk that a caller requests, by a name or an open file.
#[derive(Debug)]
pub enum Wanted {
    /// The disk with this name.
    Path(DiskPath),
    /// The disk that this descriptor has open.
    File(Received, Sender),
}

/// A request to find a disk. Opens no disk, creates nothing.
#[derive(Debug)]
pub struct Resolve {
    /// The requested disk.
    pub wanted: Wanted,
    /// The way in which its lock files are found.
    pub naming: Naming,
    /// The treatment of symbolic links in a name.
    pub links: Links,
    /// The file, if the name was looked up already.
    found: FoundFile,
}

impl Resolve {
    /// Returns the request.
    #[must_use]
    pub fn new(wanted: Wanted, naming: Naming, links: Links) -> Self {
        Self { wanted, naming, links, found: FoundFile::default() }
    }

    /// Returns the same request for another lookup; `None` for an open file, since the request
    /// means that file wherever its name leads later.
    #[must_use]
    pub fn again(&self) -> Option<Self> {
        match &self.wanted {
            Wanted::Path(path) => {
                let wanted = Wanted::Path(path.clone());
                Some(Self::new(wanted, self.naming.clone(), self.links))
            }
            Wanted::File(..) => None,
        }
    }
}

/// A disk that was found. A descriptor pins it until it is locked or dropped.
#[derive(Debug)]
pub struct Target {
    /// Its name: exactly as given, or the proven name of a descriptor, or `fd:<identity>`.
    pub name: String,
    /// The name without links and detours.
    pub canonical: Option<String>,
    /// Its identity.
    pub identity: Identity,
    /// The layers below it.
    pub(super) stack: Stack,
    /// The devices below the file systems of its files.
    pub(super) devices: Devices,
    /// The owner of the file.
    pub uid: u32,
    /// The access that the caller has shown by an open descriptor; `None` if it only named the
    /// disk.
    pub shown: Option<Access>,
    /// Whether the disk is on FUSE, where a process of any user may answer or never answer; also
    /// for a file system that may lie on FUSE and is mounted only in the caller's namespace.
    pub fuse: bool,
    /// The lockspace of the disk.
    pub lockspace: Lockspace,
    /// The lock files' names in the lockspace's directory; none if the disk itself is locked.
    pub(super) files: Vec<String>,
    /// A path that must still lead to the disk once it is locked.
    pub(super) path: Option<PathBuf>,
    /// An `O_PATH` descriptor of the disk, through which it is opened.
    pub(super) pin: OwnedFd,
    /// Its status when it was found.
    pub(super) stat: Stat,
    /// The type of its file system.
    pub(super) fs_type: FsType,
    /// Whether its path had no link in it.
    is_plain: bool,
}

/// The access mode of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// For reading only.
    Read,
    /// For reading and writing.
    ReadWrite,
}

impl Target {
    /// Returns its path; `None` for a descriptor whose name leads elsewhere for the service.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Returns the id that shows whether another name leads to the same file.
    #[must_use]
    pub fn file_id(&self) -> FileId {
        FileId::of(&self.stat)
    }

    /// Whether its path still leads to this disk. True for a disk without a path.
    ///
    /// # Errors
    ///
    /// Errors of looking the path up, except for a path that leads nowhere.
    pub fn is_named(&self) -> Result<bool, Errno> {
        let Some(path) = &self.path else { return Ok(true) };
        let found = if self.is_plain {
            // By now it may have links, whose number the kernel bounds, too.
            statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
        } else {
            open::locate(path, Links::Follow).and_then(fstat)
        };
        let found = match found {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        // Another block device may be behind the same node.
        Ok(open::same_node(&found, &self.stat) && Identity::of(&found) == Some(self.identity))
    }

    /// Returns the paths of the files whose byte will be locked; the first is the displayed one.
    #[must_use]
    pub fn lock_files(&self) -> Vec<PathBuf> {
        match self.lockspace.directory() {
            None => vec![PathBuf::from(&self.name)],
            Some(directory) => self.files.iter().map(|name| directory.path_of(name)).collect(),
        }
    }

    /// Returns the file systems that have to be queried for it.
    #[must_use]
    pub fn asks(&self) -> Vec<Asked<'_>> {
        [Asked::File(self.pin.as_fd())]
            .into_iter()
            .chain(self.lockspace.directory().map(|there| there.asks()))
            .collect()
    }

    /// Returns the disk as the table stores it.
    #[must_use]
    pub fn want(&self, mode: Mode) -> Want {
        Want {
            resource: self.name.clone(),
            canonical: self.canonical.clone(),
            path: self.path.clone(),
            identity: self.identity,
            below: [self.below(mode), self.devices.extents.clone()].concat(),
            copies: self.copies(mode),
            lockspace: self.lockspace.kind(),
            lock_files: self.lock_files(),
            fleeting: self.lockspace.kind().has_files(),
            mode,
            write_shown: self.shown == Some(Access::ReadWrite),
        }
    }
}

impl Work for Resolve {
    type Answer = Result<Target, Error>;

    fn asks(&self) -> Vec<Asked<'_>> {
        let (disk, may_be_device) = match &self.wanted {
            Wanted::Path(path) => {
                let path = path.as_path();
                (Asked::Lookup(path, &self.found), lock_file::is_below_dev(path))
            }
            Wanted::File(file, _) => (Asked::File(file.as_fd()), true),
        };
        [disk].into_iter().chain(self.naming.asks(may_be_device)).collect()
    }

    fn perform(self) -> Result<Target, Error> {
        self.perform_on(&Snapshot::default())
    }
}

impl Resolve {
    /// Performs the request with the state of block devices in `host`.
    ///
    /// # Errors
    ///
    /// As for [`Work::perform`].
    pub fn perform_on(self, host: &Snapshot) -> Result<Target, Error> {
        match self.wanted {
            Wanted::Path(path) => by_path(&path, self.found.take(), self.naming, self.links, host),
            Wanted::File(file, sender) => by_descriptor(file, sender, self.naming, host),
        }
    }
}

/// A request for the identity of the disk that a descriptor has open, in any access mode.
#[derive(Debug)]
pub struct Identify(pub Received);

impl Work for Identify {
    type Answer = Result<(Received, Identity), Error>;

    fn asks(&self) -> Vec<Asked<'_>> {
        vec![Asked::File(self.0.as_fd())]
    }

    fn perform(self) -> Self::Answer {
        let Self(file) = self;
        let identity = match passed::identify_without_query(file.as_fd())? {
            Some(identity) => identity,
            None => open::examine(file.as_fd(), PASSED)?.identity,
        };
        Ok((file, identity))
    }
}

fn by_path(
    path: &DiskPath,
    found: Option<OwnedFd>,
    naming: Naming,
    links: Links,
    host: &Snapshot,
) -> Result<Target, Error> {
    let name = spelt_path(path.as_path());
    let is_plain = found.is_some();
    let located = found.map_or_else(|| open::locate(path.as_path(), links), Ok);
    let pin = located.map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => Error::missing(&name),
        Errno::LOOP => Error::not_lockable(
            &name,
            match links {
                Links::Follow => "its path has a loop or a magic link in it",
                Links::Refuse => "its path leads through a symbolic link, which only root may use",
            },
        ),
        errno => Error::system(Operation::Find, &name, errno),
    })?;
    // A name without links is its own canonical name, but for file systems that ignore case. Lock
    // files are named after it.
    let canonical = if is_plain && matches!(naming, Naming::Direct) {
        path.as_path().to_owned()
    } else {
        // The kernel's name of a file that the service located in its own namespace cannot be
        // forged.
        open::name_of(pin.as_fd())
            .map_err(|errno| Error::system(Operation::Canonicalize, &name, errno))?
    };
    let found = target(name, Some((path.as_path(), canonical)), pin, None, naming, host)?;
    Ok(Target { is_plain, ..found })
}

fn by_descriptor(
    file: Received,
    sender: Sender,
    naming: Naming,
    host: &Snapshot,
) -> Result<Target, Error> {
    let access = access(file.as_fd())?;
    let passed::Proven { name, local } = passed::prove(file.as_fd(), sender)?;
    // The pin is no copy of the passed descriptor: closing a copy may take as long as its sender
    // chooses.
    let pin =
        open::pin(file.as_fd()).map_err(|errno| Error::system(Operation::Open, PASSED, errno))?;
    if local {
        file.close();
    }
    let Examined { stat, identity, .. } = open::examine(pin.as_fd(), PASSED)?;
    // The sender may have forged the name. It is used only if it leads to the same file for the
    // service.
    let name = name.filter(|name| open::leads_to(name, &stat).unwrap_or(false));
    match name {
        Some(path) => {
            target(spelt_path(&path), Some((&path, path.clone())), pin, Some(access), naming, host)
        }
        None => target(format!("fd:{identity}"), None, pin, Some(access), naming, host),
    }
}

fn target(
    name: String,
    path: Option<(&Path, PathBuf)>,
    pin: OwnedFd,
    shown: Option<Access>,
    naming: Naming,
    host: &Snapshot,
) -> Result<Target, Error> {
    let Examined { stat, identity, fs_type } = open::examine(pin.as_fd(), &name)?;
    let stack = Stack::of((pin.as_fd(), Some(fs_type)), identity, &name, host.sysfs())?;
    let devices = stack.devices(identity, host.sysfs());
    let fuse = fs_type == FsType::FUSE || (path.is_none() && fs_type.may_hide_fuse());
    let given = path.as_ref().map(|(given, canonical)| (*given, canonical.as_path()));
    let disk = lock_file::Disk { name: &name, path: given, pin: pin.as_fd(), identity };
    let (lockspace, files) = naming.of(disk)?;
    Ok(Target {
        canonical: path.as_ref().map(|(_, canonical)| spelt_path(canonical)),
        path: path.map(|(given, _)| given.to_owned()),
        name,
        identity,
        stack,
        devices,
        uid: stat.st_uid,
        shown,
        fuse,
        lockspace,
        files,
        pin,
        stat,
        fs_type,
        is_plain: false,
    })
}

/// Returns the access that a descriptor proves. One opened with `O_PATH` or for writing only does
/// not prove read access, and is refused.
fn access(fd: BorrowedFd<'_>) -> Result<Access, Error> {
    let refuse = |why: &str| Err(Error::not_lockable(PASSED, why));
    let flags =
        fcntl_getfl(fd).map_err(|errno| Error::system(Operation::Stat, "the descriptor", errno))?;
    if flags.contains(OFlags::PATH) {
        return refuse("the descriptor was opened with O_PATH");
    }
    match flags & OFlags::ACCMODE {
        OFlags::RDWR => Ok(Access::ReadWrite),
        OFlags::RDONLY => Ok(Access::Read),
        _ => refuse("the descriptor was opened for writing only; open it for reading and writing"),
    }
}
