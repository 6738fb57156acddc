//! The open file description that a lock belongs to.
//!
//! It lives as long as a descriptor of it exists: open in this process, or kept elsewhere. If its
//! file system may hang, this process does not keep it open, since the close would have to wait. An
//! operation that needs it fetches a descriptor, on a thread that may block.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use crate::lock::model::error::Error;
use crate::lock::model::operation::Operation;
use crate::lock::path::fs_type::FsType;
use crate::sync;

/// A store of a descriptor outside this process.
pub trait Keeper: Send + Sync {
    /// Returns a copy of the descriptor.
    ///
    /// # Errors
    ///
    /// If there is none, or no more descriptors can be open.
    fn fetch(&self) -> io::Result<OwnedFd>;
}

/// An open file description, and where a descriptor of it is kept.
pub struct Description {
    location: Mutex<Location>,
    /// The type of its file system, if that was found out before.
    fs_type: Option<FsType>,
}

#[derive(Clone)]
enum Location {
    Here(Arc<File>),
    Away(Arc<dyn Keeper>),
}

impl fmt::Debug for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_away() { "Away" } else { "Here" })
    }
}

impl Description {
    /// Returns a description that is open in this process.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self { location: Mutex::new(Location::Here(Arc::new(file))), fs_type: None }
    }

    /// Returns a description that is open in this process, of a file on a file system of this type.
    pub(in crate::lock) fn with_fs_type(fs_type: FsType, file: File) -> Self {
        Self { fs_type: Some(fs_type), ..Self::new(file) }
    }

    /// Returns a description that a keeper stores.
    #[must_use]
    pub fn away(keeper: Arc<dyn Keeper>) -> Self {
        Self { location: Mutex::new(Location::Away(keeper)), fs_type: None }
    }

    /// Closes the descriptor in this process; from now on the keeper stores it. May wait for the
    /// file system.
    pub fn put_away(&self, keeper: Arc<dyn Keeper>) {
        let previous = {
            let mut location = sync::lock(&self.location);
            std::mem::replace(&mut *location, Location::Away(keeper))
        };
        drop(previous);
    }

    /// Whether the description is not open in this process.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self.location(), Location::Away(_))
    }

    /// Returns a descriptor, which is open as long as the caller needs it.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if it cannot be fetched.
    pub fn file(&self) -> Result<Arc<File>, Error> {
        match self.location() {
            Location::Here(file) => Ok(file),
            Location::Away(keeper) => match keeper.fetch() {
                Ok(fd) => Ok(Arc::new(File::from(fd))),
                Err(error) => {
                    let errno = Errno::from_io_error(&error).unwrap_or(Errno::BADF);
                    Err(Error::system(Operation::FetchDescriptor, "a lock", errno))
                }
            },
        }
    }

    /// Returns the device of the file if its file system may hang; `None` if it may stay open in
    /// this process.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if the file cannot be examined.
    pub fn remote_device(&self) -> Result<Option<u64>, Error> {
        if self.fs_type.is_some_and(|fs_type| !fs_type.may_hang()) {
            return Ok(None);
        }
        let file = self.file()?;
        let fs_type = FsType::of(&file)
            .map_err(|errno| Error::system(Operation::StatFileSystem, "a lock file", errno))?;
        if !fs_type.may_hang() {
            return Ok(None);
        }
        let stat = rustix::fs::fstat(&*file);
        let stat = stat.map_err(|errno| Error::system(Operation::Stat, "a lock file", errno))?;
        Ok(Some(stat.st_dev))
    }

    fn location(&self) -> Location {
        sync::lock(&self.location).clone()
    }
}
