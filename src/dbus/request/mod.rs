//! Requests: what a method does between decoding its arguments and calling the service.
//!
//! Read [`acquire`] first: from the resources that a caller names to the locks that the service
//! grants. [`options`] decodes the `a{sv}` argument of a method. [`authorize`] authorizes commands
//! to an owner and the use of a name. [`open`] opens an owner with its first locks, [`anchor`]
//! binds an owner to a process, [`convert`] upgrades and downgrades a lock, and [`lockspace`]
//! creates and removes lockspaces and leases.

pub(super) mod acquire;
pub(super) mod anchor;
pub(super) mod authorize;
pub(super) mod convert;
pub(super) mod lockspace;
pub(super) mod open;
pub(super) mod options;
