//! The operations that can fail with a system error.

use std::fmt;

/// An operation of [`Error::System`](super::error::Error::System).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Finding the canonical name of a file.
    Canonicalize,
    /// Downgrading a lock.
    Downgrade,
    /// Duplicating the descriptor of a lock.
    DuplicateDescriptor,
    /// Fetching the descriptor of a lock from the stash.
    FetchDescriptor,
    /// Finding the file at a path.
    Find,
    /// Locking a file of a host's presence.
    Lock,
    /// Locking a lock file or a disk.
    LockFile,
    /// Opening a disk.
    Open,
    /// Opening a lock file.
    OpenLockFile,
    /// Reading a file.
    Read,
    /// Removing a lock file.
    RemoveLockFile,
    /// Removing a lockspace.
    RemoveLockspace,
    /// Reading the status of a file.
    Stat,
    /// Reading the status of a file system.
    StatFileSystem,
    /// Reading the status of a lock file.
    StatLockFile,
    /// Unlocking a file.
    Unlock,
    /// Writing a file.
    Write,
}

impl fmt::Display for Operation {
    /// Writes the operation as it follows "cannot" in a message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Canonicalize => "find the canonical name of",
            Self::Downgrade => "downgrade the lock on",
            Self::DuplicateDescriptor => "duplicate the descriptor of",
            Self::FetchDescriptor => "fetch the descriptor of",
            Self::Find => "find",
            Self::Lock => "lock",
            Self::LockFile => "lock the file",
            Self::Open => "open",
            Self::OpenLockFile => "open lock file",
            Self::Read => "read",
            Self::RemoveLockFile => "remove lock file",
            Self::RemoveLockspace => "remove lockspace",
            Self::Stat => "stat",
            Self::StatFileSystem => "statfs the file system of",
            Self::StatLockFile => "stat lock file",
            Self::Unlock => "unlock",
            Self::Write => "write",
        })
    }
}
