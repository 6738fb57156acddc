//! Measures how a flood of calls affects other callers: three processes of one user send calls as
//! fast as the bus accepts them, while root acquires and releases a disk through the private
//! socket, as vmlockctl does.
//!
//! Prints the ratio of root's times with the flood to those without it, measured alternately in the
//! same run, and the service's memory at its peak and afterwards. Only the ratios can be compared
//! between runs and between machines.
//!
//! Words on the command line restrict the run to brokers and kinds (`DbusDaemon`, `Introspect`).
//! With `through-the-bus`, root's calls are sent through the bus; dbus-broker queues root's calls
//! behind all small messages that it has accepted before, so that this may take minutes there. With
//! `control`, the senders call the bus itself, and no call reaches the service: the remaining cost
//! is the time for which root's client and the service wait for a processor.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "what fails here ends the run")]

#[allow(dead_code)]
#[path = "../tests/it/dbus_client.rs"]
mod dbus_client;
#[path = "../tests/it/fixture/mod.rs"]
mod fixture;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use dbus_client::{TestVm, exclusive};
use fixture::user::{Account, NOBODY};
use fixture::{Broker, Fixture, Flood, Flooder, Process, mortal};
use rustix::process::{Pid, setpriority_process};
use zbus::fdo::{DBusProxy, PeerProxy};

/// The number of acquisitions in each turn; turns with and without the flood alternate.
const ROUNDS: usize = 250;
const TURNS: usize = 4;
/// The number of flooding processes.
const SENDERS: usize = 3;
/// The priority that the unit sets for the service.
const NICE: i32 = -15;
/// The number of calls after which a sender is considered to be flooding.
const BEGUN: usize = 20_000;

fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e6
}

/// Durations of an acquisition with its release, and of two calls that the bus itself answers,
/// which show the cost of the bus alone.
#[derive(Default)]
struct Times {
    locks: Vec<Duration>,
    bus: Vec<Duration>,
}

async fn measure(bus: &DBusProxy<'_>, machine: &TestVm, image: &Path, times: &mut Times) {
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let locks = machine.acquire(&[exclusive(image)]).await.unwrap();
        machine.release(&locks).await.unwrap();
        times.locks.push(start.elapsed());
        let start = Instant::now();
        bus.get_id().await.unwrap();
        bus.get_id().await.unwrap();
        times.bus.push(start.elapsed());
    }
}

/// Returns a memory figure of the service in MiB, from its `/proc/PID/status`.
fn memory(fixture: &Fixture, figure: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", fixture.daemon().pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(figure)).unwrap();
    let kib: f64 = line.trim_matches([':', '\t', ' ', 'k', 'B']).trim().parse().unwrap();
    kib / 1024.0
}

/// Sets the priority of the service as its unit does. Threads that start later inherit it.
fn prioritize(fixture: &Fixture) {
    for task in fs::read_dir(format!("/proc/{}/task", fixture.daemon().pid())).unwrap() {
        let thread = task.unwrap().file_name().to_str().unwrap().parse().unwrap();
        setpriority_process(Pid::from_raw(thread), NICE).unwrap();
    }
}

/// Starts the flooding processes, which run until they are dropped.
async fn flood(fixture: &Fixture, words: [&str; 3], socket: &Path) -> Vec<Process> {
    let mut senders = Vec::new();
    for _ in 0..SENDERS {
        let mut command = mortal(Some(&Account::of(NOBODY)), std::env::current_exe().unwrap());
        command.arg("--send").args(words).arg(socket).stdout(Stdio::piped());
        senders.push(Process::start("sender", command, &fixture.dir().join("senders.log")));
    }
    for sender in &senders {
        sender.first_output().await;
    }
    senders
}

