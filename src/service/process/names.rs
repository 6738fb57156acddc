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

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::inspector::{Requester, timeouts};
use crate::life;
use crate::lock;
use crate::lock::acquire::goal::Goal;
use crate::lock::lockspace::directory::Directory;
use crate::lock::model::lease_name::LeaseName;
use crate::lock::path::open::{self, Links};
use crate::lock::request::{Asked, Work};
use crate::lock::resolve::view::{FileId, ForeignName, Kind, Look, Names, View, Why};
use crate::lock::resolve::{Resolve, Target, Wanted};
use crate::lock::text::errno::os_error_description;
use crate::service::core::error::Error;
use crate::service::process::Inspection;
use crate::service::process::caller::{CallerProcess, ENDED, ViewError};

/// A name of a request, with the process that sent it.
#[derive(Debug, Clone)]
pub(in crate::service) struct Named {
    pub(in crate::service) by: Arc<CallerProcess>,
    pub(in crate::service) path: PathBuf,
    pub(in crate::service) kind: Kind,
}

impl Named {
    /// Returns the name of a disk or of a lease's directory.
    fn as_pair(&self) -> (&Path, Kind) {
        (&self.path, self.kind)
    }
}

impl Inspection {
    /// Queries what a process sees. Call it on a worker thread.
    ///
    /// # Errors
    ///
    /// [`ViewError`].
    pub(in crate::service) fn look(
        &self,
        caller: &CallerProcess,
        look: Look,
    ) -> Result<View, ViewError> {
        let process = caller.open().map_err(ViewError::Caller)?;
        let requester = Requester::Callers(caller.uid);
        let view = self.inspector.look(requester, look, timeouts::view());
        let view = view.map_err(ViewError::Inspector)?;
        if life::process::has_exited(process.as_fd()) {
            return Err(ViewError::Caller(ENDED));
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
            let unknown = |why| caller.foreign_name(*first, Why::Unknown(why));
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
            Some((name, _)) => {
                Err(caller.foreign_name(*name, Why::Unknown("no response".to_owned())))
            }
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
                named.by.foreign_name(named.as_pair(), Why::MissingHere)
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
            Err(_) => Err(caller.foreign_name(name, Why::MissingHere)),
        }
    }

    /// Checks that a caller's names lead to the same files as the service's, for a name that is not
    /// looked up.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignName`].
    pub async fn check_unresolved(
        self: &Arc<Self>,
        caller: &Arc<CallerProcess>,
        name: &str,
    ) -> Result<(), Error> {
        if caller.same_names.get().is_some() {
            return Ok(());
        }
        if let Ok(permit) =
            self.inspector_permit(Requester::Callers(caller.uid), timeouts::view()).await
        {
            let check = CheckShared { inspection: Arc::clone(self), caller: Arc::clone(caller) };
            if self.run_with_permit(permit, check).await? {
                return Ok(());
            }
        }
        let why = "names of another mount namespace are looked up only for callers that may lock by \
                   name";
        Err(caller.foreign_name((Path::new(name), Kind::Disk), Why::Unknown(why.to_owned())))
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
    inspection: Arc<Inspection>,
    caller: Arc<CallerProcess>,
}

impl Work for CheckShared {
    type Answer = bool;

    fn perform(self) -> bool {
        self.inspection.shares_names(&self.caller)
    }
}

/// Resolves names and descriptors for a caller: each name must lead to the same file for the caller
/// and for the service.
#[derive(Debug)]
pub struct ResolveFor {
    /// The queries to an inspector.
    pub inspection: Arc<Inspection>,
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
        let Self { inspection, caller, requests } = self;
        let mut targets = Vec::with_capacity(requests.len());
        let mut names = Vec::new();
        for request in requests {
            let named = named_disk(&caller, &request);
            let target = request.perform().map_err(Error::from);
            let target =
                target.map_err(|error| inspection.explain_missing(named.as_ref(), error))?;
            names.extend(named.map(|named| (named, target.file_id())));
            targets.push(target);
        }
        let pairs: Vec<_> = names.iter().map(|(named, id)| (named.as_pair(), *id)).collect();
        inspection.compare(&caller, &pairs)?;
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
