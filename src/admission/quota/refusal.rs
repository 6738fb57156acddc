//! The reasons why a call is refused.

use crate::service;

/// The reason why a call is refused before anything is done for it. Where zbus can answer the same
/// call, the text is the text of zbus.
#[derive(Debug, thiserror::Error)]
pub(in crate::admission) enum RefusalReason {
    /// The call exceeds a limit.
    #[error(transparent)]
    Limit(#[from] service::Error),
    /// zbus cannot parse the message.
    #[error("malformed message: {0}")]
    Malformed(zbus::Error),
    /// The object does not exist, or the caller may not see it.
    #[error("Unknown object '{0}'")]
    UnknownObject(String),
    /// The descriptors of the call were lost.
    #[error("cannot receive the descriptors of the call: vmlockd has no free descriptors")]
    NoDescriptors,
    /// The user of the connection is not known.
    #[error(transparent)]
    IdentificationError(#[from] IdentificationError),
}

/// The reason why the user of a connection cannot be identified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentificationError {
    /// The bus does not know the user, or the connection has left.
    #[error("cannot identify the user of this connection: the bus does not know it")]
    NotFound,
    /// The bus did not respond in time.
    #[error(
        "cannot identify the user of this connection: the bus did not respond in time; try again"
    )]
    TimedOut,
}

impl RefusalReason {
    /// Returns the name of the D-Bus error.
    pub(in crate::admission) fn name(&self) -> &'static str {
        match self {
            Self::Limit(_)
            | Self::NoDescriptors
            | Self::IdentificationError(IdentificationError::TimedOut) => {
                "org.freedesktop.DBus.Error.LimitsExceeded"
            }
            Self::Malformed(_) => "org.freedesktop.DBus.Error.InvalidArgs",
            Self::UnknownObject(_) => "org.freedesktop.DBus.Error.UnknownObject",
            Self::IdentificationError(IdentificationError::NotFound) => {
                "org.freedesktop.DBus.Error.AccessDenied"
            }
        }
    }
}
