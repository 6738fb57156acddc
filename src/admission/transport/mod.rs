//! The sockets to the bus and to clients of the private socket.
//!
//! 1. [`socket`] reads and writes bytes and descriptors.
//! 2. [`readiness`] registers the socket of the bus for reading, and suspends that during a flood.
//! 3. [`outbound`] is a message to be sent.
//! 4. [`clients`] are the clients of the private socket, with their send queues.

pub(in crate::admission) mod clients;
pub(in crate::admission) mod outbound;
pub(in crate::admission) mod readiness;
pub(in crate::admission) mod socket;
