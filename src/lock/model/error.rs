//! The errors of lock operations.

use rustix::io::Errno;

use super::input_error::InputError;
use super::mode::Mode;
use super::operation::Operation;
use super::owner::OwnerId;
use crate::lock::model::lease_name::spoken;
use crate::lock::model::refusal::{ForeignHolder, Refusal};
use crate::lock::text::errno::errno_description;
use crate::lock::text::escape::shown;

/// All errors of floor 0.
///
/// Texts are lower case, name the object and the cause, and contain no unescaped foreign
/// characters: the names in them are escaped by [`crate::lock::text::escape`], here or where the
/// message is formatted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Text of a caller that is not what it has to be.
    #[error(transparent)]
    Input(#[from] InputError),
    /// One call requests one disk twice, in different modes.
    #[error("{} is requested twice in one call, in different modes", spoken(_0))]
    TwoModes(String),
    /// The owner has locked it in another mode than requested.
    #[error(
        "this owner has locked {} in mode {held}; convert lock {lock} instead",
        spoken(resource)
    )]
    OtherMode {
        /// The requested name.
        resource: String,
        /// The mode of its lock.
        held: Mode,
        /// The number of the lock.
        lock: u64,
    },
    /// The owner has it recorded in mode none; a request for another mode does not lock it.
    #[error(
        "{} is only recorded for this owner, not locked; release lock {lock} first",
        spoken(resource)
    )]
    OnlyRecorded {
        /// The requested name.
        resource: String,
        /// The number of its lock.
        lock: u64,
    },
    /// The owner requests write access to a disk, and has no lease.
    #[error(
        "cannot lock {} for writing without a lease, because 'require_lease_for_disks' is set: acquire \
         a lease first, or in the same call",
        spoken(_0)
    )]
    LeaseRequired(String),
    /// The file does not exist.
    #[error("{} does not exist", spoken(_0))]
    Missing(String),
    /// The file exists and cannot be locked.
    #[error("cannot lock {resource}: {why}")]
    NotLockable {
        /// The requested name.
        resource: String,
        /// The cause.
        why: String,
    },
    /// The name led to another file by the time the first one was locked.
    #[error("cannot lock {0}: it was replaced by another file in the meantime; try again")]
    Changed(String),
    /// A system call failed.
    #[error("cannot {operation} {name}: {}", errno_description(*errno))]
    System {
        /// The operation that failed.
        operation: Operation,
        /// The object of the operation.
        name: String,
        /// The cause.
        errno: Errno,
    },
    /// A lockspace directory that is not trusted or not usable.
    #[error("cannot use lockspace directory {directory}: {why}")]
    Lockspace {
        /// The directory.
        directory: String,
        /// The cause.
        why: String,
    },
    /// No lockspace has this directory.
    #[error("lockspace {0} does not exist; create it first")]
    NoSuchLockspace(String),
    /// An owner of this service still uses the lockspace.
    #[error("lockspace {directory} is in use: VM \"{name}\" {how}")]
    LockspaceInUse {
        /// The directory.
        directory: String,
        /// The owner's name.
        name: String,
        /// The use, in words that follow the name.
        how: &'static str,
    },
    /// A lockspace of the configuration: clients may not create, use or remove it.
    #[error("lockspace {0} belongs to the configuration; create leases in another one")]
    Configured(String),
    /// Another owner of this service holds it.
    #[error("{0}")]
    Held(Box<Refusal>),
    /// A foreign holder has it.
    #[error("{0}")]
    HeldElsewhere(Box<ForeignHolder>),
    /// The owner is open already.
    #[error("owner {0} exists already")]
    OwnerExists(OwnerId),
    /// The owner does not exist, or has ended meanwhile.
    #[error("owner {0} does not exist")]
    NoSuchOwner(OwnerId),
    /// The owner is suspended, and may not acquire locks.
    #[error("owner {0} is suspended; resume it first")]
    Suspended(OwnerId),
    /// The owner has already offered its locks, and no owner has adopted them yet.
    #[error("owner {0} has offered its locks already; cancel the offer first")]
    OfferedAlready(OwnerId),
    /// The owner has no locks that it could offer.
    #[error("owner {0} has no locks to hand over")]
    NothingToOffer(OwnerId),
    /// The owner cannot adopt its own offer.
    #[error("owner {0} cannot adopt its own locks")]
    OwnOffer(OwnerId),
    /// The adopting owner has locked one of the offered resources itself.
    #[error(
        "the adopting owner has locked {} itself, by lock {lock}; release it first",
        spoken(resource)
    )]
    HeldTwice {
        /// The name by which it is locked.
        resource: String,
        /// The number of the adopting owner's lock.
        lock: u64,
    },
    /// The offer does not exist, or has expired.
    #[error("the offer does not exist; it may have expired, been adopted or been cancelled")]
    NoSuchOffer,
    /// The lock does not exist, or has been released meanwhile.
    #[error("lock {0} does not exist")]
    NoSuchLock(u64),
    /// A step failed, and so did the rollback of the steps before it.
    #[error("{cause}; and cannot undo it: {undo}")]
    NotUndone {
        /// Why the request failed.
        cause: Box<Error>,
        /// The error of the rollback.
        undo: Box<Error>,
    },
}

impl Error {
    /// Returns the error of a failed system call.
    #[must_use]
    pub fn system(operation: Operation, name: impl AsRef<str>, errno: Errno) -> Self {
        Self::System { operation, name: shown(name.as_ref()), errno }
    }

    /// Returns the error of a resource that cannot be locked.
    #[must_use]
    pub fn not_lockable(resource: impl AsRef<str>, why: impl Into<String>) -> Self {
        Self::NotLockable { resource: shown(resource.as_ref()), why: why.into() }
    }

    /// Returns the error of a missing resource.
    #[must_use]
    pub fn missing(resource: impl AsRef<str>) -> Self {
        Self::Missing(shown(resource.as_ref()))
    }

    /// Returns the error of a replaced resource.
    #[must_use]
    pub fn changed(resource: impl AsRef<str>) -> Self {
        Self::Changed(shown(resource.as_ref()))
    }

    /// Whether another holder has it, so that waiting may help.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Held(_) | Self::HeldElsewhere(_))
    }

    /// Adds the errors of the rollback, if there were any.
    #[must_use]
    pub fn with_undo(self, failures: Vec<Error>) -> Self {
        failures.into_iter().fold(self, |cause, undo| Self::NotUndone {
            cause: Box::new(cause),
            undo: Box::new(undo),
        })
    }
}
