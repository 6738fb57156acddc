//! Start of the service: from the state file and the stashed descriptors to the table.
//!
//! Start with [`restore`], then [`reconcile`].

pub(super) mod reconcile;
pub(super) mod restore;
pub(super) mod suspects;
pub(super) mod suspects_gate;
