//! The receiving half of the connection to the bus.
//!
//! 1. [`reader`] is what zbus calls for the next message.
//! 2. [`receiver`] reads the socket, on the event loop or on a thread.
//! 3. [`classifier`] decides what becomes of each message.
//! 4. [`discard`] has the kernel drop descriptors that must not be received.

pub(in crate::admission) mod classifier;
mod discard;
pub(in crate::admission) mod reader;
mod receiver;
