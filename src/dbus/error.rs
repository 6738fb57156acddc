//! D-Bus errors, and the conversion of the errors of all floors to them. Every error is listed, so
//! that none becomes `Failed` by default.
//!
//! An error that may name other users has a second text (`error::redaction`); the sending half of
//! the connection chooses the text that the caller receives.

pub(super) mod redaction;

use std::fmt;

use rustix::io::Errno;
use zbus::message::{Header, Message};
use zbus::names::ErrorName;

use crate::lock::model::input_error::InputError;
use crate::privacy::ErrorTexts;
use crate::service::CancelReason;
use crate::{auth, inspector, keep, life, lock, service};
use redaction::{Redaction, redact_life, redact_lock, redact_service};

/// The error reply of a method.
#[derive(Debug)]
pub struct Error {
    name: &'static str,
    message: String,
    redaction: Option<Redaction>,
}

const PREFIX: &str = "org.vmlockd1.Error.";

/// The names of all errors that vmlockd defines, as the man page lists them.
pub const NAMES: &[&str] = &[
    FOREIGN_NAMESPACE,
    LOCK_HELD,
    LOCK_HELD_ELSEWHERE,
    LEASE_REQUIRED,
    OWNER_EXISTS,
    NO_SUCH_OWNER,
    NO_SUCH_LOCK,
    NO_SUCH_LOCKSPACE,
    NO_SUCH_OFFER,
    NOT_LOCKABLE,
    RESOURCE_CHANGED,
    SHUTTING_DOWN,
    WAIT_TIMED_OUT,
    WAIT_CANCELLED,
];

const FOREIGN_NAMESPACE: &str = "org.vmlockd1.Error.ForeignNamespace";
const LOCK_HELD: &str = "org.vmlockd1.Error.LockHeld";
const LOCK_HELD_ELSEWHERE: &str = "org.vmlockd1.Error.LockHeldElsewhere";
const LEASE_REQUIRED: &str = "org.vmlockd1.Error.LeaseRequired";
const OWNER_EXISTS: &str = "org.vmlockd1.Error.OwnerExists";
const NO_SUCH_OWNER: &str = "org.vmlockd1.Error.NoSuchOwner";
const NO_SUCH_LOCK: &str = "org.vmlockd1.Error.NoSuchLock";
const NO_SUCH_LOCKSPACE: &str = "org.vmlockd1.Error.NoSuchLockspace";
const NO_SUCH_OFFER: &str = "org.vmlockd1.Error.NoSuchOffer";
const NOT_LOCKABLE: &str = "org.vmlockd1.Error.NotLockable";
const RESOURCE_CHANGED: &str = "org.vmlockd1.Error.ResourceChanged";
const SHUTTING_DOWN: &str = "org.vmlockd1.Error.ShuttingDown";
const WAIT_TIMED_OUT: &str = "org.vmlockd1.Error.WaitTimedOut";
const WAIT_CANCELLED: &str = "org.vmlockd1.Error.WaitCancelled";

/// The names of the standard errors that methods return, as the man page lists them.
pub const STANDARD_NAMES: &[&str] = &[
    ACCESS_DENIED,
    FAILED,
    FILE_NOT_FOUND,
    INTERACTIVE,
    INVALID_ARGS,
    IO_ERROR,
    LIMITS_EXCEEDED,
    NOT_SUPPORTED,
    TIMEOUT,
    NO_SUCH_PROCESS,
];

const ACCESS_DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
const FAILED: &str = "org.freedesktop.DBus.Error.Failed";
const FILE_NOT_FOUND: &str = "org.freedesktop.DBus.Error.FileNotFound";
const INTERACTIVE: &str = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired";
const INVALID_ARGS: &str = "org.freedesktop.DBus.Error.InvalidArgs";
const IO_ERROR: &str = "org.freedesktop.DBus.Error.IOError";
const LIMITS_EXCEEDED: &str = "org.freedesktop.DBus.Error.LimitsExceeded";
const NOT_SUPPORTED: &str = "org.freedesktop.DBus.Error.NotSupported";
const TIMEOUT: &str = "org.freedesktop.DBus.Error.Timeout";
const NO_SUCH_PROCESS: &str = "org.freedesktop.DBus.Error.UnixProcessIdUnknown";

