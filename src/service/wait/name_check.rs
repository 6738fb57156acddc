//! Checks whether the names of a waiting request still lead to its disks.

use std::sync::Arc;

use crate::lock::acquire::goal::Goal;
use crate::lock::request::{Asked, Work};

/// Checks whether the names of disks still lead to them. The answer is also `true` if that is
/// unknown.
#[derive(Debug)]
pub(in crate::service) struct CheckNames(pub(in crate::service) Vec<Arc<Goal>>);

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
