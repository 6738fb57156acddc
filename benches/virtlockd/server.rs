//! The compared servers.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::fixture::rpc::Rpc;
use super::fixture::{Bus, Virtlockd, program, within};
use super::store::Store;

/// The time limit for the start of a server.
const DEADLINE: Duration = Duration::from_secs(20);

/// The kind of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Virtlockd,
    Vmlockd {
        /// Whether its descriptors are stored, so that locks outlive it.
        kept: bool,
        /// Whether it is connected to a message bus.
        bus: bool,
    },
}

impl Kind {
    /// All kinds, first the one that the others are compared with.
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
    /// Each server has its own bus, as only one can own the bus name.
    _bus: Option<Arc<Bus>>,
}

impl Server {
    /// Starts a server with its files in `directory`, and waits until it responds.
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
            assert!(begun.elapsed() < DEADLINE, "{kind} does not answer: {}", server.log());
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

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("vmlockd.log")).unwrap_or_default()
    }

    /// Returns its process ID.
    pub(crate) fn pid(&self) -> u32 {
        match &self.program {
            Program::Virtlockd(virtlockd) => virtlockd.process().pid(),
            Program::Vmlockd(child, _) => child.id(),
        }
    }

    /// Returns the processor time of all its threads.
    pub(crate) fn worked(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let time = |thread: std::io::Result<std::fs::DirEntry>| {
            // A thread that ends meanwhile is not counted.
            let times = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            Some(Duration::from_nanos(times.split(' ').next()?.parse().ok()?))
        };
        threads.filter_map(time).sum()
    }

    /// Returns the path of its socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns its own directory, for files that must not conflict with locks of other servers.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Connects to it.
    pub(crate) fn connect(&self) -> Rpc {
        Rpc::connect(&self.socket).expect("its socket is open")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Program::Vmlockd(child, store) = &mut self.program {
            child.kill().unwrap();
            child.wait().unwrap();
            // Otherwise its locks would outlive it, as they should.
            drop(store.take());
        }
    }
}

/// Starts vmlockd as a child process: vmlockd looks for its stored descriptors in its parent.
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
