//! What libvirt does in the process that becomes QEMU: a connection of its own, which is kept open
//! to that process's end.
//!
//! It has to be a process of its own, as the peer of the connection is what is registered. This
//! program is run once more for it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::fixture::rpc::{Owner, Rpc};

/// The argument by which this program knows that it is to be a guest.
pub(crate) const WORD: &str = "guest";

/// An owner that no other run of a guest is.
pub(crate) fn owner(number: u32, pid: u32) -> Owner {
    let mut uuid = [7; 16];
    uuid[..4].copy_from_slice(&number.to_be_bytes());
    uuid[4..8].copy_from_slice(&pid.to_be_bytes());
    Owner { uuid, name: format!("guest{number}").into_bytes(), id: number + 1, pid }
}

/// Is the guest: registers, says how long that took, and stays until nobody wants it any more.
pub(crate) fn run(mut arguments: impl Iterator<Item = String>) {
    let socket = arguments.next().unwrap();
    let number = arguments.next().unwrap().parse().unwrap();
    let owner = owner(number, std::process::id());
    let socket = Path::new(&socket);
    // What a program pays for its first call of anything is no server's matter.
    Rpc::connect(socket).unwrap().ping().granted();
    let begun = Instant::now();
    let mut rpc = Rpc::connect(socket).unwrap();
    rpc.register(&owner).granted();
    rpc.restrict().granted();
    println!("{}", begun.elapsed().as_nanos());
    let _ = std::io::stdin().read(&mut [0]);
}

/// A guest that runs.
pub(crate) struct Guest {
    child: Child,
    pub(crate) owner: Owner,
    /// How long its own part took.
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
        // virtlockd may have ended it already.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

/// A process that does nothing, in whose name somebody asks.
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
