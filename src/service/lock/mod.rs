//! Commands on locks.
//!
//! [`acquire`] is the first file to read, then [`release`]. [`convert`] changes a mode, [`suspend`]
//! releases and remembers, [`transfer`] moves locks between owners.

pub(super) mod acquire;
pub(super) mod convert;
pub(super) mod reacquired;
pub(super) mod reclaim;
pub(super) mod release;
pub(super) mod request;
pub(super) mod rollback;
pub(super) mod suspend;
pub(super) mod transfer;
