//! What happened in the table, in the order in which it happened.

use std::collections::BTreeSet;

use super::owner::OwnerId;
use crate::lock::lockspace::LockspaceKind;
use crate::lock::model::lock::Lock;

/// One change that others may want to know of.
///
/// An event carries what its readers need, since by the time they read it the thing may be gone.
#[derive(Debug, Clone)]
pub enum Event {
    /// An owner is there.
    OwnerOpened(OwnerId),
    /// An owner's anchors changed.
    AnchorsChanged(OwnerId),
    /// An owner was suspended or resumed, or what it remembers has changed.
    OwnerChanged(OwnerId),
    /// An owner is gone, and its locks before it.
    OwnerClosed(OwnerId),
    /// A lock was given.
    LockAcquired(Box<Lock>),
    /// A lock was given up.
    LockReleased(Box<Lock>, Reason),
    /// A lock has another mode now.
    LockConverted(Box<Lock>),
    /// A lock that was restored was seen to be there.
    LockVerified(Box<Lock>),
    /// A lock is not there any more, though its owner lives.
    LockLost(Box<Lock>, Loss),
    /// There are other lockspaces now.
    LockspacesChanged,
    /// A lockspace is no more.
    LockspaceRemoved(LockspaceKind),
    /// An owner did not get what others hold.
    LockContended {
        /// The name it asked for.
        resource: String,
        /// The owners in its way, each once.
        holders: BTreeSet<OwnerId>,
        /// Who asked.
        owner: OwnerId,
    },
}

/// Why a lock is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Somebody else holds it.
    Taken,
    /// Its name leads to another file, or to none.
    Replaced,
    /// The server gave it up, since it did not hear of us for too long; others may have had it
    /// meanwhile.
    Expired,
    /// It can't be locked any more.
    Unlockable,
}

impl Loss {
    /// The word used on the bus and in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Replaced => "replaced",
            Self::Expired => "expired",
            Self::Unlockable => "unlockable",
        }
    }
}

/// Why a lock was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its owner, or somebody in its name, released it.
    Released,
    /// Its owner was closed.
    OwnerClosed,
    /// Its owner's last anchor went.
    OwnerGone,
    /// Its owner was suspended, and remembers it.
    Suspended,
    /// It passed to another owner.
    HandedOver,
    /// It was broken.
    Forced,
}

impl Reason {
    /// The word used on the bus and in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::OwnerClosed => "owner-closed",
            Self::OwnerGone => "owner-gone",
            Self::Suspended => "suspended",
            Self::HandedOver => "handed-over",
            Self::Forced => "forced",
        }
    }
}
