//! Rechecks the names of a waiting request, which may lead to other disks by now.
//!
//! A request by name is for the disk that has the name when it is granted: a disk that was replaced
//! by a rename, moved or deleted during the wait is not the disk that the next VM would open. So a
//! waiting request looks its names up again before each attempt, and at intervals with backoff. A
//! request by descriptor is for the file of the descriptor.

use std::sync::Arc;

use crate::lock;
use crate::lock::acquire::Goal;
use crate::lock::disk::snapshot::Snapshot;
use crate::lock::request::{Asked, Work};
use crate::lock::resolve::Resolve;
use crate::service::lock::request::{Disk, LockRequest};
use crate::service::process::views::Named;
use crate::service::{Error, Service};

/// The maximum number of lookups of names that change meanwhile.
const RENEWALS: usize = 4;

/// The lookups of a request, in its order.
#[derive(Debug, Default)]
pub(in crate::service) struct Lookups {
    /// `None` for a resource without a name.
    resolves: Vec<Option<Resolve>>,
    /// The names that must lead to the same files for the caller.
    names: Vec<Option<Named>>,
}

impl Lookups {
    /// Adds the lookup of one resource. Returns its name.
    pub(in crate::service) fn push(&mut self, ask: &LockRequest) -> Option<&Named> {
        self.resolves.push(ask.disk.lookup());
        self.names.push(ask.named());
        self.names.last().and_then(Option::as_ref)
    }

    /// Whether there are no lookups.
    pub(in crate::service) fn is_empty(&self) -> bool {
        self.resolves.iter().all(Option::is_none)
    }

    /// Returns what the lookup of the names accesses.
    pub(in crate::service) fn asks(&self) -> impl Iterator<Item = Asked<'_>> {
        self.resolves.iter().flatten().flat_map(Work::asks)
    }

    /// Looks up again each disk that its name no longer leads to. Returns whether a name leads to
    /// another disk. Call it on a worker thread.
    ///
    /// # Errors
    ///
    /// The errors of resolving, such as [`lock::Error::Missing`] for a name that does not exist;
    /// and the errors of [`Self::prove`].
    pub(in crate::service) fn renew(
        &self,
        service: &Service,
        goals: &mut [Arc<Goal>],
    ) -> Result<bool, Error> {
        let changed = self.look_up(service, goals)?;
        Ok(self.prove(service, goals)? || changed)
    }

    /// Checks that each name leads to the same file for the caller. Returns whether a name leads to
    /// another disk by now. Call it on a worker thread.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignName`], and the errors of resolving.
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
            // A name that cannot be looked up is resolved again, for the error.
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

    /// Returns a check whether all names lead to the same disks as before.
    pub(in crate::service) fn check(&self, goals: &[Arc<Goal>]) -> Option<CheckNames> {
        let named = goals.iter().zip(&self.resolves).filter(|(_, lookup)| lookup.is_some());
        let named: Vec<Arc<Goal>> = named.map(|(goal, _)| Arc::clone(goal)).collect();
        (!named.is_empty()).then_some(CheckNames(named))
    }
}

/// Checks whether the names of disks still lead to them. The answer is also `true` if that is
/// unknown.
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
