//! The holder of a lock, as its record names it; and the record of a held lock.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;
use uuid::Uuid;

use crate::lock::holder_record::in_file;
use crate::lock::holder_record::xattr;
use crate::lock::lockspace::lock_file::LockFile;
use crate::lock::model::holder_entry::{Entry, path_to_record};
use crate::lock::model::host::Host;
use crate::lock::model::mode::Mode;
use crate::lock::model::recording::Recording;

/// The holder of a lock.
#[derive(Debug, Clone, Default)]
pub struct HolderRecord {
    /// This host; `None` if it has no unique id, and then no record is written.
    pub host: Option<Arc<Host>>,
    /// The locks for which records are written.
    pub recording: Recording,
    /// Whether other hosts may access the lock file, since its file system is not served by this
    /// host alone.
    pub may_be_shared: bool,
    /// The number of the lock.
    pub lock: u64,
    /// The name of the VM.
    pub name: String,
    /// The reason of the owner for its locks, or empty.
    pub why: String,
    /// The UUID of the VM.
    pub uuid: Uuid,
    /// The process of the VM; 0 if it is unknown.
    pub pid: u32,
    /// The user that runs it.
    pub user: String,
    /// When the lock was acquired, in microseconds since 1970.
    pub since: u64,
}

impl HolderRecord {
    /// Whether a record is written for a lock; `in_lockspace`: the lock is on a file in a
    /// lockspace.
    #[must_use]
    pub fn is_written(&self, in_lockspace: bool) -> bool {
        self.host.is_some()
            && match self.recording {
                Recording::Lockspaces => in_lockspace,
                Recording::Shared => self.may_be_shared,
                Recording::Always => true,
                Recording::Never => false,
            }
    }

    /// Returns the record of a lock on the resource with this name.
    pub(in crate::lock) fn written(
        &self,
        resource: &str,
        in_lockspace: bool,
        mode: Mode,
    ) -> Option<Written> {
        let host = self.host.as_ref().filter(|_| self.is_written(in_lockspace))?;
        let Self { lock, name, why, uuid, pid, user, since, .. } = self.clone();
        let path = path_to_record(resource);
        let entry = Entry { lock, name, uuid, pid, user, mode, since, path, why };
        Some(Written { host: Arc::clone(host), entry })
    }
}

/// The record of a held lock.
#[derive(Debug, Clone)]
pub(in crate::lock) struct Written {
    pub(in crate::lock) host: Arc<Host>,
    pub(in crate::lock) entry: Entry,
}

impl Written {
    /// Updates the record for the present holder of the lock.
    pub(in crate::lock) fn update(&mut self, record: &HolderRecord) {
        let HolderRecord { lock, name, why, uuid, pid, user, since, .. } = record.clone();
        let Entry { mode, path, .. } = self.entry.clone();
        self.entry = Entry { lock, name, uuid, pid, user, mode, since, path, why };
    }

    /// Writes the record. If that fails for the first time in a lockspace, returns the directory.
    pub(in crate::lock) fn write(
        &self,
        file: &File,
        lock_file: Option<&LockFile>,
        before: Option<&Self>,
    ) -> Option<UnwrittenRecord> {
        let before = before.map(|before| &before.entry);
        let mut cause = xattr::record(file, &self.host, &self.entry, before).err()?;
        if cause == Errno::OPNOTSUPP && lock_file.is_some_and(|lock_file| lock_file.fleeting) {
            let error = in_file::record(file, &self.host, &self.entry, before).err()?;
            cause = Errno::from_io_error(&error).unwrap_or(cause);
        }
        let directory = &lock_file?.directory;
        directory
            .report_unwritten()
            .then(|| UnwrittenRecord { directory: directory.path().to_owned(), cause })
    }

    /// Removes the record.
    pub(in crate::lock) fn erase(&self, file: &File, lock_file: Option<&LockFile>) {
        // A reader that finds a leftover record sees that nothing is locked.
        let _ = xattr::erase(file, &self.host, &self.entry);
        if lock_file.is_some_and(|lock_file| lock_file.fleeting) {
            let _ = in_file::erase(file, &self.host, &self.entry);
        }
    }
}

/// A directory in which holder records cannot be written; reported once, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnwrittenRecord {
    /// The directory.
    pub directory: PathBuf,
    /// The error of its file system.
    pub cause: Errno,
}
