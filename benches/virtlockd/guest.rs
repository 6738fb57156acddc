//! A guest: the part of libvirt that runs in the process that becomes QEMU. It opens a connection
//! of its own and keeps it open until that process ends.
//!
//! It is a separate process, as the server registers the peer of the connection. This program runs
//! itself again for that.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::fixture::rpc::{Owner, Rpc};

/// The argument that makes this program a guest.
pub(crate) const WORD: &str = "guest";

/// Returns an owner that differs from those of all other guests.
pub(crate) fn owner(number: u32, pid: u32) -> Owner {
    let mut uuid = [7; 16];
    uuid[..4].copy_from_slice(&number.to_be_bytes());
    uuid[4..8].copy_from_slice(&pid.to_be_bytes());
    Owner { uuid, name: format!("guest{number}").into_bytes(), id: number + 1, pid }
}

/// Runs the guest: registers, prints how long that took, and waits for the end of its input.
pub(crate) fn run(mut arguments: impl Iterator<Item = String>) {
    let socket = arguments.next().unwrap();
    let number = arguments.next().unwrap().parse().unwrap();
    let owner = owner(number, std::process::id());
    let socket = Path::new(&socket);
    // The first call of each function costs more, which must not be attributed to the server.
    Rpc::connect(socket).unwrap().ping().granted();
    let begun = Instant::now();
    let mut rpc = Rpc::connect(socket).unwrap();
    rpc.register(&owner).granted();
    rpc.restrict().granted();
    println!("{}", begun.elapsed().as_nanos());
    let _ = std::io::stdin().read(&mut [0]);
}

/// A running guest.
pub(crate) struct Guest {
    child: Child,
    pub(crate) owner: Owner,
    /// The duration of its registration.
    pub(crate) took: Duration,
}

impl Guest {
    pub(crate) fn start(socket: &Path, number: u32) -> Guest {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(WORD).arg(socket).arg(number.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let took = Duration::from_nanos(line.trim().parse().expect("a guest says a number"));
        let owner = owner(number, child.id());
        Guest { child, owner, took }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // virtlockd may have killed it already.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

/// An idle process that locks are requested for.
pub(crate) struct Sleeper(Child);

impl Sleeper {
    pub(crate) fn new() -> Sleeper {
        let mut command = Command::new("sleep");
        Sleeper(command.arg("infinity").stdin(Stdio::null()).spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
