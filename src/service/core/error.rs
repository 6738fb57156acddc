//! Errors of commands.

use std::time::Duration;

use crate::lock::model::input_error::InputError;
use crate::lock::model::refusal::{ForeignHolder, Refusal};
use crate::lock::resolve::view::ForeignName;
use crate::phrases::SET_FORCE;
use crate::service::core::clock::seconds;
use crate::{inspector, keep, life, lock};

/// The cause that ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReason {
    /// Its owner has ended.
    OwnerGone,
    /// It was cancelled on request.
    Cancelled,
    /// The service ends or is replaced.
    Ending,
}

/// A mount whose file system does not respond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnresponsiveMount {
    /// The mount point, escaped.
    pub mount: String,
    /// For how long it has not responded.
    pub time: Duration,
}

/// An error of a command of the service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A lock cannot be granted, found or changed.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// An anchor cannot be added.
    #[error(transparent)]
    Life(#[from] life::Error),
    /// Other processes cannot be examined.
    #[error("cannot examine other processes: {0}")]
    Inspector(inspector::Error),
    /// Data cannot be written to the journal, which must survive a crash.
    #[error(transparent)]
    Keep(#[from] keep::Error),
    /// Owners of this service hold the resource.
    #[error("{message}")]
    Held {
        /// The refusal in a sentence, with users and local time.
        message: String,
        /// The refusal as data.
        refusal: Box<Refusal>,
    },
    /// A foreign holder has locked the resource.
    #[error("{message}")]
    HeldElsewhere {
        /// The refusal in a sentence, with users and local time.
        message: String,
        /// The refusal as data.
        foreign: Box<ForeignHolder>,
    },
    /// A name that is not proven to lead to the same file for the caller and for the service.
    #[error(transparent)]
    ForeignName(#[from] ForeignName),
    /// A process number of another pid namespace.
    #[error(
        "cannot translate process number {pid} of the pid namespace of the caller (pid {caller}): \
         {why}; pass a process descriptor instead (BindProcess, or option 'process' of OpenOwner)"
    )]
    ForeignPid {
        /// The number.
        pid: u32,
        /// The caller's process.
        caller: u32,
        /// The cause.
        why: String,
    },
    /// The wait timed out.
    #[error("timed out after {}{}", seconds(*waited), last.as_ref().map(|last| format!(": {last}")).unwrap_or_default())]
    TimedOut {
        /// How long the request waited.
        waited: Duration,
        /// The refusal at the end of the wait.
        last: Option<Box<Self>>,
    },
    /// The wait was cancelled, and no lock was granted.
    #[error("{}", match _0 {
        CancelReason::OwnerGone => "the owner ended while the request was waiting",
        CancelReason::Cancelled => "the wait was cancelled",
        CancelReason::Ending => "the wait was cancelled: vmlockd is stopping or being re-executed; try again",
    })]
    Cancelled(CancelReason),
    /// The caller has disconnected.
    #[error("the caller disconnected while the request was waiting")]
    CallerGone,
    /// A limit is exceeded.
    #[error("too many {what}: the limit is {limit} {whose}")]
    Limit {
        /// The kind of the limited objects.
        what: &'static str,
        /// The limit.
        limit: usize,
        /// The scope of the limit: "for user 1000", "in one call", "in all".
        whose: String,
    },
    /// The forced release of the locks of a live owner of another user or frontend needs `force`.
    #[error("lock {lock} belongs to VM \"{name}\" of uid {uid}, which {how}; {}", SET_FORCE)]
    NeedsForce {
        /// The lock.
        lock: u64,
        /// The owner's name.
        name: String,
        /// The owner's user.
        uid: u32,
        /// Whether a process keeps it alive, in words that follow "which".
        how: &'static str,
    },
    /// The owner acquired more locks while the caller was authorized to release them.
    #[error("the owner has acquired more locks since authorization was checked; try again")]
    MoreLocks,
    /// The service is shutting down.
    #[error("vmlockd is shutting down")]
    ShuttingDown,
    /// The storage of the resource does not respond; nothing was done.
    #[error("mount {} has not responded for {}", _0.mount, seconds(_0.time))]
    UnresponsiveMount(UnresponsiveMount),
    /// A file-system request ended without an answer: a bug, or the end of the service.
    #[error("a file system request was abandoned")]
    Abandoned,
}

impl From<InputError> for Error {
    fn from(error: InputError) -> Self {
        lock::Error::from(error).into()
    }
}

impl Error {
    /// Adds the failures of the rollback to the error, if there are any.
    #[must_use]
    pub(in crate::service) fn with_undo(self, failures: Vec<lock::Error>) -> Self {
        match self {
            Self::Lock(error) => Self::Lock(error.with_undo(failures)),
            error => {
                for failure in failures {
                    tracing::error!(%failure, "cannot undo a request that failed");
                }
                error
            }
        }
    }
}
