//! A requested resource, before and after its lookup.

use std::sync::Arc;

use crate::lock::acquire::goal::Goal;
use crate::lock::acquire::reacquire::find_again;
use crate::lock::disk::in_use::InUse;
use crate::lock::disk::snapshot::Snapshot;
use crate::lock::lockspace::key::Key;
use crate::lock::model::lease_name::LeaseName;
use crate::lock::request::{Asked, Work as _};
use crate::lock::resolve::{Resolve, Target};
use crate::lock::table::queue::Purpose;
use crate::lock::{Mode, OwnerId, Want};
use crate::service::components::Components;
use crate::service::core::error::Error;
use crate::service::core::limits::{Exempt, Usage, within};
use crate::service::process::caller::CallerProcess;
use crate::service::process::names::{Named, named_disk, named_lease};
use crate::service::state::State;

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
            // The path of its lockspace is looked up again.
            Self::Found(target, _) => {
                target.asks().into_iter().chain(target.lockspace.asks()).collect()
            }
            Self::Key(key) => key.asks().into_iter().collect(),
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
        components: &Components,
        host: &Snapshot,
    ) -> Result<Goal, Error> {
        let renewed = |mut target: Box<Target>| {
            // Its storage may have been mounted since; a lock in the directory below the mount
            // protects nothing.
            target.lockspace = components.lockspaces.renew(target.lockspace)?;
            Ok::<_, Error>(Goal::Disk(target))
        };
        Ok(match self {
            Self::Wanted(resolve) => renewed(Box::new(resolve.perform_on(host)?))?,
            Self::Found(target, _) => renewed(target)?,
            Self::Key(key) => Goal::Key(key),
            Self::Lease(name) => Goal::Key(components.lockspaces.find_lease(&name)?),
            Self::Remembered(want) => find_again(&want)?,
        })
    }
}

/// Refuses a request that exceeds a limit, a quota or the rules for its resources: `with_lease` is
/// the index of the first resource for which the owner must hold a lease.
pub(in crate::service) fn check(
    state: &State,
    exempt: Exempt,
    id: OwnerId,
    (wants, purpose, with_lease): (&[Want], Purpose, Option<usize>),
) -> Result<(), Error> {
    state.check_open()?;
    state.check_total(exempt, id.uid, wants.len())?;
    if purpose == Purpose::Resume {
        // Suspended locks are counted already.
        return Ok(());
    }
    state.table.check_running(id)?;
    state.check_lockspaces(wants)?;
    if let Some(disk) = with_lease {
        state.check_lease(id, wants, disk)?;
    }
    let limit = state.settings.limits.resources_per_call;
    within("resources", wants.len(), limit, || "in one call".to_owned())?;
    state.check_quota(exempt, id.uid, |usage: &mut Usage| usage.count_locks(wants.len()))
}
