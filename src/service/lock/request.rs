//! What an owner asks for, as far as it is known.

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

/// One resource that an owner asks for.
#[derive(Debug)]
pub struct Ask {
    /// What it is.
    pub disk: Disk,
    /// How it shall be held.
    pub mode: Mode,
    /// Its owner has to hold a lease as well, or to ask for one with it.
    pub with_lease: bool,
    /// What becomes of a disk that this host uses itself.
    pub in_use: InUse,
    /// The process that has named it, where it came by name: the name has to lead to the same file for
    /// that process and for the service.
    pub named_by: Option<Arc<CallerProcess>>,
}

impl Ask {
    /// Returns the name that has to be proven.
    pub(in crate::service) fn named(&self) -> Option<Named> {
        let by = self.named_by.as_ref()?;
        match &self.disk {
            Disk::Wanted(resolve) => named_disk(by, resolve),
            Disk::Found(_, lookup) => named_disk(by, lookup.as_deref()?),
            Disk::Lease(name) => Some(named_lease(by, name)),
            // Found by the one who asks, or by this service before.
            Disk::Key(_) | Disk::Remembered(_) => None,
        }
    }
}

/// A disk, as far as it is known.
#[derive(Debug)]
pub enum Disk {
    /// To be found.
    Wanted(Resolve),
    /// Found already, because somebody had to be asked about what it is; with the lookup that found
    /// it, where it was asked for by name.
    Found(Box<Target>, Option<Box<Resolve>>),
    /// A key in a lockspace, whatever it stands for.
    Key(Key),
    /// The same, to be found.
    Lease(LeaseName),
    /// What the owner held before it was suspended.
    Remembered(Box<Want>),
}

impl Disk {
    /// What has to be asked about it.
    pub(in crate::service) fn asks(&self) -> Vec<Asked<'_>> {
        match self {
            Self::Wanted(resolve) => resolve.asks(),
            Self::Found(target, _) => target.asks(),
            Self::Key(key) => key.lockspace().asks().into_iter().collect(),
            Self::Lease(name) => vec![Asked::path(name.directory())],
            Self::Remembered(want) => want.asks(),
        }
    }

    /// Returns the lookup of its name, to be done again should the name lead to another disk later.
    pub(in crate::service) fn lookup(&self) -> Option<Resolve> {
        match self {
            Self::Wanted(resolve) => resolve.again(),
            Self::Found(_, lookup) => lookup.as_ref().and_then(|lookup| lookup.again()),
            // A key is a name itself, and what was suspended is the disk that its VM has open.
            Self::Key(_) | Self::Lease(_) | Self::Remembered(_) => None,
        }
    }

    /// Finds it, with what `host` says about block devices. For a storage thread.
    pub(in crate::service) fn find(
        self,
        service: &Service,
        host: &Snapshot,
    ) -> Result<Goal, Error> {
        let renewed = |mut target: Box<Target>| {
            // Its storage may have been mounted since; what lies beneath would protect nothing.
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
