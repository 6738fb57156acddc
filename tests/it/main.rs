//! The service as its users meet it: real buses, real polkit, real locks, real tools.
//!
//! One binary, so that it is linked once; a module for each promise. [`fixture`] builds what a test
//! runs in, or [`nspawn`] where it takes a systemd; [`dbus_client`] says briefly what clients say.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "what a test stands on is there, or the test has failed"
)]

mod acquire;
mod authorize;
mod bad_input;
mod broker;
mod bus_stalls;
mod catalog;
mod cli;
mod contract;
mod dbus_client;
mod dictionary_keys;
mod examples;
mod fixture;
mod flood;
mod fuzz;
mod holder_records;
mod host;
mod init;
mod inspection;
mod installed_files;
mod layering;
mod leases;
mod lists;
mod methods;
mod metrics;
mod model;
mod namespaces;
mod nspawn;
mod owners;
mod privacy;
mod private_socket;
mod properties;
mod reexec;
mod refused_requests;
mod reload;
mod rlimits;
mod snapshot;
mod sources;
mod state;
mod style;
mod symlink_chains;
mod threads;
mod tiers;
mod transfer;
mod unread_log;
mod virtlockd;
mod vm;
mod wait;
mod why;
mod without_store;
