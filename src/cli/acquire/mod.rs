//! Acquisition of locks: what `run`, `lock` and `resume` have in common.
//!
//! [`open`] opens an owner and locks its disks. [`wait`] waits for disks that other owners hold.

pub(crate) mod open;
pub(crate) mod wait;
pub(crate) mod why;
