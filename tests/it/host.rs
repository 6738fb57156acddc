//! Tests that need root, or programs of which a host has a systemd, libvirt and a shared file system.
//!
//! `make test-host` runs them, with those in a module `host` of another topic.

mod augeas;
mod block;
mod clients;
mod codegen;
mod crash;
pub(crate) mod doctor;
mod hung_storage;
mod journal;
mod libvirt;
pub(crate) mod open_files;
mod passed_descriptors;
mod periodic_verification;
mod remote;
mod shared_fs;
pub(crate) mod soak;
mod state;
mod survive;
mod unit;
