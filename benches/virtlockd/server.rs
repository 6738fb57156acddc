//! The servers that are compared.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::fixture::rpc::Rpc;
use super::fixture::{Bus, Virtlockd, program, within};
use super::store::Store;

/// Long enough for any of them to come up.
const DEADLINE: Duration = Duration::from_secs(20);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Virtlockd,
    Vmlockd {
        /// Whether somebody stores its descriptors, so that locks outlive it.
        kept: bool,
        /// Whether there is a message bus.
        bus: bool,
    },
}

impl Kind {
    /// That which the others are compared with comes first.
    pub(crate) const ALL: [Kind; 5] = [
        Kind::Virtlockd,
        Kind::Vmlockd { kept: false, bus: false },
        Kind::Vmlockd { kept: false, bus: true },
        Kind::Vmlockd { kept: true, bus: false },
        Kind::Vmlockd { kept: true, bus: true },
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Virtlockd => "virtlockd",
            Kind::Vmlockd { kept: false, bus: false } => "not kept, no bus",
            Kind::Vmlockd { kept: false, bus: true } => "not kept, bus",
            Kind::Vmlockd { kept: true, bus: false } => "kept, no bus",
            Kind::Vmlockd { kept: true, bus: true } => "kept, bus",
        })
    }
}

enum Program {
    Virtlockd(Virtlockd),
    Vmlockd(Child, Option<Store>),
}

/// A running server.
pub(crate) struct Server {
    program: Program,
    socket: PathBuf,
    directory: PathBuf,
    /// A name is had by one of them only, so each has a bus to itself.
    _bus: Option<Arc<Bus>>,
}

impl Server {
    /// Starts one with its files in this directory, and waits until it answers.
    pub(crate) async fn start(kind: Kind, directory: &Path) -> Server {
        let directory = directory.to_owned();
        let server = match kind {
            Kind::Virtlockd => {
                let program = Virtlockd::program().expect("virtlockd is installed");
                let virtlockd = Virtlockd::start(&program, &directory, "max_clients = 10000\n");
                let socket = virtlockd.socket().to_owned();
                Server { program: Program::Virtlockd(virtlockd), socket, directory, _bus: None }
            }
            Kind::Vmlockd { kept, bus: met } => {
                let socket = directory.join("virtlockd-sock");
                let bus =
                    if met { Some(Bus::system(&directory.join("bus"), &[]).await) } else { None };
                let store = kept.then(|| Store::serve(&directory.join("notify")));
                let child = vmlockd(&directory, &socket, kept, bus.as_deref());
                if let Some(bus) = &bus {
                    within("the service's name", bus.watch().await.owned_by(child.id())).await;
                }
                Server { program: Program::Vmlockd(child, store), socket, directory, _bus: bus }
            }
        };
        let begun = Instant::now();
        while !server.answers() {
            assert!(begun.elapsed() < DEADLINE, "{kind} does not answer: {}", server.said());
            thread::sleep(Duration::from_millis(5));
        }
        server
    }

    fn answers(&self) -> bool {
        Rpc::connect(&self.socket).is_ok_and(|mut rpc| {
            rpc.ping().granted();
            true
        })
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.directory.join("vmlockd.log")).unwrap_or_default()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        match &self.program {
            Program::Virtlockd(virtlockd) => virtlockd.process().pid(),
            Program::Vmlockd(child, _) => child.id(),
        }
    }

    /// How long all of its threads have run.
    pub(crate) fn worked(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let time = |thread: std::io::Result<std::fs::DirEntry>| {
            // One that ends meanwhile is no loss.
            let times = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            Some(Duration::from_nanos(times.split(' ').next()?.parse().ok()?))
        };
        threads.filter_map(time).sum()
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// A directory of its own, for what shall not meet the others' locks.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A connection to it.
    pub(crate) fn connect(&self) -> Rpc {
        Rpc::connect(&self.socket).expect("its socket is open")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Program::Vmlockd(child, store) = &mut self.program {
            child.kill().unwrap();
            child.wait().unwrap();
            // Or its locks would outlive it, as they should.
            drop(store.take());
        }
    }
}

/// Starts vmlockd as a child of ours: it looks for what it has stored in its parent.
fn vmlockd(directory: &Path, socket: &Path, kept: bool, bus: Option<&Bus>) -> Child {
    let config = directory.join("vmlockd.toml");
    std::fs::write(&config, "").unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig=KILL", "--"]).arg(program("vmlockd"));
    command.arg("--system").arg("--config").arg(config);
    command.arg("--runtime-dir").arg(directory.join("run"));
    command.arg("--virtlockd-socket").arg(socket);
    for key in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "RUST_LOG"] {
        command.env_remove(key);
    }
    let bus = bus.map_or_else(|| "unix:path=/nonexistent".to_owned(), Bus::address);
    command.env("DBUS_SYSTEM_BUS_ADDRESS", bus);
    if kept {
        command.env("NOTIFY_SOCKET", directory.join("notify"));
    }
    let log = std::fs::File::create(directory.join("vmlockd.log")).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().expect("setpriv is part of util-linux")
}
