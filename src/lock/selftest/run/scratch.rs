//! A scratch file to test locks on, which no other program uses.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, Stat, fstat, open, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use uuid::Uuid;

use crate::lock::path::open::same_node;

/// The prefix of its name. No lock file has it: these are named by digests and ids, and names that
/// callers choose are not random.
const PREFIX: &str = ".vmlockd-trial-";

/// The directory of the self-test.
pub(super) struct ScratchDirectory {
    fd: OwnedFd,
    path: PathBuf,
}

impl ScratchDirectory {
    pub(super) fn open(path: &Path) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { fd: open(path, flags, Mode::empty())?, path: path.to_owned() })
    }

    pub(super) fn stat(&self) -> Result<Stat, Errno> {
        fstat(&self.fd)
    }

    /// Returns the number of its mount, which the kernel knows without a request to the file
    /// system.
    pub(super) fn mount(&self) -> Option<u64> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd()));
        let info = info.ok()?;
        let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
        id.trim().parse().ok()
    }
}

/// A scratch file, which is removed when it is dropped.
pub(super) struct Scratch<'p> {
    directory: &'p ScratchDirectory,
    name: String,
    exists: bool,
}

impl<'p> Scratch<'p> {
    /// Creates a scratch file; returns it with its owner.
    pub(super) fn make(directory: &'p ScratchDirectory) -> Result<(Self, u32), Errno> {
        let name = format!("{PREFIX}{}", Uuid::new_v4().simple());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let owner_only = Mode::RUSR | Mode::WUSR;
        let made = openat(&directory.fd, name.as_str(), flags | OFlags::CLOEXEC, owner_only)?;
        let scratch = Self { directory, name, exists: true };
        let owner = fstat(&made)?.st_uid;
        Ok((scratch, owner))
    }

    /// Opens it again.
    pub(super) fn open(&self) -> Result<File, Errno> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.directory.fd, self.name.as_str(), flags, Mode::empty()).map(File::from)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.path.join(&self.name)
    }

    /// Whether its name leads to an open file.
    pub(super) fn names(&self, file: &File) -> Result<bool, Errno> {
        match statat(&self.directory.fd, self.name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(same_node(&found, &fstat(file.as_fd())?)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Renames it to the name of another scratch file, which it replaces.
    pub(super) fn replace(mut self, other: &Scratch<'_>) -> Result<(), Errno> {
        let (from, to) = (&self.directory.fd, &other.directory.fd);
        renameat(from, self.name.as_str(), to, other.name.as_str())?;
        self.exists = false;
        Ok(())
    }

    pub(super) fn remove(&mut self) -> Result<(), Errno> {
        unlinkat(&self.directory.fd, self.name.as_str(), AtFlags::empty())?;
        self.exists = false;
        Ok(())
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        if self.exists {
            // A file that could not be created or locked may fail to be removed for the same
            // reason.
            let _ = self.remove();
        }
    }
}