impl Error {
    fn new(name: &'static str, message: impl fmt::Display) -> Self {
        let listed = if name.starts_with(PREFIX) { NAMES } else { STANDARD_NAMES };
        debug_assert!(listed.contains(&name), "{name} is not listed");
        Self { name, message: message.to_string(), redaction: None }
    }

    fn with_redaction(self, redaction: Option<Redaction>) -> Self {
        Self { redaction, ..self }
    }

    /// Returns an error about an invalid argument.
    #[must_use]
    pub fn invalid(message: impl fmt::Display) -> Self {
        Self::new(INVALID_ARGS, message)
    }

    /// Returns an error about a request that this version does not support.
    #[must_use]
    pub fn unsupported(message: impl fmt::Display) -> Self {
        Self::new(NOT_SUPPORTED, message)
    }

    /// Returns an error about a limit that a call exceeds.
    #[must_use]
    pub fn limit_exceeded(message: impl fmt::Display) -> Self {
        Self::new(LIMITS_EXCEEDED, message)
    }

    /// Returns an error about an owner that does not exist.
    #[must_use]
    pub fn no_such_owner(message: impl fmt::Display) -> Self {
        Self::new(NO_SUCH_OWNER, message)
    }

    /// Returns an error about a descriptor that refers to another disk than the lock.
    #[must_use]
    pub fn resource_changed(message: impl fmt::Display) -> Self {
        Self::new(RESOURCE_CHANGED, message)
    }

    /// Returns an error about a lock that does not exist.
    #[must_use]
    pub fn no_such_lock(message: impl fmt::Display) -> Self {
        Self::new(NO_SUCH_LOCK, message)
    }

    /// Whether it is about a path or a process number in another namespace.
    #[must_use]
    pub fn is_foreign_namespace(&self) -> bool {
        self.name == FOREIGN_NAMESPACE
    }

    /// Appends a detail, which every caller may read, to the message.
    #[must_use]
    pub fn with_detail(self, detail: impl fmt::Display) -> Self {
        let append = |text: &str| format!("{text}; {detail}");
        let redaction = self
            .redaction
            .map(|redaction| Redaction { text: append(&redaction.text), users: redaction.users });
        Self { message: append(&self.message), redaction, name: self.name }
    }

    /// Returns an error about a failure of the service.
    #[must_use]
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(FAILED, message)
    }
}

impl zbus::DBusError for Error {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        let reply = Message::error(call, self.name);
        let Some(Redaction { text, users }) = &self.redaction else {
            return reply.build(&self.message);
        };
        let (full, redacted, users) = (self.message.clone(), text.clone(), users.clone());
        reply.build(&ErrorTexts { full, redacted, users }.body())
    }

    fn name(&self) -> ErrorName<'_> {
        ErrorName::from_static_str_unchecked(self.name)
    }

    fn description(&self) -> Option<&str> {
        Some(&self.message)
    }
}

