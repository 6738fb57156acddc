//! A lock file that is requested by its name in a lockspace, with any meaning: virtlockd's clients
//! request such keys if they do not name the disk itself.

use std::fs::File;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::directory::Directory;
use crate::lock::lockspace::Lockspace;
use crate::lock::model::error::Error;
use crate::lock::model::identity::Identity;
use crate::lock::model::input_error::InputError;
use crate::lock::model::lease_name::{check_key, spelt};
use crate::lock::model::lock::Want;
use crate::lock::model::mode::Mode;
use crate::lock::request::Asked;
use crate::lock::text::escape::shown;

/// A file in a lockspace that can be locked.
#[derive(Debug, Clone)]
pub struct Key {
    lockspace: Lockspace,
    name: String,
    fleeting: bool,
    identity: Identity,
    path: PathBuf,
    resource: String,
    write_shown: bool,
}

impl Key {
    /// Returns a key in a lockspace that has a directory. If `fleeting`, its file is created if it
    /// is missing, and removed with its last lock. The caller has access in either mode.
    ///
    /// # Errors
    ///
    /// [`InputError::BadKey`] if the name is not that of a single file; the errors of [`Lockspace`]s.
    pub fn new(lockspace: Lockspace, name: &str, fleeting: bool) -> Result<Self, Error> {
        check_key(name)?;
        let Some(directory) = lockspace.directory() else {
            return Err(InputError::BadPath { path: shown(name), why: "is in no lockspace" }.into());
        };
        let (dev, ino) = directory.node()?;
        let key = digest_of(name);
        let path = directory.path_of(name);
        let identity = Identity::Key { dev, ino, key };
        let resource = spelt(directory.path(), name);
        let name = name.to_owned();
        Ok(Self { lockspace, name, fleeting, identity, path, resource, write_shown: true })
    }

    /// Returns the same key for a caller that has access in the requested mode only; another mode
    /// needs another check.
    #[must_use]
    pub fn for_one_mode(self) -> Self {
        Self { write_shown: false, ..self }
    }

    /// Returns the lockspace.
    #[must_use]
    pub fn lockspace(&self) -> &Lockspace {
        &self.lockspace
    }

    /// Returns the file system that has to be queried for its lock file.
    #[must_use]
    pub fn asks(&self) -> Option<Asked<'_>> {
        self.lockspace.directory().map(|directory| directory.asks())
    }

    /// Returns the name in it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its file is created and removed with its locks.
    #[must_use]
    pub fn is_fleeting(&self) -> bool {
        self.fleeting
    }

    /// Returns its name as a resource: `lease:<directory>/<name>`.
    #[must_use]
    pub fn resource(&self) -> String {
        self.resource.clone()
    }

    /// Returns its identity.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Returns the path of its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens its file, which has to exist.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], and errors of opening.
    pub fn find_file(&self) -> Result<File, Error> {
        let Some(directory) = self.lockspace.directory() else {
            return Err(Error::not_lockable(&self.resource, "it is in no lockspace"));
        };
        directory.find_file(&self.name)?.ok_or_else(|| Error::missing(&self.resource))
    }

    /// Returns the key as the table stores it.
    #[must_use]
    pub fn want(&self, mode: Mode) -> Want {
        Want {
            resource: self.resource(),
            canonical: None,
            path: None,
            identity: self.identity,
            below: Vec::new(),
            copies: Vec::new(),
            lockspace: self.lockspace.kind(),
            lock_files: vec![self.path.clone()],
            fleeting: self.fleeting,
            mode,
            write_shown: self.write_shown,
        }
    }
}

/// Returns the name of a key as a resource. Opens no file.
///
/// # Errors
///
/// [`InputError::BadKey`].
pub fn resource_of(directory: &Directory, name: &str) -> Result<String, Error> {
    check_key(name)?;
    Ok(spelt(directory.path(), name))
}

/// Returns the number that distinguishes keys of one directory in an identity: the beginning of the
/// SHA-256 of the name.
#[must_use]
pub fn digest_of(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    digest.iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_key_stays_in_its_lockspace() {
        for name in ["", ".", "..", "../x", "a/b", "/a", "a\0b", &"x".repeat(256)] {
            assert!(check_key(name).is_err(), "{name:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let lockspace = Lockspace::Lease(1, Arc::new(Directory::open(dir.path()).unwrap()));
        let key = Key::new(lockspace.clone(), "..a", true).unwrap();
        let want = key.want(Mode::Shared);
        assert_eq!(want.resource, format!("lease:{}/..a", dir.path().display()));
        let other = Key::new(lockspace, "..b", true).unwrap().want(Mode::Shared);
        assert!(!want.overlaps(&other));
        assert!(Key::new(Lockspace::Direct, "a", false).is_err());
    }
}
