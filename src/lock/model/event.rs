//! Events of the table, in the order in which they happened.

use std::collections::BTreeSet;

use super::owner::OwnerId;
use crate::lock::model::lock::Lock;
use crate::lock::model::lockspace_kind::LockspaceKind;

/// One change in the table, for subscribers.
///
/// An event carries all data that its readers need, since its subject may be gone by the time they
/// read it.
#[derive(Debug, Clone)]
pub enum Event {
    /// An owner was opened.
    OwnerOpened(OwnerId),
    /// An owner's anchors changed.
    AnchorsChanged(OwnerId),
    /// An owner was suspended or resumed, or what it remembers has changed.
    OwnerChanged(OwnerId),
    /// An owner is gone, after its locks.
    OwnerClosed(OwnerId),
    /// A lock was acquired.
    LockAcquired(Box<Lock>),
    /// A lock was released.
    LockReleased(Box<Lock>, Reason),
    /// The mode of a lock has changed.
    LockConverted(Box<Lock>),
    /// A restored lock was verified.
    LockVerified(Box<Lock>),
    /// A lock is lost while its owner is alive.
    LockLost(Box<Lock>, Loss),
    /// The set of lockspaces has changed.
    LockspacesChanged,
    /// A lockspace was removed.
    LockspaceRemoved(LockspaceKind),
    /// A request was refused, since other owners hold the resource.
    LockContended {
        /// The requested name.
        resource: String,
        /// The owners that block it, each once.
        holders: BTreeSet<OwnerId>,
        /// The owner that requested it.
        owner: OwnerId,
    },
}

/// Why a lock is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Another program or host holds it.
    Taken,
    /// Its name leads to another file, or to none.
    Replaced,
    /// The NFS server has dropped it, since it lost contact to this host for too long; others may
    /// have had it meanwhile.
    Expired,
    /// It cannot be locked any more.
    Unlockable,
}

impl Loss {
    /// Returns the word used on D-Bus and in the log.
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

/// Why a lock was released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its owner, or a caller on behalf of that, released it.
    Released,
    /// Its owner was closed.
    OwnerClosed,
    /// The last anchor of its owner ended.
    OwnerGone,
    /// Its owner was suspended, and remembers it.
    Suspended,
    /// It was transferred to another owner.
    HandedOver,
    /// Another user than that of its owner forced the release, or closed the owner.
    Forced,
}

impl Reason {
    /// Returns the word used on D-Bus and in the log.
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
