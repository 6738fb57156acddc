//! Measures how a hung mount affects requests for other mounts: acquisitions of a disk on a local
//! file system, before a hundred requests are sent to the hung mount, and while these are pending.
//!
//! Prints medians, 99th percentiles, and their ratios within one run, which are the results.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "what fails here ends the run")]

#[allow(dead_code)]
#[path = "../tests/it/dbus_client.rs"]
mod dbus_client;
#[path = "../tests/it/fixture/mod.rs"]
mod fixture;

use std::process::Command;
use std::time::{Duration, Instant};

use dbus_client::{TestVm, exclusive, shared};
use fixture::{Broker, Fixture, Process};
use nix::sys::signal::Signal;
use tokio::task::JoinSet;

const ROUNDS: usize = 2000;
/// The number of requests for the hung mount.
const REQUESTS: usize = 100;
/// The number of pending calls of one connection, which a bus limits.
const PER_CONNECTION: usize = 25;

/// Returns the durations of acquisitions of one disk, in ascending order.
async fn acquisitions(machine: &TestVm, disk: &std::path::Path) -> Vec<Duration> {
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let locks = machine.acquire(&[exclusive(disk)]).await.unwrap();
        times.push(start.elapsed());
        machine.release(&locks).await.unwrap();
    }
    times.sort_unstable();
    times
}

fn at(times: &[Duration], percent: usize) -> f64 {
    times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e6
}

async fn bench(broker: Broker) {
    let fixture = Fixture::builder().broker(broker).start().await;
    let (behind, point) = (fixture.dir().join("behind"), fixture.dir().join("far"));
    for made in [&behind, &point] {
        std::fs::create_dir(made).unwrap();
    }
    std::fs::write(behind.join("disk"), "").unwrap();
    let mut command = Command::new("bindfs");
    command.args(["-f", "-o", "attr_timeout=0,entry_timeout=0"]).args([&behind, &point]);
    let server = Process::start("bindfs", command, &fixture.dir().join("bindfs.log"));
    let dead = point.join("disk");
    while !dead.exists() {
        assert!(server.lives(), "{}", server.stderr());
    }
    let bus = fixture.connection().await;
    let near = fixture.raw_of(0, "near");
    let web1 = TestVm::open(&bus, "web1").await;
    acquisitions(&web1, &near).await;
    let before = acquisitions(&web1, &near).await;
    server.signal(Signal::SIGSTOP);
    let mut asked = JoinSet::new();
    let mut connection = bus.clone();
    let mut machines = Vec::new();
    for n in 0..REQUESTS {
        if n % PER_CONNECTION == 0 {
            connection = fixture.connection().await;
        }
        let machine = TestVm::open(&connection, &format!("vm{n}")).await;
        let (owner, disk) = (machine.owner.clone(), dead.clone());
        machines.push(machine);
        asked.spawn(async move {
            // The clients repeat their requests even if they are refused.
            loop {
                let wish = [shared(&disk)];
                if owner.acquire(&wish, std::collections::HashMap::new()).await.is_ok() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    let during = acquisitions(&web1, &near).await;
    let waiting = asked.len();
    asked.abort_all();
    println!("{broker:?}, {waiting} requests at a dead mount, {ROUNDS} acquisitions elsewhere:");
    for (what, percent) in [("median", 50), ("p99", 99)] {
        let (before, during) = (at(&before, percent), at(&during, percent));
        println!("  {what:6} {before:8.1} us before, {during:8.1} us = {:.2}", during / before);
    }
    server.signal(Signal::SIGKILL);
    let _ = nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH);
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // `cargo bench` passes --bench. `cargo test --benches` does not, and must not run this.
    if std::env::args().any(|arg| arg == "--bench") {
        for broker in [Broker::DbusDaemon, Broker::DbusBroker] {
            bench(broker).await;
        }
    }
}
