//! What is answered: the same words for the model and for the service.

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
    /// Others hold this one; or somebody waits for it who came first.
    Held(Disk, BTreeSet<(Vm, Mode)>, Option<Vm>),
    /// The time is over, and this was in the way.
    TimedOut(Box<Option<RefusalReason>>),
    /// Somebody withdrew it.
    Cancelled,
    /// The machine ended meanwhile.
    OwnerGone,
    /// Whoever asked went away.
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
    /// What no sequence should lead to.
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
