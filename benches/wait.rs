//! Measures the cost of waiting: the time from a release to the reply to the first waiter, compared
//! with an acquisition of a free disk.
//!
//! The time begins when the call is sent that makes the grant possible: the release, or the
//! acquisition. The reply to the waiter follows the release, which is a command of its own, so the
//! duration of the release is shown too. Prints medians, 99th percentiles, and their ratios within
//! one run, which are the results.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "what fails here ends the run")]

#[allow(dead_code)]
#[path = "../tests/it/dbus_client.rs"]
mod dbus_client;
#[path = "../tests/it/fixture/mod.rs"]
mod fixture;

use std::path::Path;
use std::time::{Duration, Instant};

use dbus_client::{TestVm, exclusive, manager, option};
use fixture::{Broker, Fixture};
use tokio::sync::mpsc;
use zbus::{Connection, OwnedObjectPath};

const ROUNDS: usize = 1000;
/// The numbers of waiters for the same disk, including the measured one.
const CROWDS: [u32; 2] = [1, 200];
/// The number of pending calls of one connection, which a bus limits.
const PER_CONNECTION: usize = 25;
const LONG: u64 = u64::MAX;

/// Durations in ascending order.
struct Times(Vec<Duration>);

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    fn at(&self, percent: usize) -> f64 {
        self.0[(self.0.len() * percent / 100).min(self.0.len() - 1)].as_secs_f64() * 1e6
    }

    fn print(&self, what: &str, beside: &Self) {
        let (median, late) = (self.at(50), self.at(99));
        println!(
            "  {what:34} {median:8.1} us = {:.2}, p99 {late:8.1} us = {:.2}",
            median / beside.at(50),
            late / beside.at(99),
        );
    }
}

/// A queue of VMs that wait for one disk, and report when they have locked it.
struct Line {
    bus: Connection,
    got: mpsc::UnboundedReceiver<(TestVm, Vec<OwnedObjectPath>, Instant)>,
    inlet: mpsc::UnboundedSender<(TestVm, Vec<OwnedObjectPath>, Instant)>,
    disk: std::path::PathBuf,
    waiting: u32,
}

impl Line {
    fn at(bus: &Connection, disk: &Path) -> Self {
        let (inlet, got) = mpsc::unbounded_channel();
        Self { bus: bus.clone(), got, inlet, disk: disk.to_owned(), waiting: 0 }
    }

    /// Adds a VM to the end of the queue.
    async fn join(&mut self, machine: TestVm) {
        let (inlet, disk) = (self.inlet.clone(), self.disk.clone());
        tokio::spawn(async move {
            let timeout = option("timeout-usec", LONG);
            // The remaining waiters lose the bus at the end.
            let Ok(locks) = machine.owner.acquire(&[exclusive(&disk)], timeout).await else {
                return;
            };
            let _ = inlet.send((machine, locks, Instant::now()));
        });
        self.waiting += 1;
        let manager = manager(&self.bus).await;
        while manager.n_waiting().await.unwrap() < self.waiting {}
    }

    /// Returns the VM that locked the disk, its locks, and the time of the reply.
    async fn next(&mut self) -> (TestVm, Vec<OwnedObjectPath>, Instant) {
        self.waiting -= 1;
        self.got.recv().await.unwrap()
    }
}

/// Measures acquisitions, releases and grants to waiters alternately, so that noise affects all
/// alike.
async fn bench(broker: Broker, crowd: u32) {
    let fixture = Fixture::builder().broker(broker).start().await;
    let bus = fixture.connection().await;
    let (free, wanted) = (fixture.raw_of(0, "free"), fixture.raw_of(0, "wanted"));
    let alone = TestVm::open(&bus, "alone").await;
    let mut holder = TestVm::open(&bus, "first").await;
    let mut held = holder.acquire(&[exclusive(&wanted)]).await.unwrap();
    let mut line = Line::at(&bus, &wanted);
    let mut connection = bus.clone();
    for n in 0..crowd as usize {
        if n % PER_CONNECTION == 0 {
            connection = fixture.connection().await;
        }
        line.join(TestVm::open(&connection, &format!("vm{n}")).await).await;
    }
    let (mut acquisitions, mut releases, mut hand_overs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let locks = alone.acquire(&[exclusive(&free)]).await.unwrap();
        acquisitions.push(start.elapsed());
        let start = Instant::now();
        alone.release(&locks).await.unwrap();
        releases.push(start.elapsed());
        let start = Instant::now();
        let (released, (next, locks, at)) = tokio::join!(holder.release(&held), line.next());
        released.unwrap();
        hand_overs.push(at.duration_since(start));
        line.join(std::mem::replace(&mut holder, next)).await;
        held = locks;
    }
    let acquire = Times::of(acquisitions);
    println!("{broker:?}, {crowd} waiting, {ROUNDS} rounds; beside an acquisition:");
    acquire.print("acquisition, nobody in the way", &acquire);
    Times::of(releases).print("release, nobody waits", &acquire);
    Times::of(hand_overs).print("release to the waiter's answer", &acquire);
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // `cargo bench` passes --bench. `cargo test --benches` does not, and must not run this.
    if std::env::args().any(|arg| arg == "--bench") {
        for broker in [Broker::DbusDaemon, Broker::DbusBroker] {
            for crowd in CROWDS {
                bench(broker, crowd).await;
            }
        }
    }
}
