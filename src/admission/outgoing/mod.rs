//! The sending half of the connection to the bus.
//!
//! 1. [`writer`] is what zbus calls to send a message.
//! 2. [`outbound_queue`] has the messages that the bus did not accept at once.
//! 3. [`stall_detector`] detects that the bus has stopped reading.

mod outbound_queue;
pub(in crate::admission) mod stall_detector;
pub(in crate::admission) mod writer;
