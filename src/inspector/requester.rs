//! The requesters of queries.

/// A user or component on whose behalf queries are sent. Each has one query in progress at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Requester {
    /// A user of the bus.
    User(u32),
    /// Callers of a user, whose view of file names or pids is queried.
    Callers(u32),
    /// The frontend for libvirt.
    Libvirt,
    /// The service itself.
    Service,
}

impl Requester {
    /// Returns whether the requester may use the workers that are reserved for the administrator
    /// and for libvirt.
    #[must_use]
    pub fn is_privileged(self) -> bool {
        !matches!(self, Self::User(uid) | Self::Callers(uid) if uid != 0)
    }
}
