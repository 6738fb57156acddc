//! The service as its users meet it: real buses, real polkit, real locks, real tools.
//!
//! One binary, so that it is linked once; a module for each promise. [`house`] builds what a test
//! runs in, or [`host`] where it takes a systemd; [`machine`] says briefly what clients say.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "what a test stands on is there, or the test has failed"
)]

mod acquire;
mod augeas;
mod authorize;
mod bad_input;
mod block;
mod broker;
mod catalog;
mod chains;
mod cli;
mod clients;
mod codegen;
mod contract;
mod crash;
mod doctor;
mod examples;
mod far;
mod flood;
mod fuzz;
mod handover;
mod host;
mod hosts;
mod house;
mod hung;
mod init;
mod inspection;
mod installed;
mod journal;
mod keys;
mod layering;
mod leases;
mod libvirt;
mod listed;
mod lists;
mod lost;
mod machine;
mod methods;
mod metrics;
mod model;
mod namespaces;
mod owners;
mod passed;
mod privacy;
mod private;
mod properties;
mod reexec;
mod reload;
mod rlimits;
mod rounds;
mod shared_fs;
mod soak;
mod source;
mod stalls;
mod state;
mod style;
mod survive;
mod threads;
mod two_hosts;
mod unread;
mod untouched;
mod users;
mod virtlockd;
mod vm;
mod wait;
mod why;
