//! Start of the service: restores what the previous instance left behind.
//!
//! Start with [`restore`]; [`reconcile`] brings state file and stash together, [`settle`] completes
//! the start once requests are served, [`suspects`] locks what damaged records name.

mod reconcile;
pub(super) mod restore;
mod settle;
mod suspects;
