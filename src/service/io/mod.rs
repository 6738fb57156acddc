//! Runs blocking file-system requests off the event loop.
//!
//! Start with [`executor`]: the worker threads and how a request gets one. [`mount_gate`] is the
//! admission control for requests to remote mounts; its [`mount_probe`] first checks that the
//! server responds. [`local_gate`] bounds the threads that a hung local file system can occupy.
//! [`mount_route`] finds the mounts that the names of a request lead to.

pub mod executor;
pub(super) mod local_gate;
pub mod mount_gate;
pub mod mount_probe;
pub(super) mod mount_route;
