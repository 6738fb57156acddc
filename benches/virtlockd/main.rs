//! Compares vmlockd with virtlockd, by the same client over virtlockd's protocol, and acquisitions over
//! D-Bus with bare calls.
//!
//! All servers run at once and are measured alternately, so that noise affects all alike. A row shows
//! virtlockd's figure (or that of a bare call), the ratio of each vmlockd to it, and the target of the
//! ratio: `ok` if it is reached, `-` if not. Each ratio is the median of five rounds. Only the ratios
//! can be compared between runs and between machines; nothing fails if a target is missed.
//!
//! `make bench WORDS="…"` takes words: `quick` takes a fifth of the time, `kinds=kept-bus` (or
//! several of `virtlockd,kept,kept-bus,bare,bare-bus`) selects servers, of which the first is the one
//! that others are compared with, and any other word selects the rows with this word in their names.
//! So `make bench WORDS="kinds=kept-bus direct,"` is a load of one server, for a profile.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "what fails here ends the run")]

#[path = "../shared/acquisition.rs"]
mod acquisition;
#[allow(dead_code)]
#[path = "../../tests/it/dbus_client.rs"]
mod dbus_client;
#[path = "../../tests/it/fixture/mod.rs"]
mod fixture;

mod dbus;
mod guest;
mod load;
mod many;
mod phases;
mod pin;
mod remote;
mod rows;
mod selection;
mod server;
mod store;
mod weight;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use fixture::Virtlockd;
use load::Workload;
use phases::Bench;
use pin::Pinned;
use rows::{RowSpec, Scale, Table};
use selection::Selection;
use server::{Kind, Server};

/// The number of locks of an owner that has many.
const LOCKS: usize = 10_000;
const CONNECTIONS: usize = 1000;
/// Set in the mount namespace of the run.
const INSIDE: &str = "VMLOCKD_BENCH_INSIDE";

/// Returns the memory of one more lock, connection or guest, in bytes.
type Weighed<'w> = &'w dyn Fn(&Server) -> f64;

/// Measures memory, with a new server for each figure.
async fn weights(selection: &Selection, directory: &Path) -> Table {
    let mut table = Table::new("memory", &selection.kinds);
    let files = many::files(directory, LOCKS);
    let row = |name: &str| RowSpec::new(name, "B", Scale::Absolute);
    let idle = RowSpec::new("private memory after a burst", "KiB", Scale::Absolute);
    let rows: [(RowSpec, Weighed); 4] = [
        (row("memory of a lock").without_bus(512.0).with_bus(1024.0).in_readme(), &|server| {
            weight::of_locks(server, &files)
        }),
        (row("memory of a connection"), &|server| weight::of_connections(server, CONNECTIONS)),
        (row("memory of a guest's connection"), &|server| weight::of_owners(server, CONNECTIONS)),
        (idle.target(4096.0), &|server| {
            weight::after_burst(server, &server.directory().join("burst")) / 1024.0
        }),
    ];
    for (spec, measured) in rows.into_iter().filter(|(spec, _)| selection.has(&spec.name)) {
        let mut figures = Vec::new();
        for kind in &selection.kinds {
            let place = tempfile::tempdir_in(directory).unwrap();
            std::fs::create_dir(place.path().join("burst")).unwrap();
            figures.push(vec![measured(&Server::start(*kind, place.path()).await)]);
        }
        table.add(vec![spec], &[figures]);
    }
    table
}

/// Prints the rows of the README, between lines that `benches/update-readme` finds.
fn print_markdown(selection: &Selection, tables: &[Table]) {
    let kinds: Vec<_> = selection.kinds.iter().skip(1).map(Kind::to_string).collect();
    println!("\n<!-- performance: begin -->");
    println!("| work | compared with | {} |", kinds.join(" | "));
    println!("|{}", "---|".repeat(kinds.len() + 2));
    for table in tables {
        print!("{}", table.markdown());
    }
    println!("<!-- performance: end -->");
}

async fn run(selection: &Selection) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    // In memory, as the speed of the disk would be measured otherwise.
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let subdirectory = |name: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let mut tables = Vec::new();
    let mut servers = Vec::new();
    for (n, kind) in selection.kinds.iter().enumerate() {
        servers.push(Server::start(*kind, &subdirectory(&n.to_string())).await);
    }
    for pinned in [Pinned::ToOneCore, Pinned::Nowhere] {
        pinned.apply(servers.iter().map(Server::pid));
        let mut table = Table::new(pinned.to_string(), &selection.kinds);
        let disks: PathBuf = subdirectory(&format!("disks {pinned}"));
        let workload = Workload::new(&disks, &servers);
        let in_readme = matches!(pinned, Pinned::Nowhere);
        let bench = Bench { selection, servers: &servers, workload, in_readme };
        bench.times(&mut table);
        if matches!(pinned, Pinned::ToOneCore) {
            bench.remote(&mut table, &disks);
            bench.many(&mut table, &disks, selection.number(LOCKS));
        }
        tables.push(table);
    }
    drop(servers);
    tables.push(dbus::acquisitions(selection, &subdirectory("acquisitions")).await);
    tables.push(dbus::restarts(selection, &subdirectory("restarts"), LOCKS).await);
    tables.push(weights(selection, &subdirectory("weights")).await);
    print_markdown(selection, &tables);
}

fn main() {
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
    if std::env::var_os(INSIDE).is_none() {
        // Mounts of the run end with it, and no other program sees them.
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation=private", "--"]);
        command.arg(std::env::current_exe().unwrap()).args(&arguments).env(INSIDE, "1");
        panic!("cannot execute unshare: {}", command.exec());
    }
    let words = arguments.into_iter().filter(|argument| argument != "--bench");
    match Selection::new(words) {
        Ok(selection) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(run(&selection));
        }
        Err(error) => println!("{error}"),
    }
}
