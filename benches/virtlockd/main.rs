//! The same client against virtlockd and against vmlockd, over virtlockd's protocol.
//!
//! All servers run at once and are asked in turns, so that they see the same noise. Printed are
//! virtlockd's own medians, and of each vmlockd the ratio to them: below 1 it is the better one.
//! Figures of different runs or machines say nothing about each other.
//!
//! `cargo bench --bench virtlockd -- alone` measures virtlockd only, `… -- quick` takes a fifth of
//! the time, and `… -- start` (or another word) takes the rows that have this word in their name.

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
use load::{Cost, Scene};
use pin::Pinned;
use rows::{Row, heading};
use server::{Kind, Server};

/// How often each is asked, in turns.
const ROUNDS: usize = 11;
/// Disks of a guest that starts.
const DISKS: [usize; 3] = [1, 8, 32];
/// Locks and connections that are weighed.
const LOCKS: usize = 10_000;
const CONNECTIONS: usize = 1000;

/// What the command line asks for.
struct Wanted {
    rounds: usize,
    words: Vec<String>,
    kinds: Vec<Kind>,
}

impl Wanted {
    fn new(words: impl Iterator<Item = String>) -> Wanted {
        let mut wanted = Wanted { rounds: ROUNDS, words: Vec::new(), kinds: Kind::ALL.to_vec() };
        for word in words {
            match word.as_str() {
                "alone" => wanted.kinds.truncate(1),
                "quick" => wanted.rounds = ROUNDS.div_ceil(5),
                _ => wanted.words.push(word),
            }
        }
        wanted
    }

    fn row(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word.as_str()))
    }
}

/// What takes time: all servers in turns, as many times as there are rounds.
fn times(wanted: &Wanted, servers: &[Server], directory: &Path) {
    let scene = Scene::set(directory, servers);
    let row = |name: &str, measured: &dyn Fn(&Server) -> Cost| {
        if !wanted.row(name) {
            return;
        }
        let mut time = Row::new(name, "us", servers.len());
        let mut work = Row::new("  of which the server worked", "us", servers.len());
        for round in 0..wanted.rounds {
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
        row(&name, &|server| scene.pairs(server, clients, false));
        let name = format!("acquire + release, hashed, {clients} at once");
        row(&name, &|server| scene.pairs(server, clients, true));
    }
    for disks in DISKS {
        row(&format!("start of a guest, disks: {disks}"), &|server| scene.start(server, disks));
    }
}

/// What one more of something takes, in bytes.
type Weighed<'w> = &'w dyn Fn(&Server) -> f64;

/// What takes memory: a new server for each.
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
    // `cargo bench` passes --bench; `cargo test --benches` would run this too, and shall not.
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
    // In memory: a disk's own pace would be measured otherwise.
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
