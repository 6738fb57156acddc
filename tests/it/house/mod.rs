//! The house: everything the service needs around it, once per test and nowhere else.
//!
//! Each test gets a message bus, a directory and a daemon of its own, so that tests run side by
//! side and see nothing of each other or of the machine they run on. [`House`] puts the pieces
//! together; [`Bus`], [`Daemon`], [`polkit`], [`user`] and [`Rival`] can be had one by one.
//!
//! Three promises hold for every piece. Nothing waits for time to pass: a piece is ready when an
//! event says so, and the [deadline](within) only turns a hang into a failure. Nothing outlives
//! its owner: a process dies with its [`Process`], and with the test binary if that is killed.
//! And a test that fails says why: it shows what its processes wrote to standard error.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a fixture that can't be set up has nothing better to do than to end the test"
)]
#![allow(dead_code, unused_imports, reason = "a fixture offers more than the tests of the day use")]

mod agent;
mod broker;
mod bus;
mod command;
mod connector;
mod daemon;
mod deaf;
mod fixture;
mod flood;
mod fuse;
mod hostile;
mod intruder;
mod looped;
mod mock_polkit;
mod mounted;
mod news;
mod opened;
pub(crate) mod polkit;
mod process;
mod relay;
mod rival;
pub(crate) mod rpc;
mod shared;
mod terminal;
mod tool;
pub(crate) mod user;
mod virtlockd;
mod watch;

use std::time::Duration;

pub(crate) use agent::{Agent, Dialog};
pub(crate) use bus::{Bus, Service, connect};
pub(crate) use command::{Ran, program, run};
pub(crate) use connector::Connector;
pub(crate) use daemon::{Daemon, Failure, Launch};
pub(crate) use deaf::Deaf;
pub(crate) use fixture::{Broker, House};
pub(crate) use flood::{Flood, Flooder};
pub(crate) use fuse::HangingClose;
pub(crate) use hostile::{Elsewhere, keep_lease, yield_lease};
pub(crate) use intruder::{Attempts, Intruder, attempt};
pub(crate) use looped::Looped;
pub(crate) use mock_polkit::{Answer, Call, Mock};
pub(crate) use mounted::Mounted;
pub(crate) use news::News;
pub(crate) use opened::Opened;
pub(crate) use process::{Process, gone, mortal, pidfd};
pub(crate) use relay::Relay;
pub(crate) use rival::{Kind, Rival};
pub(crate) use shared::{Shared, Side};
pub(crate) use terminal::{Output, Screen, Terminal};
pub(crate) use tool::Tool;
pub(crate) use virtlockd::Virtlockd;
pub(crate) use watch::NameWatch;

/// The name that the service has on the bus.
pub(crate) const NAME: &str = "org.vmlockd1";

/// Long enough for the slowest step on a busy machine: reaching it is a failure, never a wait.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for an event, but not for ever.
pub(crate) async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, event)
        .await
        .unwrap_or_else(|_| panic!("{what}: nothing in {} s", DEADLINE.as_secs()))
}
