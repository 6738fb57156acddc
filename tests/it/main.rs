//! The service as its users meet it: real buses, real polkit, real locks, real tools.
//!
//! One binary, so that it is linked once, with a module for each promise. Tests below [`host`], and in
//! modules of that name elsewhere, need root or further programs; tests below [`vm`] need virtual
//! machines; all others run without root in a few minutes. `tests/README.md` is the map.
//!
//! [`fixture`] starts what a test needs, [`nspawn`] a host with systemd, and [`dbus_client`] makes
//! calls over D-Bus.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test whose preconditions fail has failed"
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
