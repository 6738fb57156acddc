//! A requested resource, before and after its lookup.

use std::sync::Arc;

use crate::lock::acquire::Goal;
use crate::lock::acquire::reacquire::find_again;
use crate::lock::disk::in_use::InUse;
use crate::lock::disk::snapshot::Snapshot;
use crate::lock::lockspace::key::Key;
use crate::lock::model::lease_name::LeaseName;
use crate::lock::request::{Asked, Work as _};
use crate::lock::resolve::{Resolve, Target};
use crate::lock::{Mode, Want};
use crate::service::process::views::{CallerProcess, Named, named_disk, named_lease};
use crate::service::{Error, Service};

/// A resource that an owner requests.
#[derive(Debug)]
pub struct LockRequest {
    /// The disk or lease.
    pub disk: Disk,
    /// The requested mode.
    pub mode: Mode,
    /// The owner must hold a lease, or request one together with the resource.
    pub with_lease: bool,
    /// The treatment of a disk that this host itself uses.
    pub in_use: InUse,
    /// The process that sent the name, for a resource by name: the name must lead to the same file
    /// for that process and for the service.
    pub named_by: Option<Arc<CallerProcess>>,
}

impl LockRequest {
    /// Returns the name that must be proven.
    pub(in crate::service) fn named(&self) -> Option<Named> {
        let by = self.named_by.as_ref()?;
        match &self.disk {
            Disk::Wanted(resolve) => named_disk(by, resolve),
            Disk::Found(_, lookup) => named_disk(by, lookup.as_deref()?),
            Disk::Lease(name) => Some(named_lease(by, name)),
            // A file that the caller or this service has found already.
            Disk::Key(_) | Disk::Remembered(_) => None,
        }
    }
}

/// A disk or lease, before or after its lookup.
#[derive(Debug)]
pub enum Disk {
    /// To be looked up.
    Wanted(Resolve),
    /// Looked up already for authorization; with the lookup itself, if it was requested by name.
    Found(Box<Target>, Option<Box<Resolve>>),
    /// A key in a lockspace.
    Key(Key),
    /// A lease, whose key is to be looked up.
    Lease(LeaseName),
    /// A lock that the owner held before its suspension.
    Remembered(Box<Want>),
}

impl Disk {
    /// Returns what the lookup accesses.
    pub(in crate::service) fn asks(&self) -> Vec<Asked<'_>> {
        match self {
            Self::Wanted(resolve) => resolve.asks(),
            Self::Found(target, _) => target.asks(),
            Self::Key(key) => key.lockspace().asks().into_iter().collect(),
            Self::Lease(name) => vec![Asked::path(name.directory())],
            Self::Remembered(want) => want.asks(),
        }
    }

    /// Returns the lookup of its name, which is repeated if the name leads to another disk later.
    pub(in crate::service) fn lookup(&self) -> Option<Resolve> {
        match self {
            Self::Wanted(resolve) => resolve.again(),
            Self::Found(_, lookup) => lookup.as_ref().and_then(|lookup| lookup.again()),
            // A key is a name itself, and a suspended lock is for the disk that its VM has open.
            Self::Key(_) | Self::Lease(_) | Self::Remembered(_) => None,
        }
    }

    /// Looks the disk or lease up, with the block devices of `host`. Call it on a worker thread.
    pub(in crate::service) fn find(
        self,
        service: &Service,
        host: &Snapshot,
    ) -> Result<Goal, Error> {
        let renewed = |mut target: Box<Target>| {
            // Its storage may have been mounted since; a lock in the directory below the mount
            // protects nothing.
            target.lockspace = service.renew_lockspace(target.lockspace)?;
            Ok::<_, Error>(Goal::Disk(target))
        };
        Ok(match self {
            Self::Wanted(resolve) => renewed(Box::new(resolve.perform_on(host)?))?,
            Self::Found(target, _) => renewed(target)?,
            Self::Key(key) => Goal::Key(key),
            Self::Lease(name) => Goal::Key(service.find_lease(&name)?),
            Self::Remembered(want) => find_again(&want)?,
        })
    }
}
