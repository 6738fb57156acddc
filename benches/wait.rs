//! What waiting costs: from a release to the answer of who waits first, beside an acquisition that
//! nobody is in the way of.
//!
//! Measured from the moment at which the call is sent that makes it possible: the release, or the
//! acquisition. The release is a command of its own, and the answer follows it; so its time alone is
//! shown too. Prints medians and the slowest of a hundred and, what counts, their ratios in one run.

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
/// How many wait for the same disk, the one that is measured among them.
const CROWDS: [u32; 2] = [1, 200];
/// A bus lets one connection have a limited number of calls open.
const PER_CONNECTION: usize = 25;
const LONG: u64 = u64::MAX;

/// Times in order.
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

/// Machines that wait for a disk, one behind the other, and say so when they have got it.
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

    /// Has a machine stand at the end.
    async fn join(&mut self, machine: TestVm) {
        let (inlet, disk) = (self.inlet.clone(), self.disk.clone());
        tokio::spawn(async move {
            let timeout = option("timeout-usec", LONG);
            // Those who wait at the end lose the bus.
            let Ok(locks) = machine.owner.acquire(&[exclusive(&disk)], timeout).await else {
                return;
            };
            let _ = inlet.send((machine, locks, Instant::now()));
        });
        self.waiting += 1;
        let manager = manager(&self.bus).await;
        while manager.n_waiting().await.unwrap() < self.waiting {}
    }

    /// Who got it, and when he was answered.
    async fn next(&mut self) -> (TestVm, Vec<OwnedObjectPath>, Instant) {
        self.waiting -= 1;
        self.got.recv().await.unwrap()
    }
}

/// Acquisitions, releases and hand-overs in turns: all see the same noise.
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
    // `cargo bench` passes --bench; `cargo test --benches` would run this too, and shall not.
    if std::env::args().any(|arg| arg == "--bench") {
        for broker in [Broker::DbusDaemon, Broker::DbusBroker] {
            for crowd in CROWDS {
                bench(broker, crowd).await;
            }
        }
    }
}
