//! Errors of the stash and of the state file.

use std::io;
use std::path::Path;

use crate::lock::text::escape::{reason, shown_path};

/// The error type for operations on the stash and on the state file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stash has no room for another descriptor.
    #[error("cannot store more descriptors: {0}")]
    Full(&'static str),
    /// An operation on the state file failed.
    #[error("cannot {doing} state file {file}: {}", reason(cause))]
    File {
        /// The state file.
        file: String,
        /// The operation that failed, as a phrase that follows "cannot".
        doing: &'static str,
        /// The cause.
        cause: io::Error,
    },
    /// A new entry cannot be written to the state file.
    #[error(
        "cannot write state file {file}: {}; no new locks are granted until this succeeds",
        reason(cause)
    )]
    Unrecorded {
        /// The state file.
        file: String,
        /// The cause.
        cause: io::Error,
    },
    /// The state file has a version that this program does not support.
    #[error(
        "cannot use state file {file}: it has version {found}, and this program supports versions \
         {oldest} to {known}; nothing was changed; start the program that wrote it"
    )]
    Version {
        /// The state file.
        file: String,
        /// The version of the file.
        found: u64,
        /// The oldest supported version.
        oldest: u64,
        /// The newest supported version, which is the version that this program writes.
        known: u64,
    },
    /// A system call failed.
    #[error("cannot {doing}: {}", reason(cause))]
    System {
        /// The operation that failed, as a phrase that follows "cannot".
        doing: &'static str,
        /// The cause.
        cause: io::Error,
    },
}

impl Error {
    /// Returns a conversion from the error of a system call.
    pub(super) fn system<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |cause| Self::System { doing, cause: cause.into() }
    }

    /// Returns a conversion from the error of an operation on the state file at `path`.
    pub(super) fn file(path: &Path, doing: &'static str) -> impl Fn(io::Error) -> Self + use<> {
        let file = shown_path(path);
        move |cause| Self::File { file: file.clone(), doing, cause }
    }
}
