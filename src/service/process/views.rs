//! File names and process numbers of callers in other namespaces.
//!
//! A name means the file that it leads to for the process that sends it. The service looks names up
//! in its own mount namespace and root directory; if these are not the caller's, a name is accepted
//! only if it leads to the same file for both. Any other name is refused before anything is locked,
//! opened or created: otherwise the caller's file would stay unlocked, and another file would be
//! locked in its place. A descriptor means one file everywhere.
//!
//! The inspector compares the names ([`crate::inspector`]), since access to another process takes a
//! privilege that the service does not have, and may block. A positive result for the namespaces of
//! a process is cached for its connection. A process that enters another mount namespace or root
//! directory after its first request by name is not noticed; org.vmlockd1(5) requires it to open a
//! new connection. A caller gains nothing by this: polkit has authorized the string, and a caller
//! that may lock a name from one namespace may lock it from any other. A negative result, and the
//! file that each name of another namespace leads to, are queried for each request.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::inspector::{self, Requester, timeouts};
use crate::life::{self, Connection};
use crate::lock;
use crate::lock::acquire::Goal;
use crate::lock::lockspace::directory::Directory;
use crate::lock::model::lease_name::LeaseName;
use crate::lock::path::open::{self, Links};
use crate::lock::request::{Asked, Work};
use crate::lock::resolve::view::{FileId, ForeignName, Kind, Look, Names, View, Why};
use crate::lock::resolve::{Resolve, Target, Wanted};
use crate::lock::text::errno::os_error_description;
use crate::service::{Error, Service};

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
    same_names: OnceLock<()>,
    /// Whether process numbers mean the same to it and to the service. This cannot change.
    pub(in crate::service) same_pids: OnceLock<bool>,
}

/// A name of a request, with the process that sent it.
#[derive(Debug, Clone)]
pub(in crate::service) struct Named {
    pub(in crate::service) by: Arc<CallerProcess>,
    pub(in crate::service) path: PathBuf,
    pub(in crate::service) kind: Kind,
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

    fn foreign(&self, (path, kind): (&Path, Kind), why: Why) -> Error {
        ForeignName::new(path, kind, self.pid, why).into()
    }
}

/// Why the view of a process is unknown.
#[derive(Debug)]
pub(in crate::service) enum Unseen {
    /// The process cannot be examined.
    Caller(&'static str),
    /// The inspector does not respond.
    Inspector(inspector::Error),
}

impl Unseen {
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

impl Named {
    /// Returns the name of a disk or of a lease's directory.
    fn as_pair(&self) -> (&Path, Kind) {
        (&self.path, self.kind)
    }
}

impl Service {
    /// Queries what a process sees. Call it on a worker thread.
    ///
    /// # Errors
    ///
    /// [`Unseen`].
    pub(in crate::service) fn look(
        &self,
        caller: &CallerProcess,
        look: Look,
    ) -> Result<View, Unseen> {
        let process = caller.open().map_err(Unseen::Caller)?;
        let requester = Requester::Callers(caller.uid);
        let view = self.inspector().look(requester, look, timeouts::view());
        let view = view.map_err(Unseen::Inspector)?;
        if life::process::has_exited(process.as_fd()) {
            return Err(Unseen::Caller(ENDED));
        }
        if view.names == Names::Same {
            caller.same_names.get_or_init(|| ());
        }
        if let Some(same) = view.same_pids {
            caller.same_pids.get_or_init(|| same);
        }
        Ok(view)
    }

    /// Whether the names of a process are known to lead to the same files as the service's. Call it
    /// on a worker thread.
    fn shares_names(&self, caller: &CallerProcess) -> bool {
        caller.same_names.get().is_some()
            || self.look(caller, Look::at(caller.pid)).is_ok_and(|view| view.names == Names::Same)
    }

