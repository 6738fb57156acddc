//! The error message by which a call is refused.
//!
//! Written by hand, since a refused call must cost as little as possible: no parsed message, no
//! task and no reply object.

use crate::service;

/// Why a call is refused before anything is done for it. A text must be the one that zbus would
/// answer where both can happen.
#[derive(Debug, thiserror::Error)]
pub(in crate::admission) enum RefusalReason {
    /// It exceeds a limit.
    #[error(transparent)]
    Limit(#[from] service::Error),
    /// zbus can't parse it.
    #[error("malformed message: {0}")]
    Malformed(zbus::Error),
    /// There is no such object, or the caller may not see it.
    #[error("Unknown object '{0}'")]
    UnknownObject(String),
    /// Its descriptors were lost.
    #[error("cannot receive the descriptors of the call: vmlockd has no free descriptors")]
    NoDescriptors,
    /// Its user is not known.
    #[error(transparent)]
    IdentificationError(#[from] IdentificationError),
}

/// Why the user of a connection is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentificationError {
    /// The bus does not tell it, or the connection has left.
    #[error("cannot identify the user of this connection: the bus does not know it")]
    NotFound,
    /// The bus has not answered.
    #[error(
        "cannot identify the user of this connection: the bus did not respond in time; try again"
    )]
    TimedOut,
}

impl RefusalReason {
    /// The name of the D-Bus error.
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
