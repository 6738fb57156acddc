//! Names of a request that may lead to other disks while it waits.
//!
//! A request by name is about whatever has the name when it is granted: a disk that is replaced by a
//! rename, moved or deleted while somebody waits for it is not what the next virtual machine would
//! open. So a waiting request looks its names up again before it tries, and now and then besides.
//! A request by descriptor is about the file that was shown.

use std::sync::Arc;

use super::ask::Disk;
use super::{Error, Service};
use crate::lock::resolve::Resolve;
use crate::lock::take::Goal;
use crate::lock::work::{Asked, Work};

/// The lookups of a request, in its order; none for what has no name.
#[derive(Debug, Default)]
pub(super) struct Lookups(Vec<Option<Resolve>>);

impl Lookups {
    pub(super) fn push(&mut self, lookup: Option<Resolve>) {
        self.0.push(lookup);
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// What has to be asked to look the names up.
    pub(super) fn asks(&self) -> impl Iterator<Item = Asked<'_>> {
        self.0.iter().flatten().flat_map(Work::asks)
    }

    /// Looks up again what is not there any more by its name. Returns whether a name leads to
    /// another disk. For a storage thread.
    ///
    /// # Errors
    ///
    /// What resolving fails with: [`crate::lock::Error::Missing`] for a name that leads nowhere.
    pub(super) fn renew(&self, service: &Service, goals: &mut [Arc<Goal>]) -> Result<bool, Error> {
        let mut changed = false;
        for (goal, lookup) in goals.iter_mut().zip(&self.0) {
            let (Goal::Disk(target), Some(lookup)) = (&**goal, lookup) else { continue };
            // A name that can't be looked up is looked up once more, to tell why.
            if target.is_named().unwrap_or(false) && target.lies_as_found().unwrap_or(false) {
                continue;
            }
            let Some(lookup) = lookup.again() else { continue };
            *goal = Arc::new(Disk::Wanted(lookup).find(service)?);
            changed = true;
        }
        Ok(changed)
    }

    /// Returns a check whether all names lead where they led.
    pub(super) fn check(&self, goals: &[Arc<Goal>]) -> Option<CheckNames> {
        let named = goals.iter().zip(&self.0).filter(|(_, lookup)| lookup.is_some());
        let named: Vec<Arc<Goal>> = named.map(|(goal, _)| Arc::clone(goal)).collect();
        (!named.is_empty()).then_some(CheckNames(named))
    }
}

/// Checks whether the names of disks still lead to them. The answer is true also where that can't be
/// told.
#[derive(Debug)]
pub(super) struct CheckNames(Vec<Arc<Goal>>);

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
