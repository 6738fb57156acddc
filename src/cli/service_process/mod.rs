//! The process of the service, seen from outside: its unit, how it was started, and its files.

pub(crate) mod libvirt_socket;
pub(crate) mod lock_file;
pub(crate) mod origin;
pub(crate) mod unit;
