//! The present state of the name by which a disk was locked.
//!
//! A lock is on the file that had the name when it was granted, and stays there: that is the file
//! that the VM has open. The name may lead to another file by now (a rename, a link that was
//! switched) or to none.

use std::path::PathBuf;

use rustix::fs::fstat;
use rustix::io::Errno;

use crate::lock::model::identity::Identity;
use crate::lock::model::lock::Want;
use crate::lock::path::open::{self, Links};
use crate::lock::request::{Asked, Work};

/// Where the name of a locked disk leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameState {
    /// To the disk.
    Same,
    /// To another one.
    Replaced,
    /// Nowhere: the file was deleted or moved.
    Deleted,
}

impl NameState {
    /// Returns the word used on D-Bus; `None` if nothing has changed.
    #[must_use]
    pub fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Same => None,
            Self::Replaced => Some("replaced"),
            Self::Deleted => Some("deleted"),
        }
    }
}

/// A request to look up the name of a disk that was located before.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CheckName {
    path: PathBuf,
    identity: Identity,
}

impl CheckName {
    /// Returns the check for a resource; `None` for one without a name, and for leases.
    #[must_use]
    pub fn new(want: &Want) -> Option<Self> {
        let path = want.path.clone().filter(|_| !want.is_lease())?;
        Some(Self { path, identity: want.identity })
    }
}

impl Work for CheckName {
    /// `None` if it is unknown.
    type Answer = Option<NameState>;

    fn asks(&self) -> Vec<Asked<'_>> {
        vec![Asked::path(&self.path)]
    }

    fn perform(self) -> Option<NameState> {
        let found = match open::locate(&self.path, Links::Follow) {
            Ok(found) => fstat(&found).ok()?,
            Err(Errno::NOENT | Errno::NOTDIR) => return Some(NameState::Deleted),
            Err(Errno::LOOP) => return Some(NameState::Replaced),
            Err(_) => return None,
        };
        let same = Identity::of(&found) == Some(self.identity);
        Some(if same { NameState::Same } else { NameState::Replaced })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_name_is_followed_to_where_it_leads_now() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, other) = (dir.path().join("disk"), dir.path().join("other"));
        fs::write(&disk, "").unwrap();
        fs::write(&other, "").unwrap();
        let identity = Identity::of(&rustix::fs::stat(&disk).unwrap()).unwrap();
        let check = CheckName { path: disk.clone(), identity };
        assert_eq!(check.clone().perform(), Some(NameState::Same));
        fs::rename(&other, &disk).unwrap();
        assert_eq!(check.clone().perform(), Some(NameState::Replaced));
        fs::remove_file(&disk).unwrap();
        assert_eq!(check.clone().perform(), Some(NameState::Deleted));
        fs::create_dir(&disk).unwrap();
        assert_eq!(check.clone().perform(), Some(NameState::Replaced));
        let below = CheckName { path: disk.join("gone/below"), identity };
        assert_eq!(below.perform(), Some(NameState::Deleted));
    }
}
