//! What is measured in memory: what a server has for itself, before and after.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::guest::{Sleeper, owner};
use super::server::Server;

/// The bytes that a process shares with nobody.
fn private(server: &Server) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", server.pid())).unwrap();
    let kibibytes = rollup.lines().filter(|line| line.starts_with("Private_"));
    let kibibytes = kibibytes.map(|line| line.split_whitespace().nth(1).unwrap());
    kibibytes.map(|number| number.parse::<f64>().unwrap() * 1024.0).sum()
}

/// What each of so many adds.
fn each(server: &Server, before: f64, count: usize) -> f64 {
    (private(server) - before) / f64::from(u32::try_from(count).unwrap())
}

/// Of a lock, all of them one owner's.
pub(crate) fn of_locks(server: &Server, files: &[PathBuf]) -> f64 {
    let guest = Sleeper::new();
    let mut rpc = server.connect();
    rpc.register(&owner(0, guest.pid())).granted();
    // The first one pays for what is set up once.
    let (first, rest) = files.split_first().unwrap();
    rpc.acquire("", first.as_os_str().as_bytes(), 0).granted();
    let before = private(server);
    for file in rest {
        rpc.acquire("", file.as_os_str().as_bytes(), 0).granted();
    }
    each(server, before, rest.len())
}

/// Of a connection of which nothing but the connection is known.
pub(crate) fn of_connections(server: &Server, count: usize) -> f64 {
    let before = private(server);
    let mut connections: Vec<_> = (0..count).map(|_| server.connect()).collect();
    for rpc in &mut connections {
        rpc.ping().granted();
    }
    each(server, before, count)
}

/// Of a connection such as each guest keeps open, with the guest itself.
pub(crate) fn of_owners(server: &Server, count: usize) -> f64 {
    let before = private(server);
    let mut connections: Vec<_> = (0..count).map(|_| server.connect()).collect();
    for (n, rpc) in (0..).zip(&mut connections) {
        // Its peer is who is registered, as a guest is. There are no locks that virtlockd would
        // end the peer for when the connection is closed.
        rpc.register(&owner(n, std::process::id())).granted();
        rpc.restrict().granted();
    }
    each(server, before, count)
}

/// Of the server itself.
pub(crate) fn at_start(server: &Server) -> f64 {
    private(server)
}
