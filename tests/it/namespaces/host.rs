//! Callers in namespaces whose set-up needs root, a systemd, or FUSE.

pub(crate) mod hang;
pub(crate) mod root;
pub(crate) mod unit;
