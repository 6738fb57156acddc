//! The D-Bus wire format: frames, headers and descriptors.
//!
//! 1. [`framer`] splits the stream of bytes into messages.
//! 2. [`header`] parses the header of a message, in its [`byte_order`].
//! 3. [`sender`] adds the sender to a message of a client that has no bus.
//! 4. [`raw`] passes an admitted message to zbus, with [`stand_in`]s for its descriptors.
//! 5. [`error_reply`] writes the error by which a call is refused.

pub(in crate::admission) mod byte_order;
pub(in crate::admission) mod error_reply;
pub(in crate::admission) mod framer;
pub(in crate::admission) mod header;
pub(in crate::admission) mod raw;
pub(in crate::admission) mod sender;
pub mod stand_in;

/// The name under which the bus itself sends messages.
pub(in crate::admission) const BUS_NAME: &str = "org.freedesktop.DBus";
/// The name of the service.
pub(in crate::admission) const SERVICE_NAME: &str = "org.vmlockd1";
