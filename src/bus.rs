//! The message bus that the service and its clients use.

/// A message bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// The system bus of the host.
    System,
    /// The session bus of the user.
    Session,
}

impl Bus {
    /// Returns the bus that libvirt's default connection corresponds to: root uses the service of
    /// the host, and any other user its own.
    #[must_use]
    pub fn of(uid: u32) -> Self {
        if uid == 0 { Self::System } else { Self::Session }
    }

    /// Returns the name of the bus.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Session => "session",
        }
    }
}
