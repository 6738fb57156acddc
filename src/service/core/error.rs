//! What can go wrong with a command.

use std::time::Duration;

use crate::lock::model::input_error::InputError;
use crate::lock::model::refusal::{Refusal, Stranger};
use crate::lock::resolve::view::ForeignName;
use crate::service::io::mount_gate::Silent;
use crate::service::report::event_log::seconds;
use crate::service::wait::Why;
use crate::{inspector, keep, life, lock};

/// Everything that floor 2 refuses or fails at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A lock that can't be given, found or changed.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// An anchor that can't be had.
    #[error(transparent)]
    Life(#[from] life::Error),
    /// Other processes can't be looked at.
    #[error("cannot examine other processes: {0}")]
    Inspector(inspector::Error),
    /// Something that can't be kept over a crash, and so is not given.
    #[error(transparent)]
    Keep(#[from] keep::Error),
    /// Owners of ours hold it.
    #[error("{message}")]
    Held {
        /// The refusal in a sentence, with users and local time.
        message: String,
        /// The same as data.
        refusal: Box<Refusal>,
    },
    /// Somebody else holds it.
    #[error("{message}")]
    HeldElsewhere {
        /// The refusal in a sentence, with users and local time.
        message: String,
        /// The same as data.
        stranger: Box<Stranger>,
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
    /// What was waited for did not become free in time.
    #[error("timed out after {}{}", seconds(*waited), last.as_ref().map(|last| format!(": {last}")).unwrap_or_default())]
    TimedOut {
        /// How long.
        waited: Duration,
        /// Why it could not be had at the end.
        last: Option<Box<Self>>,
    },
    /// A command waits no more, and has got nothing.
    #[error("{}", match _0 {
        Why::OwnerGone => "the owner ended while the request was waiting",
        Why::Cancelled => "the wait was cancelled",
        Why::Ending => "the wait was cancelled: vmlockd is stopping or being re-executed; try again",
    })]
    Cancelled(Why),
    /// Whoever asked is not there any more.
    #[error("the caller disconnected while the request was waiting")]
    CallerGone,
    /// More than is allowed.
    #[error("too many {what}: the limit is {limit} {whose}")]
    Limit {
        /// What there would be too many of.
        what: &'static str,
        /// How many there may be.
        limit: usize,
        /// Whose limit it is: "for user 1000", "in one call", "in all".
        whose: String,
    },
    /// Breaking what belongs to a living owner of another user or front needs an explicit wish.
    #[error(
        "lock {lock} belongs to VM \"{name}\" of uid {uid}, which {how}; set 'force' to break it"
    )]
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
    /// An owner got more locks while somebody was asked whether they may be broken.
    #[error("the owner has acquired more locks since authorization was checked; try again")]
    MoreLocks,
    /// The service is about to end.
    #[error("vmlockd is shutting down")]
    ShuttingDown,
    /// The storage of what was asked for does not answer; nothing was done.
    #[error("mount {} has not responded for {}", _0.mount, seconds(_0.time))]
    Silent(Silent),
    /// A request to the file system ended without an answer: a bug, or the service's end.
    #[error("a file system request was abandoned")]
    Abandoned,
}

impl From<InputError> for Error {
    fn from(error: InputError) -> Self {
        lock::Error::from(error).into()
    }
}

impl Error {
    /// The error with the failures of its undoing, if there were any.
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
