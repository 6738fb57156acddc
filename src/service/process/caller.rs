//! The process of a caller, and what is known about its namespaces.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use crate::inspector;
use crate::life::{self, Connection};
use crate::lock::resolve::view::{ForeignName, Kind, Why};
use crate::service::core::error::Error;

/// Why no more is known of a caller.
pub(in crate::service) const ENDED: &str = "the process that opened the connection has ended";

/// The process that a connection belongs to, and the cached facts about its namespaces.
#[derive(Debug)]
pub struct CallerProcess {
    pub(in crate::service) uid: u32,
    /// 0 if unknown.
    pub(in crate::service) pid: u32,
    /// The inode of its pidfd: a successor of its number has another one.
    inode: Option<u64>,
    /// Set once its names are known to lead to the same files as the service's.
    pub(super) same_names: OnceLock<()>,
    /// Whether process numbers mean the same to it and to the service. This cannot change.
    pub(super) same_pids: OnceLock<bool>,
}

impl CallerProcess {
    /// Creates a process of a user from its number and its pidfd, if there is one.
    #[must_use]
    pub fn new(uid: u32, pid: Option<u32>, pidfd: Option<OwnedFd>) -> Self {
        let inode = pidfd.and_then(|pidfd| life::process::pidfd_inode(pidfd.as_fd()));
        let (same_names, same_pids) = (OnceLock::new(), OnceLock::new());
        Self { uid, pid: pid.unwrap_or(0), inode, same_names, same_pids }
    }

    /// Returns the process at the other end of a private connection.
    #[must_use]
    pub fn of_peer(connection: &Connection, uid: u32, pid: u32) -> Self {
        Self::new(uid, Some(pid), connection.peer_pidfd())
    }

    /// Returns its user.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Opens the process, before anything of it is read.
    ///
    /// # Errors
    ///
    /// The reason why the process cannot be examined.
    pub fn open(&self) -> Result<OwnedFd, &'static str> {
        if self.pid == 0 {
            return Err("the process of the caller is not visible from here");
        }
        let pidfd = life::process::open_pidfd(self.pid).ok_or(ENDED)?;
        let inode = life::process::pidfd_inode(pidfd.as_fd());
        let is_same = self.inode.is_none() || self.inode == inode;
        is_same.then_some(pidfd).ok_or(ENDED)
    }

    pub(super) fn foreign_name(&self, (path, kind): (&Path, Kind), why: Why) -> Error {
        ForeignName::new(path, kind, self.pid, why).into()
    }
}

/// Why the view of a process is unknown.
#[derive(Debug)]
pub(in crate::service) enum ViewError {
    /// The process cannot be examined.
    Caller(&'static str),
    /// The inspector does not respond.
    Inspector(inspector::Error),
}

impl ViewError {
    /// Returns the inspector's error if the inspector fails, and otherwise an error about the
    /// caller.
    pub(in crate::service) fn or(self, about_caller: impl FnOnce(String) -> Error) -> Error {
        match self {
            Self::Caller(why) => about_caller(why.to_owned()),
            // The lookup takes too long, which is a property of the caller's name.
            Self::Inspector(error @ inspector::Error::Late) => about_caller(error.to_string()),
            Self::Inspector(error) => Error::Inspector(error),
        }
    }
}
