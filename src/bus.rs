//! Which message bus: the same two for the service and for those who call it.

/// Which of the two buses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// The host's.
    System,
    /// The user's own.
    Session,
}

impl Bus {
    /// The bus that libvirt's default connection would mean: root's is the host's service, and
    /// everybody else has one of his own.
    #[must_use]
    pub fn of(uid: u32) -> Self {
        if uid == 0 { Self::System } else { Self::Session }
    }

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Session => "session",
        }
    }
}
