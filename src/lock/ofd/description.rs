//! The open file description that a lock sits on.
//!
//! It lives as long as a descriptor of it is somewhere: open in this process, or kept elsewhere.
//! One on a file system that may not answer is not open here at all, since closing it would have
//! to wait; it is fetched by who needs it, who waits anyway.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;

use crate::lock::model::error::Error;
use crate::lock::path::open;

/// Whoever keeps a descriptor.
pub trait Keeper: Send + Sync {
    /// A copy of it.
    ///
    /// # Errors
    ///
    /// Where there is none, or no more can be open.
    fn fetch(&self) -> io::Result<OwnedFd>;
}

/// Where a description is to be had.
pub struct Description(Mutex<Place>);

#[derive(Clone)]
enum Place {
    Here(Arc<File>),
    Away(Arc<dyn Keeper>),
}

impl fmt::Debug for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_away() { "Away" } else { "Here" })
    }
}

impl Description {
    /// One that is open here.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self(Mutex::new(Place::Here(Arc::new(file))))
    }

    /// One that somebody else keeps.
    #[must_use]
    pub fn away(keeper: Arc<dyn Keeper>) -> Self {
        Self(Mutex::new(Place::Away(keeper)))
    }

    /// Closes it here: from now on somebody else keeps it. May wait for the file system.
    pub fn put_away(&self, keeper: Arc<dyn Keeper>) {
        let before = {
            let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *place, Place::Away(keeper))
        };
        drop(before);
    }

    /// Whether it is not open here.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self.place(), Place::Away(_))
    }

    /// A descriptor of it, open as long as it is needed.
    ///
    /// # Errors
    ///
    /// [`Error::System`] where it can't be fetched.
    pub fn file(&self) -> Result<Arc<File>, Error> {
        match self.place() {
            Place::Here(file) => Ok(file),
            Place::Away(keeper) => match keeper.fetch() {
                Ok(fd) => Ok(Arc::new(File::from(fd))),
                Err(error) => {
                    let errno = error.raw_os_error().map_or(Errno::EBADF, Errno::from_raw);
                    Err(Error::system("fetch the descriptor of", "a lock", errno))
                }
            },
        }
    }

    /// The device it is on, if its file system may hang; `None` where it may stay open here.
    ///
    /// # Errors
    ///
    /// [`Error::System`] where it can't be looked at.
    pub fn far_device(&self) -> Result<Option<u64>, Error> {
        let file = self.file()?;
        if !open::may_hang(file.as_fd(), "a lock file")? {
            return Ok(None);
        }
        let stat = nix::sys::stat::fstat(&*file);
        let stat = stat.map_err(|errno| Error::system("stat", "a lock file", errno))?;
        Ok(Some(stat.st_dev))
    }

    fn place(&self) -> Place {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
