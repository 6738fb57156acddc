//! The requested resources of an acquisition, and their lookup.
//!
//! A request by name is for the disk that has the name when it is granted: a disk that was replaced
//! by a rename, moved or deleted during the wait is not the disk that the next VM would open. So a
//! waiting request looks its names up again before each attempt, and at intervals with backoff. A
//! request by descriptor is for the file of the descriptor.

use std::mem;
use std::sync::Arc;

use crate::lock;
use crate::lock::acquire::goal::Goal;
use crate::lock::disk::snapshot::Snapshot;
use crate::lock::request::{Asked, Work};
use crate::lock::resolve::Resolve;
use crate::service::components::Components;
use crate::service::core::error::Error;
use crate::service::lock::request::{Disk, LockRequest};
use crate::service::process::names::Named;
use crate::service::wait::name_check::CheckNames;

/// The maximum number of lookups of names that change meanwhile.
const RENEWALS: usize = 4;

/// The resources of a request, in its order.
#[derive(Debug)]
pub(super) struct Resolution {
    /// The resources that are not looked up yet.
    requests: Vec<LockRequest>,
    goals: Vec<Arc<Goal>>,
    /// The lookups of the others; `None` for a resource without a name.
    lookups: Vec<Option<Resolve>>,
    /// Their names, which must lead to the same files for the caller.
    names: Vec<Option<Named>>,
}

impl Resolution {
    pub(super) fn new(requests: Vec<LockRequest>) -> Self {
        Self { requests, goals: Vec::new(), lookups: Vec::new(), names: Vec::new() }
    }

    /// Returns the resources that were looked up.
    pub(super) fn goals(&self) -> &[Arc<Goal>] {
        &self.goals
    }

    /// Whether any resource was requested by name.
    pub(super) fn has_names(&self) -> bool {
        self.lookups.iter().any(Option::is_some)
    }

    /// Returns what the lookup and the locking of the resources access.
    pub(super) fn asks(&self) -> Vec<Asked<'_>> {
        let found = self.goals.iter().flat_map(|goal| goal.asks());
        let names = self.lookups.iter().flatten().flat_map(Work::asks).map(Asked::without_lookup);
        let requested = self.requests.iter().flat_map(|request| request.disk.asks());
        requested.chain(found).chain(names).collect()
    }

    /// Looks up the resources that are not looked up yet. Call it on a worker thread.
    ///
    /// # Errors
    ///
    /// The errors of resolving, such as [`lock::Error::Missing`] for a name that does not exist.
    pub(super) fn resolve(&mut self, components: &Components) -> Result<(), Error> {
        let mut host = Snapshot::default();
        for request in mem::take(&mut self.requests) {
            let (lookup, named) = (request.disk.lookup(), request.named());
            host.refresh();
            let goal = request.disk.find(components, &host);
            let explain = |error| components.inspection.explain_missing(named.as_ref(), error);
            self.goals.push(Arc::new(goal.map_err(explain)?));
            self.lookups.push(lookup);
            self.names.push(named);
        }
        Ok(())
    }

    /// Looks up again each disk that its name no longer leads to. Returns whether a name leads to
    /// another disk. Call it on a worker thread.
    ///
    /// # Errors
    ///
    /// The errors of [`Self::resolve`] and of [`Self::prove`].
    pub(super) fn renew(&mut self, components: &Components) -> Result<bool, Error> {
        let has_changed = self.look_up_again(components)?;
        Ok(self.prove(components)? || has_changed)
    }

    /// Checks that each name leads to the same file for the caller. Returns whether a name leads to
    /// another disk by now. Call it on a worker thread.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignName`], and the errors of [`Self::resolve`].
    pub(super) fn prove(&mut self, components: &Components) -> Result<bool, Error> {
        let mut has_changed = false;
        for _ in 0..RENEWALS {
            match components.inspection.prove(&self.goals, &self.names) {
                Err(Error::Lock(lock::Error::Changed(_))) if self.has_names() => {
                    has_changed |= self.look_up_again(components)?;
                }
                proven => return proven.map(|()| has_changed),
            }
        }
        components.inspection.prove(&self.goals, &self.names).map(|()| has_changed)
    }

    fn look_up_again(&mut self, components: &Components) -> Result<bool, Error> {
        let mut has_changed = false;
        let names = self.lookups.iter().zip(&self.names);
        for (goal, (lookup, named)) in self.goals.iter_mut().zip(names) {
            let (Goal::Disk(target), Some(lookup)) = (&**goal, lookup) else { continue };
            // A name that cannot be looked up is resolved again, for the error.
            if target.is_named().unwrap_or(false) && target.lies_as_found().unwrap_or(false) {
                continue;
            }
            let Some(lookup) = lookup.again() else { continue };
            let found = Disk::Wanted(lookup).find(components, &Snapshot::default());
            let explain = |error| components.inspection.explain_missing(named.as_ref(), error);
            *goal = Arc::new(found.map_err(explain)?);
            has_changed = true;
        }
        Ok(has_changed)
    }

    /// Returns a check whether all names lead to the same disks as before; `None` if there are no
    /// names.
    pub(super) fn check_names(&self) -> Option<CheckNames> {
        let named = self.goals.iter().zip(&self.lookups).filter(|(_, lookup)| lookup.is_some());
        let named: Vec<Arc<Goal>> = named.map(|(goal, _)| Arc::clone(goal)).collect();
        (!named.is_empty()).then_some(CheckNames(named))
    }
}
