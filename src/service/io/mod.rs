//! Runs blocking file-system requests off the event loop.
//!
//! [`executor`] is the first file to read: worker threads and how a request gets one. [`mount_gate`]
//! admits requests to remote mounts, whose [`mount_probe`] asks first whether the server answers;
//! [`local_gate`] bounds what a hung local file system can occupy, and [`mount_route`] finds the mounts
//! that a request's names lead to.

pub mod executor;
pub(super) mod local_gate;
pub mod mount_gate;
pub mod mount_probe;
pub(super) mod mount_route;
