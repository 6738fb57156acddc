//! Commands on locks.
//!
//! Start with [`acquire`], then [`release`] and [`end`]. [`request`] is a requested resource,
//! [`resolution`] looks the resources of a request up, [`rollback`] undoes an acquisition that
//! failed, [`reacquired`] answers libvirt with a lock that the service acquired again by itself
//! after a restart. [`counted`] has the commands of libvirt's protocol, [`convert`] changes the
//! mode of a lock. [`suspend`] releases locks that their owner remembers. [`transfer`] moves locks
//! between owners by [`change_owner`]. [`reservations`] keep what libvirt releases, until
//! [`expiry`]. [`force`] has the rules for the locks of others, [`owner_records`] the records of
//! owners.

pub(super) mod acquire;
mod change_owner;
pub(super) mod convert;
pub(super) mod counted;
pub(super) mod end;
pub(super) mod expiry;
pub(super) mod force;
pub(super) mod owner_records;
mod reacquired;
pub(super) mod release;
pub(super) mod request;
pub(super) mod reservations;
mod resolution;
mod rollback;
pub(super) mod suspend;
pub(super) mod transfer;
