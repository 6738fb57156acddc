//! vmlockd locks the disks of virtual machines for as long as the VMs live.
//!
//! The floors, from the ground up; a module uses its own floor and those below:
//!
//! 0. [`lock`]: what a lock is. No bus, no event loop, no log.
//! 1. [`life`]: what keeps an owner alive. [`keep`]: the journal and the stash, which survive the service.
//!    [`inspector`]: reads `/proc` of other processes.
//! 2. [`service`]: the only writer of the lock table.
//! 3. The frontends: [`dbus`] is the D-Bus API, [`virtlockd`] libvirt's own protocol. [`admission`] limits
//!    the requests of callers, [`auth`] authorizes them, and [`privacy`] decides what each caller may see.
//!
//! Beside them: [`catalog`], [`config`], [`logging`], [`notify`], [`instance`], [`rlimit`], and [`daemon`],
//! which connects all of them. `ARCHITECTURE.md` has the whole picture.

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
pub mod failpoint;
pub mod instance;
pub mod logging;
pub mod nearest;
pub mod notify;
pub mod paths;
mod phrases;
pub mod reexec;
pub mod registration;
pub mod rlimit;
pub mod sync;
