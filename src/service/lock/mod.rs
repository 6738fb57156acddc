//! Commands on locks.
//!
//! Start with [`acquire`], then [`release`]. [`convert`] changes the mode of a lock, [`suspend`]
//! releases locks that their owner remembers, [`transfer`] moves locks between owners.

pub(super) mod acquire;
pub(super) mod convert;
pub(super) mod reacquired;
pub(super) mod reclaim;
pub(super) mod release;
pub(super) mod request;
pub(super) mod rollback;
pub(super) mod suspend;
pub(super) mod transfer;
