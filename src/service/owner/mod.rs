//! Owners: how they are opened ([`open`]), registered by libvirt ([`register`], [`connection`]) and
//! kept alive ([`anchors`]).

pub(super) mod anchors;
pub(super) mod connection;
pub(super) mod open;
pub(super) mod register;
