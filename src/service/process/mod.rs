//! Processes, as an inspector reports them ([`Inspection`]): the service itself reads nothing of
//! other processes.
//!
//! [`identity`] finds the user of a process, [`pids`] the process that a number means for a caller,
//! [`names`] the file that a name leads to for a caller ([`caller`]) in another namespace, and
//! [`search`] the processes that use a disk. [`inspector_queue`] admits requesters to the
//! inspector.

pub(super) mod caller;
pub(super) mod identity;
pub(super) mod inspector_queue;
pub(super) mod names;
pub(super) mod pids;
pub mod search;

use std::sync::Arc;

use crate::inspector::Inspector;
use crate::service::io::executor::Executor;
use crate::service::process::inspector_queue::InspectorQueue;

/// Queries to an inspector about processes.
#[derive(Debug)]
pub struct Inspection {
    inspector: Inspector,
    queue: InspectorQueue,
    executor: Arc<Executor>,
}

impl Inspection {
    pub(in crate::service) fn new(inspector: Inspector, executor: &Arc<Executor>) -> Self {
        let (queue, executor) = (InspectorQueue::default(), Arc::clone(executor));
        Self { inspector, queue, executor }
    }

    /// Returns the inspector.
    #[must_use]
    pub fn inspector(&self) -> &Inspector {
        &self.inspector
    }
}