    /// Compares the files that names lead to for their caller with those that the service found.
    /// Call it on a worker thread.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignName`] for the first name that is not proven.
    fn compare(
        &self,
        caller: &CallerProcess,
        names: &[((&Path, Kind), FileId)],
    ) -> Result<(), Error> {
        if caller.same_names.get().is_some() {
            return Ok(());
        }
        let Some(((first, _), _)) = names.split_first() else { return Ok(()) };
        let paths: Vec<&Path> = names.iter().map(|((path, _), _)| *path).collect();
        let mut rest = names.iter();
        for look in Look::for_paths(caller.pid, &paths) {
            let unknown = |why| caller.foreign(*first, Why::Unknown(why));
            let view = self.look(caller, look);
            match view.map_err(|unseen| unseen.or(unknown))?.names {
                Names::Same => return Ok(()),
                Names::Other(found) => {
                    for (theirs, (name, ours)) in found.into_iter().zip(&mut rest) {
                        ForeignName::compare(*name, caller.pid, *ours, theirs)?;
                    }
                }
                Names::Hidden(errno) => {
                    let why = os_error_description(errno);
                    return Err(unknown(format!("cannot examine the process: {why}")));
                }
                Names::Hangs => {
                    return Err(unknown("examining the process hangs".to_owned()));
                }
            }
        }
        match rest.next() {
            None => Ok(()),
            // A worker answered fewer names than it was asked.
            Some((name, _)) => Err(caller.foreign(*name, Why::Unknown("no response".to_owned()))),
        }
    }

    /// Checks that the files that the service found are those that the names lead to for the
    /// caller; a file without a name passes. Call it on a worker thread.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignName`]; [`lock::Error::Changed`] if a name leads to another file here by
    /// now.
    pub(in crate::service) fn prove(
        &self,
        goals: &[Arc<Goal>],
        names: &[Option<Named>],
    ) -> Result<(), Error> {
        let mut found = Vec::new();
        for (goal, named) in goals.iter().zip(names) {
            if let Some(named) = named.as_ref().filter(|named| named.by.same_names.get().is_none())
            {
                found.push((named, goal, id_of(goal)?));
            }
        }
        let Some((first, ..)) = found.first() else { return Ok(()) };
        // A request has one caller.
        let pairs: Vec<_> = found.iter().map(|(named, _, id)| (named.as_pair(), *id)).collect();
        self.compare(&first.by, &pairs).map_err(|error| {
            let replaced = found.iter().find_map(|(_, goal, _)| match &***goal {
                Goal::Disk(target) if !target.is_named().unwrap_or(true) => Some(target),
                Goal::Disk(_) | Goal::Key(_) => None,
            });
            replaced.map_or(error, |target| lock::Error::changed(&target.name).into())
        })
    }

    /// Replaces the error for a name that does not exist here, which does not mean that it does not
    /// exist for the caller. Call it on a worker thread.
    pub(in crate::service) fn explain_missing(&self, named: Option<&Named>, error: Error) -> Error {
        let missing = |error: &Error| {
            matches!(error, Error::Lock(lock::Error::Missing(_) | lock::Error::NoSuchLockspace(_)))
        };
        match named {
            Some(named) if missing(&error) && !self.shares_names(&named.by) => {
                named.by.foreign(named.as_pair(), Why::MissingHere)
            }
            _ => error,
        }
    }

    /// Checks that the directory of a lockspace is the one that its name leads to for the caller.
    /// Call it on a worker thread.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignName`], and the errors of the access to the directory.
    pub fn check_lockspace(
        &self,
        caller: &CallerProcess,
        name: &Path,
        directory: &Directory,
    ) -> Result<(), Error> {
        if caller.same_names.get().is_some() {
            return Ok(());
        }
        let id = FileId::of_inode(directory.node()?);
        self.compare(caller, &[((name, Kind::Directory), id)])
    }