/// Sends calls in a flooding process; returns only when the bus closes its connection.
fn send(flood: &str, replies: &str, to: &str, socket: &Path) {
    let flood = Flood::ALL.into_iter().find(|known| format!("{known:?}") == flood).unwrap();
    let count = if flood == Flood::LargeMessage { BEGUN / 100 } else { BEGUN };
    let mut begun = false;
    loop {
        let mut flooder = Flooder::connect(socket);
        if to == "bus" {
            flooder = flooder.at_the_bus();
        }
        while flooder.send(flood, replies == "replies", count) {
            // Printed once, as nothing reads the output after that.
            if !std::mem::replace(&mut begun, true) {
                println!("flooding");
            }
        }
    }
}

/// Whether the command line selects `name`, or selects nothing of this kind.
fn is_wanted(name: &str, among: &[String], names: &[String]) -> bool {
    let wanted: Vec<_> = among.iter().filter(|word| names.contains(word)).collect();
    wanted.is_empty() || wanted.iter().any(|word| *word == name)
}

async fn bench(broker: Broker, words: &[String]) {
    let brokers = [Broker::DbusDaemon, Broker::DbusBroker].map(|broker| format!("{broker:?}"));
    let kinds = Flood::ALL.map(|kind| format!("{kind:?}"));
    if !is_wanted(&format!("{broker:?}"), words, &brokers) {
        return;
    }
    let fixture = Fixture::builder().broker(broker).start().await;
    prioritize(&fixture);
    let bus = fixture.connection().await;
    let image = fixture.raw_of(0, "measured");
    let to = if words.iter().any(|word| word == "control") { "bus" } else { "service" };
    let through_the_bus = words.iter().any(|word| word == "through-the-bus");
    let connection = if through_the_bus { bus.clone() } else { fixture.private_connection().await };
    let machine = TestVm::open(&connection, "measured").await;
    let service = PeerProxy::builder(&bus).destination("org.vmlockd1").path("/org/vmlockd1");
    let service = service.build().await.unwrap();
    let socket: PathBuf = fixture.address().strip_prefix("unix:path=").unwrap().into();
    println!("{broker:?}: root's acquisition and release, {} with and without:", ROUNDS * TURNS);
    let bus = DBusProxy::new(&bus).await.unwrap();
    measure(&bus, &machine, &image, &mut Times::default()).await;
    println!("  memory before: {:.1} MiB", memory(&fixture, "VmRSS"));
    for kind in Flood::ALL {
        let name = format!("{kind:?}");
        if !is_wanted(&name, words, &kinds) {
            continue;
        }
        for replies in ["replies", "no-replies"] {
            // Resets the peak of the resident memory.
            fs::write(format!("/proc/{}/clear_refs", fixture.daemon().pid()), "5").unwrap();
            let (mut without, mut with) = (Times::default(), Times::default());
            for _ in 0..TURNS {
                // The reply follows those to all calls that the bus has accepted before.
                service.ping().await.unwrap();
                measure(&bus, &machine, &image, &mut without).await;
                let senders = flood(&fixture, [&name, replies, to], &socket).await;
                measure(&bus, &machine, &image, &mut with).await;
                drop(senders);
            }
            let [p50, p99] = [50, 99].map(|percent| {
                let (with_flood, before) =
                    (percentile(&mut with.locks, percent), percentile(&mut without.locks, percent));
                let bus =
                    percentile(&mut with.bus, percent) / percentile(&mut without.bus, percent);
                format!("{before:8.1} us, flood {:5.2} (bus {bus:5.2})", with_flood / before)
            });
            println!(
                "  {name:15} {replies:10} p50 {p50}  p99 {p99}  peak {:5.1} MiB, after {:5.1} MiB",
                memory(&fixture, "VmHWM"),
                memory(&fixture, "VmRSS"),
            );
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, word, flood, replies, to, socket] = args.as_slice()
        && word == "--send"
    {
        send(flood, replies, to, Path::new(socket));
        return;
    }
    // `cargo bench` passes --bench. `cargo test --benches` does not, and must not run this.
    if args.iter().any(|arg| arg == "--bench") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            bench(Broker::DbusDaemon, &args).await;
            bench(Broker::DbusBroker, &args).await;
        });
    }
}
