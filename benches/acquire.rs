//! Measures the cost of an acquisition: compared with an empty call on the same bus, compared with
//! the system calls alone, and with an increasing number of held locks.
//!
//! Prints medians and their ratios within one run. Only the ratios can be compared between runs and
//! between machines.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "what fails here ends the run")]

#[path = "shared/acquisition.rs"]
mod acquisition;
#[allow(dead_code)]
#[path = "../tests/it/dbus_client.rs"]
mod dbus_client;
#[path = "../tests/it/fixture/mod.rs"]
mod fixture;

use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use acquisition::CallTimes;
use dbus_client::{TestVm, exclusive};
use fixture::{Broker, Fixture};
use vmlockd::lock::Mode;
use vmlockd::lock::ofd;

const ROUNDS: usize = 1500;
const HELD: [usize; 3] = [0, 1000, 4000];

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Opens, locks and closes the file: the least that any lock service has to do.
fn bare_lock(image: &Path) -> Duration {
    let times = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        let file = File::options().read(true).write(true).open(image).unwrap();
        assert!(ofd::try_lock(&file, Mode::Exclusive).unwrap());
        drop(black_box(file));
        start.elapsed()
    });
    median(times.collect())
}

async fn bench(broker: Broker) {
    let fixture = Fixture::builder().broker(broker).start().await;
    let bus = fixture.connection().await;
    let image = fixture.image("measured.qcow2").await;
    let machine = TestVm::open(&bus, "measured").await;
    println!("{broker:?}, medians of {ROUNDS}:");
    let lock = bare_lock(&image);
    println!("  open + lock + close      {:8.1} us", micros(lock));
    let mut owners = Vec::new();
    let mut first = None;
    for held in HELD {
        while owners.len() * 4 < held {
            let n = owners.len();
            let disks: Vec<_> = (0..4).map(|d| fixture.raw_of(0, &format!("{n}-{d}"))).collect();
            let owner = TestVm::open(&bus, &format!("vm{n}")).await;
            let wish: Vec<_> = disks.iter().map(|disk| exclusive(disk)).collect();
            owner.acquire(&wish).await.unwrap();
            owners.push(owner);
        }
        let times = CallTimes::measure(&bus, &machine, &[&image], ROUNDS).await;
        let (call, acquire) = (median(times.calls), median(times.acquisitions));
        let first = *first.get_or_insert(acquire);
        println!(
            "  {held:5} locks held: call {:7.1} us, acquire {:7.1} us = {:.2} calls, {:.2} of that with none held",
            micros(call),
            micros(acquire),
            acquire.as_secs_f64() / call.as_secs_f64(),
            acquire.as_secs_f64() / first.as_secs_f64(),
        );
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // `cargo bench` passes --bench. `cargo test --benches` does not, and must not run this.
    if std::env::args().any(|arg| arg == "--bench") {
        bench(Broker::DbusDaemon).await;
        bench(Broker::DbusBroker).await;
    }
}
