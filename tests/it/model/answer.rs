//! The answers to calls, in the same form for the model and for the service.

use std::collections::BTreeSet;
use std::fmt;

use vmlockd::lock::Mode;

use super::op::{Disk, Vm, list};

/// An answer, without numbers and sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is done.
    Done,
    /// So many wait no more.
    Withdrawn(usize),
    /// Locks, in the order of the request.
    Locks(Vec<(Vm, Disk)>),
    /// It is not done.
    Refused(RefusalReason),
}

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RefusalReason {
    /// Other owners hold this disk, or an earlier waiter has priority for it.
    Held(Disk, BTreeSet<(Vm, Mode)>, Option<Vm>),
    /// The request timed out because of this.
    TimedOut(Box<Option<RefusalReason>>),
    /// The request was cancelled.
    Cancelled,
    /// The machine ended meanwhile.
    OwnerGone,
    /// The caller disconnected.
    CallerGone,
    TwoModes,
    /// The machine holds it, in this mode.
    OtherMode(Disk, Mode),
    OwnerExists,
    NoSuchOwner,
    NoSuchLock,
    NeedsForce,
    MoreLocks,
    Suspended,
    OfferedAlready,
    NothingToOffer,
    NoSuchOffer,
    OwnOffer,
    HeldTwice,
    /// An answer that no sequence should produce.
    Unexpected(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Locks(locks) => {
                let locks = locks.iter().map(|(vm, disk)| format!("{vm}'s on {disk}"));
                write!(f, "locks: {}", list(locks))
            }
            Self::Withdrawn(count) => write!(f, "{count} withdrawn"),
            Self::Refused(RefusalReason::Held(disk, holders, ahead)) => {
                let holders = holders.iter().map(|(vm, mode)| format!("{vm} ({mode})"));
                write!(f, "refused: {disk} is held by {}", list(holders))?;
                ahead.map_or(Ok(()), |ahead| write!(f, "; {ahead} waits for it"))
            }
            Self::Refused(why) => write!(f, "refused: {why:?}"),
        }
    }
}