impl From<service::Error> for Error {
    fn from(error: service::Error) -> Self {
        use service::Error as E;
        let redaction = redact_service(&error);
        let error = match error {
            E::Lock(error) => error.into(),
            E::Life(error) => error.into(),
            E::Held { message, .. } => Self::new(LOCK_HELD, message),
            E::HeldElsewhere { message, .. } => Self::new(LOCK_HELD_ELSEWHERE, message),
            E::Limit { .. } | E::Keep(keep::Error::Full(_)) => Self::new(LIMITS_EXCEEDED, &error),
            E::NeedsForce { .. } | E::MoreLocks => Self::new(ACCESS_DENIED, &error),
            E::ShuttingDown | E::Cancelled(CancelReason::Ending) => {
                Self::new(SHUTTING_DOWN, &error)
            }
            E::ForeignName(_) | E::ForeignPid { .. } => Self::new(FOREIGN_NAMESPACE, &error),
            E::UnresponsiveMount(_) => Self::new(TIMEOUT, &error),
            E::TimedOut { .. } => Self::new(WAIT_TIMED_OUT, &error),
            E::Cancelled(_) | E::CallerGone => Self::new(WAIT_CANCELLED, &error),
            // No inspector can be started, for lack of descriptors or of processes.
            E::Inspector(inspector::Error::Start(_) | inspector::Error::Busy) => {
                Self::new(LIMITS_EXCEEDED, &error)
            }
            E::Keep(_) | E::Inspector(_) | E::Abandoned => Self::new(IO_ERROR, &error),
        };
        error.with_redaction(redaction)
    }
}

impl From<InputError> for Error {
    fn from(error: InputError) -> Self {
        lock::Error::from(error).into()
    }
}

impl From<lock::Error> for Error {
    fn from(error: lock::Error) -> Self {
        let (name, redaction) = (name_of(&error), redact_lock(&error));
        Self::new(name, error).with_redaction(redaction)
    }
}

fn name_of(error: &lock::Error) -> &'static str {
    use lock::Error as E;
    match error {
        E::Input(_)
        | E::TwoModes(_)
        | E::OtherMode { .. }
        | E::OnlyRecorded { .. }
        | E::Suspended(_)
        | E::OfferedAlready(_)
        | E::NothingToOffer(_)
        | E::OwnOffer(_)
        | E::Configured(_)
        | E::HeldTwice { .. } => INVALID_ARGS,
        E::NoSuchOffer => NO_SUCH_OFFER,
        E::Missing(_) => FILE_NOT_FOUND,
        E::NotLockable { .. } | E::Lockspace { .. } => NOT_LOCKABLE,
        E::Changed(_) => RESOURCE_CHANGED,
        E::System { errno: Errno::MFILE | Errno::NFILE, .. } => LIMITS_EXCEEDED,
        E::System { .. } => IO_ERROR,
        E::NoSuchLockspace(_) => NO_SUCH_LOCKSPACE,
        E::LeaseRequired(_) => LEASE_REQUIRED,
        E::Held(_) | E::LockspaceInUse { .. } => LOCK_HELD,
        E::HeldElsewhere(_) => LOCK_HELD_ELSEWHERE,
        E::OwnerExists(_) => OWNER_EXISTS,
        E::NoSuchOwner(_) => NO_SUCH_OWNER,
        E::NoSuchLock(_) => NO_SUCH_LOCK,
        E::NotUndone { cause, .. } => name_of(cause),
    }
}

impl From<life::Error> for Error {
    fn from(error: life::Error) -> Self {
        use life::Error as E;
        let name = match error {
            E::NoSuchProcess(_) | E::Ended => NO_SUCH_PROCESS,
            E::NotAProcess | E::IsThread | E::Hidden => INVALID_ARGS,
            E::System { .. } => LIMITS_EXCEEDED,
        };
        let redaction = redact_life(&error);
        Self::new(name, error).with_redaction(redaction)
    }
}

impl From<auth::Error> for Error {
    fn from(error: auth::Error) -> Self {
        use auth::Error as E;
        match error {
            E::Denied { action, .. } => {
                Self::new(ACCESS_DENIED, &error).with_detail(action.advice())
            }
            E::Interactive { action, .. } => {
                Self::new(INTERACTIVE, &error).with_detail(action.advice())
            }
            E::NoPolkit { .. } | E::Unlisted(_) | E::CallerGone => Self::new(ACCESS_DENIED, &error),
            E::BusTimeout => Self::new(LIMITS_EXCEEDED, &error),
            E::Limit(error) => error.into(),
        }
    }
}
