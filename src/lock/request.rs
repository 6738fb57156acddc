//! The boundary between the service and all file-system work.
//!
//! Any call on a file can hang: a dead NFS server, a FUSE process that never responds. So code
//! above this floor opens no file. It creates a plain request, passes it to an executor (a worker
//! thread of the service), and gets a plain answer and descriptors back. The table's mutex is never
//! locked meanwhile.

use std::borrow::Cow;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::sync;

/// A file system that a request is about to query, as far as that is known before.
#[derive(Debug, Clone)]
pub enum Asked<'w> {
    /// The file systems that serve this path.
    Path(Cow<'w, Path>),
    /// The file systems that serve this path. If it is found to lead to a file without a link, and
    /// to no remote mount, the file is stored for the request.
    Lookup(&'w Path, &'w FoundFile),
    /// The file system that serves this open file.
    File(BorrowedFd<'w>),
}

impl<'w> Asked<'w> {
    /// Returns the entry for a path.
    #[must_use]
    pub fn path(path: &'w (impl AsRef<Path> + ?Sized)) -> Self {
        Self::Path(Cow::Borrowed(path.as_ref()))
    }

    /// Returns the same entry, for which no file is stored.
    #[must_use]
    pub fn without_lookup(self) -> Self {
        match self {
            Self::Lookup(path, _) => Self::Path(Cow::Borrowed(path)),
            asked => asked,
        }
    }

    /// Returns the same path as an owned value; `None` for an open file, which is borrowed.
    #[must_use]
    pub fn into_owned(self) -> Option<Asked<'static>> {
        match self {
            Self::Path(path) => Some(Asked::Path(Cow::Owned(path.into_owned()))),
            Self::Lookup(path, _) => Some(Asked::Path(Cow::Owned(path.to_owned()))),
            Self::File(_) => None,
        }
    }
}

/// The file that a name leads to, as an `O_PATH` descriptor, if the name was looked up before the
/// request: no name is looked up twice. A clone refers to the same file.
#[derive(Debug, Clone, Default)]
pub struct FoundFile(Arc<Mutex<Option<OwnedFd>>>);

impl FoundFile {
    /// Stores the file.
    pub(in crate::lock) fn store(&self, file: OwnedFd) {
        *sync::lock(&self.0) = Some(file);
    }

    /// Returns the file, once.
    pub(in crate::lock) fn take(&self) -> Option<OwnedFd> {
        sync::lock(&self.0).take()
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
