//! A lock file in the directory of a lockspace.

use std::sync::Arc;

use super::directory::Directory;
use crate::lock::text::escape::shown_path;

/// The location of a lock file.
#[derive(Debug)]
pub(in crate::lock) struct LockFile {
    pub(in crate::lock) directory: Arc<Directory>,
    pub(in crate::lock) name: String,
    /// Whether the file is removed with the last lock on it.
    pub(in crate::lock) fleeting: bool,
}

impl LockFile {
    /// Returns the lock file's path, for display.
    pub(in crate::lock) fn shown(&self) -> String {
        shown_path(&self.directory.path_of(&self.name))
    }
}
