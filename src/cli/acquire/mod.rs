//! Acquisition of locks: what `run`, `lock` and `resume` have in common.
//!
//! [`open`] opens an owner and locks its disks, [`request`] has the disks as they are passed to the
//! service, and [`wait`] waits for disks that other owners hold. [`wait_status`] shows the state of
//! a wait, [`restart`] waits for the service to return after a restart, and [`timer`] and [`why`]
//! have the options `--wait` and `--why`.

pub(crate) mod open;
pub(crate) mod request;
pub(crate) mod restart;
pub(crate) mod timer;
pub(crate) mod wait;
pub(crate) mod wait_status;
pub(crate) mod why;
