//! What can go wrong with a lock.

use nix::errno::Errno;

use super::mode::Mode;
use super::operation::Operation;
use super::owner::OwnerId;
use crate::lock::model::lease_name::spoken;
use crate::lock::model::refusal::{Refusal, Stranger};
use crate::lock::text::escape::shown;

/// Everything that floor 0 refuses or fails at.
///
/// Texts are lower case, name the thing and the cause, and hold no unescaped foreign characters:
/// the names in them go through [`crate::lock::text::escape`], here or where the sentence is made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A word that is no mode.
    #[error("mode '{0}' is neither 'exclusive' nor 'shared'")]
    BadMode(String),
    /// A path that can't name a disk.
    #[error("path '{path}' {why}")]
    BadPath {
        /// The path, shortened and escaped.
        path: String,
        /// What is wrong with it, to follow the path in a sentence.
        why: &'static str,
    },
    /// A name that can't be a file's in a lockspace.
    #[error("key '{key}' {why}")]
    BadKey {
        /// The name, shortened and escaped.
        key: String,
        /// What is wrong with it, to follow the name in a sentence.
        why: &'static str,
    },
    /// A name that can't be a machine's.
    #[error("name '{name}' {why}")]
    BadName {
        /// The name, shortened and escaped.
        name: String,
        /// What is wrong with it, to follow the name in a sentence.
        why: &'static str,
    },
    /// A word that is no UUID.
    #[error("'{0}' is not a UUID")]
    BadUuid(String),
    /// One call names one disk twice and disagrees with itself.
    #[error("{} is requested twice in one call, in different modes", spoken(_0))]
    TwoModes(String),
    /// The owner holds it, otherwise than it asks now.
    #[error(
        "this owner has locked {} in mode {held}; convert lock {lock} instead",
        spoken(resource)
    )]
    OtherMode {
        /// The name asked for.
        resource: String,
        /// The mode in which it is held.
        held: Mode,
        /// The number of the lock.
        lock: u64,
    },
    /// The owner has it recorded, and neither locked nor to be locked by that.
    #[error(
        "{} is only recorded for this owner, not locked; release lock {lock} first",
        spoken(resource)
    )]
    OnlyRecorded {
        /// The name asked for.
        resource: String,
        /// The number of its lock.
        lock: u64,
    },
    /// The owner wants to write a disk, and has no lease.
    #[error(
        "cannot lock {} for writing without a lease, because 'require_lease_for_disks' is set: acquire \
         a lease first, or in the same call",
        spoken(_0)
    )]
    LeaseRequired(String),
    /// Nothing is there by that name.
    #[error("{} does not exist", spoken(_0))]
    Missing(String),
    /// Something is there, and no lock can be put on it.
    #[error("cannot lock {resource}: {why}")]
    NotLockable {
        /// What was asked for.
        resource: String,
        /// The cause.
        why: String,
    },
    /// The name led elsewhere by the time the lock was there.
    #[error("cannot lock {0}: it was replaced by another file in the meantime; try again")]
    Changed(String),
    /// The system failed at something.
    #[error("cannot {operation} {name}: {}", errno.desc())]
    System {
        /// The operation that failed.
        operation: Operation,
        /// To what.
        name: String,
        /// The cause.
        errno: Errno,
    },
    /// A lockspace directory that can't be trusted or used.
    #[error("cannot use lockspace directory {directory}: {why}")]
    Lockspace {
        /// The directory.
        directory: String,
        /// The cause.
        why: String,
    },
    /// No lockspace is known by that directory.
    #[error("lockspace {0} does not exist; create it first")]
    NoSuchLockspace(String),
    /// A lockspace that an owner of ours still has to do with.
    #[error("lockspace {directory} is in use: VM \"{name}\" {how}")]
    LockspaceInUse {
        /// The directory.
        directory: String,
        /// The owner's name.
        name: String,
        /// What it does, in words that follow the name.
        how: &'static str,
    },
    /// A lockspace that the configuration names, and nobody else makes, fills or removes.
    #[error("lockspace {0} belongs to the configuration; create leases in another one")]
    Configured(String),
    /// Another owner holds it.
    #[error("{0}")]
    Held(Box<Refusal>),
    /// Somebody holds it who is no owner of ours.
    #[error("{0}")]
    HeldElsewhere(Box<Stranger>),
    /// That owner is open already.
    #[error("owner {0} exists already")]
    OwnerExists(OwnerId),
    /// There is no such owner, or it has ended meanwhile.
    #[error("owner {0} does not exist")]
    NoSuchOwner(OwnerId),
    /// The owner has given up what it holds for a while, and may not ask for more meanwhile.
    #[error("owner {0} is suspended; resume it first")]
    Suspended(OwnerId),
    /// The owner has offered what it holds, and nobody has adopted it yet.
    #[error("owner {0} has offered its locks already; cancel the offer first")]
    OfferedAlready(OwnerId),
    /// The owner holds nothing that it could offer.
    #[error("owner {0} has no locks to hand over")]
    NothingToOffer(OwnerId),
    /// The owner's own offer.
    #[error("owner {0} cannot adopt its own locks")]
    OwnOffer(OwnerId),
    /// The owner holds itself what it would adopt.
    #[error(
        "the adopting owner has locked {} itself, by lock {lock}; release it first",
        spoken(resource)
    )]
    HeldTwice {
        /// The name by which it is held.
        resource: String,
        /// The number of the owner's own lock.
        lock: u64,
    },
    /// There is no such offer, or it has expired.
    #[error("the offer does not exist; it may have expired, been adopted or been cancelled")]
    NoSuchOffer,
    /// There is no such lock, or it has been released meanwhile.
    #[error("lock {0} does not exist")]
    NoSuchLock(u64),
    /// A step failed, and so did the undoing of those before it.
    #[error("{cause}; and cannot undo it: {undo}")]
    NotUndone {
        /// Why the request failed.
        cause: Box<Error>,
        /// What is left because the undoing failed.
        undo: Box<Error>,
    },
}

impl Error {
    /// A failed system call.
    #[must_use]
    pub fn system(operation: Operation, name: impl AsRef<str>, errno: Errno) -> Self {
        Self::System { operation, name: shown(name.as_ref()), errno }
    }

    /// Something that no lock can be put on.
    #[must_use]
    pub fn not_lockable(resource: impl AsRef<str>, why: impl Into<String>) -> Self {
        Self::NotLockable { resource: shown(resource.as_ref()), why: why.into() }
    }

    /// Something that is not there.
    #[must_use]
    pub fn missing(resource: impl AsRef<str>) -> Self {
        Self::Missing(shown(resource.as_ref()))
    }

    /// Something that was replaced.
    #[must_use]
    pub fn changed(resource: impl AsRef<str>) -> Self {
        Self::Changed(shown(resource.as_ref()))
    }

    /// Whether somebody holds it, so that waiting may help.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Held(_) | Self::HeldElsewhere(_))
    }

    /// The error with the failures of its undoing, if there were any.
    #[must_use]
    pub fn with_undo(self, failures: Vec<Error>) -> Self {
        failures.into_iter().fold(self, |cause, undo| Self::NotUndone {
            cause: Box::new(cause),
            undo: Box::new(undo),
        })
    }
}
