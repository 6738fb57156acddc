//! Who takes a lock, as the record beside it will tell; and the record of a lock that is held.

use std::fs::File;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use rustix::io::Errno;
use uuid::Uuid;

use crate::lock::acquire::handle::Place;
use crate::lock::holder_record::format::{Entry, path_to_record};
use crate::lock::holder_record::in_file;
use crate::lock::holder_record::xattr;
use crate::lock::model::host::Host;
use crate::lock::model::mode::Mode;

/// Which holders are recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Recording {
    /// Those of files in lockspaces.
    Lockspaces,
    /// Those of disks that are locked directly, too, where other hosts may want them.
    #[default]
    Shared,
    /// Those of all disks that are locked directly, too.
    Always,
    /// None.
    Never,
}

impl FromStr for Recording {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "lockspaces" => Ok(Self::Lockspaces),
            "shared" => Ok(Self::Shared),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err(()),
        }
    }
}

/// Who takes a lock.
#[derive(Debug, Clone, Default)]
pub struct Signature {
    /// This host; where nothing tells it from others, nothing is recorded.
    pub host: Option<Arc<Host>>,
    /// Which locks are recorded.
    pub recording: Recording,
    /// It is for a lock on a file system that somebody else than this host serves.
    pub is_far: bool,
    /// The number of the lock.
    pub lock: u64,
    /// The machine's name.
    pub name: String,
    /// What its locks are for, or empty.
    pub why: String,
    /// The machine.
    pub uuid: Uuid,
    /// Its process; 0 where none is known.
    pub pid: u32,
    /// The user who runs it.
    pub user: String,
    /// Since when it is held, in microseconds since 1970.
    pub since: u64,
}

impl Signature {
    /// Whether a lock is recorded; `in_lockspace`: on a file in a lockspace.
    #[must_use]
    pub fn is_written(&self, in_lockspace: bool) -> bool {
        self.host.is_some()
            && match self.recording {
                Recording::Lockspaces => in_lockspace,
                Recording::Shared => in_lockspace || self.is_far,
                Recording::Always => true,
                Recording::Never => false,
            }
    }

    /// What is recorded of a lock on what goes by this name.
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

/// What is recorded of a lock that is held.
#[derive(Debug, Clone)]
pub(in crate::lock) struct Written {
    pub(in crate::lock) host: Arc<Host>,
    pub(in crate::lock) entry: Entry,
}

impl Written {
    /// The same, of who has the lock now.
    pub(in crate::lock) fn sign(&mut self, signature: &Signature) {
        let Signature { lock, name, why, uuid, pid, user, since, .. } = signature.clone();
        let Entry { mode, path, .. } = self.entry.clone();
        self.entry = Entry { lock, name, uuid, pid, user, mode, since, path, why };
    }

    /// Writes it; where that fails in a lockspace, for the first time there, it is told where.
    pub(in crate::lock) fn write(
        &self,
        file: &File,
        place: Option<&Place>,
        before: Option<&Self>,
    ) -> Option<Unrecorded> {
        let before = before.map(|before| &before.entry);
        let mut cause = xattr::record(file, &self.host, &self.entry, before).err()?;
        if cause == Errno::OPNOTSUPP && place.is_some_and(|place| place.fleeting) {
            let error = in_file::record(file, &self.host, &self.entry, before).err()?;
            cause = Errno::from_io_error(&error).unwrap_or(cause);
        }
        let directory = &place?.directory;
        directory.complain().then(|| Unrecorded { directory: directory.path().to_owned(), cause })
    }

    /// Takes it away.
    pub(in crate::lock) fn erase(&self, file: &File, place: Option<&Place>) {
        // Who reads it will see that nothing is locked.
        let _ = xattr::erase(file, &self.host, &self.entry);
        if place.is_some_and(|place| place.fleeting) {
            let _ = in_file::erase(file, &self.host, &self.entry);
        }
    }
}

/// A directory where holders can't be recorded, for the log: found out once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrecorded {
    /// The directory.
    pub directory: PathBuf,
    /// What its file system says.
    pub cause: Errno,
}
