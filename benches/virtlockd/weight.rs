//! Measures memory: the private memory of a server, before and after.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::guest::{Sleeper, owner};
use super::load::Workload;
use super::server::Server;

/// Returns the private memory of a server in bytes.
fn private(server: &Server) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", server.pid())).unwrap();
    let kibibytes = rollup.lines().filter(|line| line.starts_with("Private_"));
    let kibibytes = kibibytes.map(|line| line.split_whitespace().nth(1).unwrap());
    kibibytes.map(|number| number.parse::<f64>().unwrap() * 1024.0).sum()
}

/// Returns the memory for each of `count` objects that have been added since `before`.
fn each(server: &Server, before: f64, count: usize) -> f64 {
    (private(server) - before) / f64::from(u32::try_from(count).unwrap())
}

/// Measures a lock, with all locks of one owner.
pub(crate) fn of_locks(server: &Server, files: &[PathBuf]) -> f64 {
    let guest = Sleeper::new();
    let mut rpc = server.connect();
    rpc.register(&owner(0, guest.pid())).granted();
    // The first lock also allocates what exists once.
    let (first, rest) = files.split_first().unwrap();
    rpc.acquire("", first.as_os_str().as_bytes(), 0).granted();
    let before = private(server);
    for file in rest {
        rpc.acquire("", file.as_os_str().as_bytes(), 0).granted();
    }
    each(server, before, rest.len())
}

/// Measures a connection without a registered owner.
pub(crate) fn of_connections(server: &Server, count: usize) -> f64 {
    let before = private(server);
    let mut connections: Vec<_> = (0..count).map(|_| server.connect()).collect();
    for rpc in &mut connections {
        rpc.ping().granted();
    }
    each(server, before, count)
}

/// Measures a connection as each guest keeps it open, with the registered guest.
pub(crate) fn of_owners(server: &Server, count: usize) -> f64 {
    let before = private(server);
    let mut connections: Vec<_> = (0..count).map(|_| server.connect()).collect();
    for (n, rpc) in (0..).zip(&mut connections) {
        // The server registers the peer, as it does for a guest. Without locks, virtlockd does not
        // kill the peer when the connection is closed.
        rpc.register(&owner(n, std::process::id())).granted();
        rpc.restrict().granted();
    }
    each(server, before, count)
}

/// Measures a server that has handled many requests of many clients, and has been idle for a second.
pub(crate) fn after_burst(server: &Server, directory: &std::path::Path) -> f64 {
    let workload = Workload::new(directory, std::slice::from_ref(server));
    workload.pairs_at_once(server, 500, false);
    workload.pairs_at_once(server, 500, true);
    drop(workload);
    // A message bus is served after the clients, and memory is freed when it has caught up.
    std::thread::sleep(std::time::Duration::from_secs(1));
    private(server)
}
