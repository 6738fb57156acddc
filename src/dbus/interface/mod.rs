//! The objects on the bus: one file for each interface.
//!
//! Read [`owner`] first: its `Acquire` shows how a method works. A method has the call accepted by
//! the authorizer, decodes its arguments, and calls `request` or `query`. A getter reads the
//! service.
//!
//! | interface | file | objects |
//! |---|---|---|
//! | `org.vmlockd1.Manager` | [`manager`] | `/org/vmlockd1` |
//! | `org.vmlockd1.Owner` | [`owner`] | one for each owner |
//! | `org.vmlockd1.Lock` | [`lock`] | one for each lock |
//! | `org.vmlockd1.Lockspace` | [`lockspace`] | one for each lockspace |
//! | `org.freedesktop.DBus.ObjectManager` | [`object_manager`] | `/org/vmlockd1` |
//! | `org.freedesktop.DBus.Introspectable` | [`introspection`] | parents of objects |
//! | `org.freedesktop.LogControl1` | [`log_control`] | `/org/freedesktop/LogControl1` |
//!
//! [`properties`] has all properties of an object at once, and [`exported`] adds an error reply
//! that zbus lacks.

pub(super) mod exported;
pub(super) mod introspection;
pub(super) mod lock;
pub(super) mod lockspace;
pub(super) mod log_control;
pub(super) mod manager;
pub(super) mod object_manager;
pub(super) mod owner;
pub(super) mod properties;
