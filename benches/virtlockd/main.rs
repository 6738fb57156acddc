//! Compares vmlockd with virtlockd, by the same client over virtlockd's protocol.
//!
//! All servers run at once and are measured alternately, so that noise affects all alike. Prints
//! virtlockd's medians, and for each vmlockd the ratio to them: below 1, vmlockd is faster or
//! smaller. Only the ratios can be compared between runs and between machines.
//!
//! `cargo bench --bench virtlockd -- alone` measures virtlockd only, `… -- quick` takes a fifth of
//! the time, and `… -- start` (or another word) selects the rows with this word in their names.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "what fails here ends the run")]

#[path = "../../tests/it/fixture/mod.rs"]
mod fixture;

mod guest;
mod load;
mod pin;
mod rows;
mod server;
mod store;
mod weight;

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use fixture::Virtlockd;
use load::{Cost, Workload};
use pin::Pinned;
use rows::{Row, heading};
use server::{Kind, Server};

/// The number of measurements of each server.
const ROUNDS: usize = 11;
/// The numbers of disks of a guest that starts.
const DISKS: [usize; 3] = [1, 8, 32];
/// The number of locks for which memory is measured.
const LOCKS: usize = 10_000;
const CONNECTIONS: usize = 1000;

/// The selection on the command line.
struct Wanted {
    repetitions: usize,
    words: Vec<String>,
    kinds: Vec<Kind>,
}

impl Wanted {
    fn new(words: impl Iterator<Item = String>) -> Wanted {
        let mut wanted =
            Wanted { repetitions: ROUNDS, words: Vec::new(), kinds: Kind::ALL.to_vec() };
        for word in words {
            match word.as_str() {
                "alone" => wanted.kinds.truncate(1),
                "quick" => wanted.repetitions = ROUNDS.div_ceil(5),
                _ => wanted.words.push(word),
            }
        }
        wanted
    }

    fn row(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word.as_str()))
    }
}

/// Measures durations: [`ROUNDS`] times all servers, one after the other.
fn times(wanted: &Wanted, servers: &[Server], directory: &Path) {
    let workload = Workload::new(directory, servers);
    let row = |name: &str, measured: &dyn Fn(&Server) -> Cost| {
        if !wanted.row(name) {
            return;
        }
        let mut time = Row::new(name, "us", servers.len());
        let mut work = Row::new("  of which the server worked", "us", servers.len());
        for round in 0..wanted.repetitions {
            for turn in 0..servers.len() {
                let which = (round + turn) % servers.len();
                let cost = measured(&servers[which]);
                time.add(which, cost.time);
                work.add(which, cost.work);
            }
        }
        time.print();
        work.print();
    };
    for clients in [1, 16] {
        let name = format!("acquire + release, direct, {clients} at once");
        row(&name, &|server| workload.pairs(server, clients, false));
        let name = format!("acquire + release, hashed, {clients} at once");
        row(&name, &|server| workload.pairs(server, clients, true));
    }
    for disks in DISKS {
        row(&format!("start of a guest, disks: {disks}"), &|server| workload.start(server, disks));
    }
}

/// Returns the memory of one more lock, connection or guest, in bytes.
type Weighed<'w> = &'w dyn Fn(&Server) -> f64;

/// Measures memory, with a new server for each figure.
async fn weights(wanted: &Wanted, directory: &Path) {
    let files: Vec<PathBuf> = (0..LOCKS).map(|n| directory.join(format!("many-{n}"))).collect();
    for file in &files {
        File::create_new(file).unwrap();
    }
    let rows: [(&str, Weighed); 4] = [
        ("memory of a lock", &|server| weight::of_locks(server, &files)),
        ("memory of a connection", &|server| weight::of_connections(server, CONNECTIONS)),
        ("memory of a guest's connection", &|server| weight::of_owners(server, CONNECTIONS)),
        ("memory of the server", &weight::at_start),
    ];
    for (name, measured) in rows.into_iter().filter(|(name, _)| wanted.row(name)) {
        let mut row = Row::new(name, "B", wanted.kinds.len());
        for (which, kind) in wanted.kinds.iter().enumerate() {
            let place = tempfile::tempdir_in(directory).unwrap();
            row.add(which, measured(&Server::start(*kind, place.path()).await));
        }
        row.print();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if_eq(guest::WORD).is_some() {
        return guest::run(arguments);
    }
    // `cargo bench` passes --bench. `cargo test --benches` does not, and must not run this.
    let arguments: Vec<String> = arguments.collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    if Virtlockd::program().is_none() {
        println!("skipped: virtlockd is not installed, and there is nothing to compare with");
        return;
    }
    let wanted = Wanted::new(arguments.into_iter().filter(|argument| argument != "--bench"));
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    // In memory, as the speed of the disk would be measured otherwise.
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut servers = Vec::new();
    for (n, kind) in wanted.kinds.iter().enumerate() {
        let place = directory.path().join(n.to_string());
        std::fs::create_dir(&place).unwrap();
        servers.push(Server::start(*kind, &place).await);
    }
    for pinned in [Pinned::Nowhere, Pinned::ToOneCore] {
        pinned.apply(servers.iter().map(Server::pid));
        let disks = tempfile::tempdir_in(directory.path()).unwrap();
        heading(&pinned.to_string(), &wanted.kinds);
        times(&wanted, &servers, disks.path());
    }
    Pinned::Nowhere.apply(servers.iter().map(Server::pid));
    drop(servers);
    heading("memory", &wanted.kinds);
    weights(&wanted, directory.path()).await;
}
