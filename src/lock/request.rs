//! The seam behind which all file system work lies.
//!
//! Any call on a file can hang: a dead NFS server, a FUSE process that never answers. So nothing
//! above touches a file; it makes a plain request, hands it to whoever performs requests (a thread
//! of the service today), and gets a plain answer and descriptors back. The table's mutex is never
//! held meanwhile.

use std::borrow::Cow;
use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::lock::model::error::Error;

/// What a request is about to ask, as far as that is known before.
#[derive(Debug, Clone)]
pub enum Asked<'w> {
    /// Whatever serves this name.
    Path(Cow<'w, Path>),
    /// Whatever serves this open file.
    File(BorrowedFd<'w>),
}

impl<'w> Asked<'w> {
    /// A name.
    #[must_use]
    pub fn path(path: &'w (impl AsRef<Path> + ?Sized)) -> Self {
        Self::Path(Cow::Borrowed(path.as_ref()))
    }

    /// The same name, of nobody; nothing for an open file, which somebody has.
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
    /// What comes back.
    type Answer: Send + 'static;

    /// What it will ask; nothing where that is no file system, or one that this host serves.
    fn asks(&self) -> Vec<Asked<'_>> {
        Vec::new()
    }

    /// Does it, in whatever time it takes.
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

/// What came of several requests: the answers of those that succeeded, and the first failure.
#[derive(Debug)]
pub struct Done<T> {
    /// In the order of the requests.
    pub answers: Vec<T>,
    /// Why the rest was not tried.
    pub failure: Option<Error>,
}
