//! The boundary between the service and all file-system work.
//!
//! Any call on a file can hang: a dead NFS server, a FUSE process that never responds. So code
//! above this floor opens no file. It creates a plain request, passes it to an executor (a worker
//! thread of the service), and gets a plain answer and descriptors back. The table's mutex is never
//! locked meanwhile.

use std::borrow::Cow;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// A file system that a request is about to query, as far as that is known before.
#[derive(Debug, Clone)]
pub enum Asked<'w> {
    /// The file systems that serve this path.
    Path(Cow<'w, Path>),
    /// The file system that serves this open file.
    File(BorrowedFd<'w>),
}

impl<'w> Asked<'w> {
    /// Returns the entry for a path.
    #[must_use]
    pub fn path(path: &'w (impl AsRef<Path> + ?Sized)) -> Self {
        Self::Path(Cow::Borrowed(path.as_ref()))
    }

    /// Returns the same path as an owned value; `None` for an open file, which is borrowed.
    #[must_use]
    pub fn into_owned(self) -> Option<Asked<'static>> {
        match self {
            Self::Path(path) => Some(Asked::Path(Cow::Owned(path.into_owned()))),
            Self::File(_) => None,
        }
    }
}

/// One request to the file system.
pub trait Work: Send + 'static {
    /// The result.
    type Answer: Send + 'static;

    /// Returns what it will query; nothing if that is no file system, or one that this host serves.
    fn asks(&self) -> Vec<Asked<'_>> {
        Vec::new()
    }

    /// Performs the request. May block for any time.
    fn perform(self) -> Self::Answer;
}

impl<W: Work> Work for Vec<W> {
    type Answer = Vec<W::Answer>;

    fn asks(&self) -> Vec<Asked<'_>> {
        self.iter().flat_map(Work::asks).collect()
    }

    fn perform(self) -> Self::Answer {
        self.into_iter().map(Work::perform).collect()
    }
}
