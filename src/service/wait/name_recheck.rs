//! Names of a request that may lead to other disks while it waits.
//!
//! A request by name is about whatever has the name when it is granted: a disk that is replaced by a
//! rename, moved or deleted while somebody waits for it is not what the next virtual machine would
//! open. So a waiting request looks its names up again before it tries, and now and then besides.
//! A request by descriptor is about the file that was shown.

use std::sync::Arc;

use crate::lock;
use crate::lock::acquire::Goal;
use crate::lock::disk::snapshot::Snapshot;
use crate::lock::request::{Asked, Work};
use crate::lock::resolve::Resolve;
use crate::service::lock::request::{Ask, Disk};
use crate::service::process::views::Named;
use crate::service::{Error, Service};

/// How often names are looked up again that are given to other disks meanwhile.
const RENEWALS: usize = 4;

/// The lookups of a request, in its order.
#[derive(Debug, Default)]
pub(in crate::service) struct Lookups {
    /// None for what has no name.
    resolves: Vec<Option<Resolve>>,
    /// The names that have to lead to the same files for the caller.
    names: Vec<Option<Named>>,
}

impl Lookups {
    /// Adds the lookup of one resource. Returns its name.
    pub(in crate::service) fn push(&mut self, ask: &Ask) -> Option<&Named> {
        self.resolves.push(ask.disk.lookup());
        self.names.push(ask.named());
        self.names.last().and_then(Option::as_ref)
    }

    /// Whether there are none.
    pub(in crate::service) fn is_empty(&self) -> bool {
        self.resolves.iter().all(Option::is_none)
    }

    /// What has to be asked to look the names up.
    pub(in crate::service) fn asks(&self) -> impl Iterator<Item = Asked<'_>> {
        self.resolves.iter().flatten().flat_map(Work::asks)
    }

    /// Looks up again what is not there any more by its name. Returns whether a name leads to
    /// another disk. For a storage thread.
    ///
    /// # Errors
    ///
    /// What resolving fails with: [`lock::Error::Missing`] for a name that leads nowhere; and those of
    /// [`Self::prove`].
    pub(in crate::service) fn renew(
        &self,
        service: &Service,
        goals: &mut [Arc<Goal>],
    ) -> Result<bool, Error> {
        let changed = self.look_up(service, goals)?;
        Ok(self.prove(service, goals)? || changed)
    }

    /// Checks that each name leads to the same file for the caller. Returns whether a name leads to
    /// another disk by now. For a storage thread.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignName`], and what resolving fails with.
    pub(in crate::service) fn prove(
        &self,
        service: &Service,
        goals: &mut [Arc<Goal>],
    ) -> Result<bool, Error> {
        let mut changed = false;
        for _ in 0..RENEWALS {
            match service.prove(goals, &self.names) {
                Err(Error::Lock(lock::Error::Changed(_))) if !self.is_empty() => {
                    changed |= self.look_up(service, goals)?;
                }
                proven => return proven.map(|()| changed),
            }
        }
        service.prove(goals, &self.names).map(|()| changed)
    }

    fn look_up(&self, service: &Service, goals: &mut [Arc<Goal>]) -> Result<bool, Error> {
        let mut changed = false;
        for ((goal, lookup), named) in goals.iter_mut().zip(&self.resolves).zip(&self.names) {
            let (Goal::Disk(target), Some(lookup)) = (&**goal, lookup) else { continue };
            // A name that can't be looked up is looked up once more, to tell why.
            if target.is_named().unwrap_or(false) && target.lies_as_found().unwrap_or(false) {
                continue;
            }
            let Some(lookup) = lookup.again() else { continue };
            let found = Disk::Wanted(lookup).find(service, &Snapshot::default());
            let found = found.map_err(|error| service.explain_missing(named.as_ref(), error))?;
            *goal = Arc::new(found);
            changed = true;
        }
        Ok(changed)
    }

    /// Returns a check whether all names lead where they led.
    pub(in crate::service) fn check(&self, goals: &[Arc<Goal>]) -> Option<CheckNames> {
        let named = goals.iter().zip(&self.resolves).filter(|(_, lookup)| lookup.is_some());
        let named: Vec<Arc<Goal>> = named.map(|(goal, _)| Arc::clone(goal)).collect();
        (!named.is_empty()).then_some(CheckNames(named))
    }
}

/// Checks whether the names of disks still lead to them. The answer is true also where that can't be
/// told.
#[derive(Debug)]
pub(in crate::service) struct CheckNames(Vec<Arc<Goal>>);

impl Work for CheckNames {
    type Answer = bool;

    fn asks(&self) -> Vec<Asked<'_>> {
        let paths = self.0.iter().filter_map(|goal| match &**goal {
            Goal::Disk(target) => target.path(),
            Goal::Key(_) => None,
        });
        paths.map(Asked::path).collect()
    }

    fn perform(self) -> bool {
        self.0.iter().all(|goal| match &**goal {
            Goal::Disk(target) => target.is_named().unwrap_or(true),
            Goal::Key(_) => true,
        })
    }
}
