//! vmlockd locks the disks of virtual machines for as long as the VMs live.
//!
//! The floors, from the ground up; a room uses its own floor and those below:
//!
//! 0. [`lock`]: what a lock is. No bus, no event loop, no log.
//! 1. [`life`]: what keeps an owner alive. [`keep`]: what outlives the service. [`inspector`]: what
//!    `/proc` tells of other processes.
//! 2. [`service`]: the only writer of the table.
//! 3. the fronts: [`admission`] bounds what callers ask for, [`auth`] says who may do what, [`privacy`] what each caller may see, [`dbus`] is the D-Bus API, [`virtlockd`] is
//!    libvirt's own protocol.
//!
//! Beside them: [`catalog`], [`config`], [`logging`], [`notify`], [`instance`], [`rlimit`], and [`daemon`], which wires all
//! of it together. `ARCHITECTURE.md` tells the stories.

pub mod lock;

pub mod inspector;
pub mod keep;
pub mod life;

pub mod service;

pub mod admission;
pub mod auth;
pub mod dbus;
pub mod privacy;
pub mod virtlockd;

pub mod bus;
pub mod catalog;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod instance;
pub mod logging;
pub mod nearest;
pub mod notify;
pub mod paths;
mod phrases;
pub mod reexec;
pub mod registration;
pub mod rlimit;
pub mod step;
pub mod sync;
