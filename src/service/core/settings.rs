//! The settings of the service.

use std::time::Duration;

use crate::lock::lockspace::Lockspaces;
use crate::service::lock::reclaim;
use crate::service::verify::schedule;
use crate::service::{Limits, Visibility};

/// What may change while the service runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which lock files stand for which resources.
    pub lockspaces: Lockspaces,
    /// How much one user may ask for.
    pub limits: Limits,
    /// Whether disks on FUSE may be locked by descriptor by others than root.
    pub allow_fuse: bool,
    /// Whether disks of callers over D-Bus are recorded, and not locked.
    pub only_record_disks: bool,
    /// Whether these callers' owners have to hold a lease to write a disk.
    pub require_lease_for_disks: bool,
    /// Whose owners a user may see.
    pub visibility: Visibility,
    /// How often locks are looked at that others' storage could lose; `None`: never.
    pub verify_interval: Option<Duration>,
    /// How long a lock that libvirt releases while its VM lives is reserved for this VM; `None`:
    /// not at all.
    pub release_grace: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lockspaces: Lockspaces::default(),
            limits: Limits::default(),
            allow_fuse: false,
            only_record_disks: false,
            require_lease_for_disks: false,
            visibility: Visibility::default(),
            verify_interval: Some(schedule::INTERVAL),
            release_grace: Some(reclaim::GRACE),
        }
    }
}
