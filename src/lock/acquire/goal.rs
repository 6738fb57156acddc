//! The resource that a request locks.

use crate::lock::acquire::probe;
use crate::lock::lockspace::key::Key;
use crate::lock::model::error::Error;
use crate::lock::model::lock::Want;
use crate::lock::model::mode::Mode;
use crate::lock::model::process_search::Search;
use crate::lock::path::fs_type::FsType;
use crate::lock::request::Asked;
use crate::lock::resolve::Target;

/// The resource to be locked: it was found, and not opened yet.
#[derive(Debug)]
pub enum Goal {
    /// A disk.
    Disk(Box<Target>),
    /// A key in a lockspace.
    Key(Key),
}

impl Goal {
    /// Returns the resource as the table stores it.
    #[must_use]
    pub fn want(&self, mode: Mode) -> Want {
        match self {
            Self::Disk(target) => target.want(mode),
            Self::Key(key) => key.want(mode),
        }
    }

    /// Returns the file systems that have to be queried for it.
    #[must_use]
    pub fn asks(&self) -> Vec<Asked<'_>> {
        match self {
            Self::Disk(target) => target.asks(),
            Self::Key(key) => key.asks().into_iter().collect(),
        }
    }

    /// Whether its lock file may also be accessed by other hosts.
    ///
    /// # Errors
    ///
    /// The errors of opening the lockspace.
    pub fn may_be_shared(&self) -> Result<bool, Error> {
        let (lockspace, disk) = match self {
            Self::Disk(target) => (&target.lockspace, Some(target.fs_type)),
            Self::Key(key) => (key.lockspace(), None),
        };
        match lockspace.directory() {
            Some(directory) => Ok(directory.fs_type()?.may_be_shared()),
            None => Ok(disk.is_some_and(FsType::may_be_shared)),
        }
    }

    /// Returns what to search for in order to find the processes that have it open.
    #[must_use]
    pub fn search_users(&self) -> Option<Search> {
        match self {
            Self::Disk(target) => Some(probe::search_users(target)),
            Self::Key(_) => None,
        }
    }
}
