//! Error replies: the name and message of a D-Bus error, and the exit code for it.

use zbus::DBusError;

use crate::cli::error::exit::Exit;

/// An error that the service or the bus replied with.
#[derive(Debug)]
pub(crate) struct ErrorReply {
    /// The D-Bus error name.
    pub(crate) name: String,
    /// The message; may be empty.
    pub(crate) message: String,
}

impl ErrorReply {
    /// Returns the reply in an error of zbus; `None` for a failure on the way.
    pub(crate) fn of(error: &zbus::Error) -> Option<Self> {
        match error {
            zbus::Error::MethodError(name, message, _) => {
                Some(Self { name: name.to_string(), message: message.clone().unwrap_or_default() })
            }
            zbus::Error::FDO(error) => match error.as_ref() {
                zbus::fdo::Error::ZBus(error) => Self::of(error),
                error => Some(Self {
                    name: error.name().to_string(),
                    message: error.description().unwrap_or_default().to_owned(),
                }),
            },
            _ => None,
        }
    }

    /// Returns the error name without the prefix of the standard errors of D-Bus, if it has it.
    pub(crate) fn standard_name(&self) -> Option<&str> {
        self.name.strip_prefix("org.freedesktop.DBus.Error.")
    }

    /// Returns the exit code for this error.
    pub(crate) fn exit(&self) -> Exit {
        if let Some(name) = self.name.strip_prefix("org.vmlockd1.Error.") {
            return match name {
                "LockHeld" | "LockHeldElsewhere" | "WaitTimedOut" => Exit::LOCKED,
                "NoSuchOwner" | "NoSuchLock" | "NoSuchLockspace" => Exit::MISSING,
                "ShuttingDown" => Exit::UNAVAILABLE,
                _ => Exit::FAILURE,
            };
        }
        match self.standard_name() {
            Some("InvalidArgs") => Exit::USAGE,
            Some("FileNotFound" | "UnknownObject") => Exit::MISSING,
            Some("AccessDenied" | "AuthFailed" | "InteractiveAuthorizationRequired") => {
                Exit::DENIED
            }
            Some(name) if is_stopped(name) || has_left(name) => Exit::UNAVAILABLE,
            _ => Exit::FAILURE,
        }
    }
}

/// Whether the bus reports that the service does not run and cannot be started.
pub(crate) fn is_stopped(name: &str) -> bool {
    matches!(name, "ServiceUnknown" | "NameHasNoOwner" | "TimedOut") || name.starts_with("Spawn.")
}

/// Whether the bus reports that the service left before it replied.
pub(crate) fn has_left(name: &str) -> bool {
    matches!(name, "NoReply" | "Disconnected" | "NoServer" | "Timeout")
}

/// Whether the connection to the bus is lost.
pub(crate) fn is_disconnected(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::InputOutput(_)
        | zbus::Error::Connection(..)
        | zbus::Error::Handshake(_)
        | zbus::Error::Address(_) => true,
        zbus::Error::FDO(error) => match error.as_ref() {
            zbus::fdo::Error::ZBus(error) => is_disconnected(error),
            _ => false,
        },
        _ => false,
    }
}