    /// Checks that a caller's directory exists and is the same one for the caller, unless the
    /// caller's names lead to the same files as the service's. Call it on a worker thread.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignName`].
    pub fn check_directory(
        &self,
        caller: &CallerProcess,
        directory: &Path,
        links: Links,
    ) -> Result<(), Error> {
        if self.shares_names(caller) {
            return Ok(());
        }
        let name = (directory, Kind::Directory);
        match open::locate(directory, links).and_then(rustix::fs::fstat) {
            Ok(stat) => self.compare(caller, &[(name, FileId::of(&stat))]),
            Err(_) => Err(caller.foreign(name, Why::MissingHere)),
        }
    }

    /// Checks that a caller's names lead to the same files as the service's, for a name that is not
    /// looked up.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignName`].
    pub async fn check_unresolved(
        &self,
        caller: &Arc<CallerProcess>,
        name: &str,
    ) -> Result<(), Error> {
        if caller.same_names.get().is_some() {
            return Ok(());
        }
        if let Ok(turn) =
            self.inspector_turn(Requester::Callers(caller.uid), timeouts::view()).await
        {
            let check = CheckShared { service: self.clone(), caller: Arc::clone(caller) };
            if self.run_in_turn(turn, check).await? {
                return Ok(());
            }
        }
        let why = "names of another mount namespace are looked up only for callers that may lock by \
                   name";
        Err(caller.foreign((Path::new(name), Kind::Disk), Why::Unknown(why.to_owned())))
    }
}

/// Returns the id of the file that was found.
fn id_of(goal: &Goal) -> Result<FileId, Error> {
    Ok(match goal {
        Goal::Disk(target) => target.file_id(),
        Goal::Key(key) => match key.lockspace().directory() {
            Some(directory) => FileId::of_inode(directory.node()?),
            None => {
                return Err(
                    lock::Error::not_lockable(key.resource(), "it is in no lockspace").into()
                );
            }
        },
    })
}

struct CheckShared {
    service: Service,
    caller: Arc<CallerProcess>,
}

impl Work for CheckShared {
    type Answer = bool;

    fn perform(self) -> bool {
        self.service.shares_names(&self.caller)
    }
}

/// Resolves names and descriptors for a caller: each name must lead to the same file for the caller
/// and for the service.
#[derive(Debug)]
pub struct ResolveFor {
    /// The service.
    pub service: Service,
    /// The caller.
    pub caller: Arc<CallerProcess>,
    /// The names and descriptors to resolve.
    pub requests: Vec<Resolve>,
}

impl Work for ResolveFor {
    type Answer = Result<Vec<Target>, Error>;

    fn asks(&self) -> Vec<Asked<'_>> {
        self.requests.asks()
    }

    fn perform(self) -> Self::Answer {
        let Self { service, caller, requests } = self;
        let mut targets = Vec::with_capacity(requests.len());
        let mut names = Vec::new();
        for request in requests {
            let named = named_disk(&caller, &request);
            let target = request.perform().map_err(Error::from);
            let target = target.map_err(|error| service.explain_missing(named.as_ref(), error))?;
            names.extend(named.map(|named| (named, target.file_id())));
            targets.push(target);
        }
        let pairs: Vec<_> = names.iter().map(|(named, id)| (named.as_pair(), *id)).collect();
        service.compare(&caller, &pairs)?;
        Ok(targets)
    }
}

/// Returns the name in a lookup; `None` for a descriptor.
pub(in crate::service) fn named_disk(by: &Arc<CallerProcess>, resolve: &Resolve) -> Option<Named> {
    match &resolve.wanted {
        Wanted::Path(path) => {
            let (by, path) = (Arc::clone(by), path.as_path().to_owned());
            Some(Named { by, path, kind: Kind::Disk })
        }
        Wanted::File(..) => None,
    }
}

/// Returns the directory that the name of a lease begins with.
pub(in crate::service) fn named_lease(by: &Arc<CallerProcess>, lease: &LeaseName) -> Named {
    Named { by: Arc::clone(by), path: lease.directory().to_owned(), kind: Kind::Directory }
}
