//! The settings of the service.

use std::time::Duration;

use crate::lock::lockspace::Lockspaces;
use crate::service::core::limits::{Limits, Visibility};

/// The default interval of the periodic verification of locks on remote storage.
const VERIFY_INTERVAL: Duration = Duration::from_secs(30);
/// The default grace period of a lock that libvirt releases while its VM is alive.
const RELEASE_GRACE: Duration = Duration::from_secs(10);

/// The settings that may change while the service runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The lockspaces: the lock file of each kind of resource.
    pub lockspaces: Lockspaces,
    /// The limits and quotas.
    pub limits: Limits,
    /// Whether users other than root may lock disks on FUSE by descriptor.
    pub allow_fuse: bool,
    /// Whether disks of D-Bus callers are only recorded and not locked.
    pub only_record_disks: bool,
    /// Whether owners of D-Bus callers must hold a lease to lock a disk for writing.
    pub require_lease_for_disks: bool,
    /// The owners that a user may see.
    pub visibility: Visibility,
    /// The interval of the periodic verification of locks on remote storage; `None` for never.
    pub verify_interval: Option<Duration>,
    /// The grace period during which a lock that libvirt releases while its VM is alive is reserved
    /// for this VM; `None` for no reservation.
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
            verify_interval: Some(VERIFY_INTERVAL),
            release_grace: Some(RELEASE_GRACE),
        }
    }
}
