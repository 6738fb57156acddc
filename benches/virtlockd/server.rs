//! The compared servers.

use std::fmt;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::fixture::rpc::Rpc;
use super::fixture::{Broker, Bus, Virtlockd, program, within};
use super::store::Store;

/// The time limit for the start of a server.
const DEADLINE: Duration = Duration::from_secs(20);

/// The time in which an idle server works for less than a fiftieth of it.
const SETTLED: Duration = Duration::from_millis(100);

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
    /// The kinds that are compared by default. The others are compared with the first.
    pub(crate) const COMPARED: [Kind; 3] = [
        Kind::Virtlockd,
        Kind::Vmlockd { kept: true, bus: false },
        Kind::Vmlockd { kept: true, bus: true },
    ];

    /// Returns the kind with this name on the command line.
    ///
    /// # Errors
    ///
    /// A message if there is none.
    pub(crate) fn named(word: &str) -> Result<Kind, String> {
        Ok(match word {
            "virtlockd" => Kind::Virtlockd,
            "kept" => Kind::Vmlockd { kept: true, bus: false },
            "kept-bus" => Kind::Vmlockd { kept: true, bus: true },
            "bare" => Kind::Vmlockd { kept: false, bus: false },
            "bare-bus" => Kind::Vmlockd { kept: false, bus: true },
            _ => {
                return Err(format!(
                    "'{word}' is none of virtlockd, kept, kept-bus, bare, bare-bus"
                ));
            }
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Virtlockd => "virtlockd",
            Kind::Vmlockd { kept: false, bus: false } => "vmlockd, not kept, no bus",
            Kind::Vmlockd { kept: false, bus: true } => "vmlockd, not kept",
            Kind::Vmlockd { kept: true, bus: false } => "vmlockd, no bus",
            Kind::Vmlockd { kept: true, bus: true } => "vmlockd",
        })
    }
}

enum Program {
    Virtlockd(Virtlockd),
    Vmlockd(Child, Option<Store>),
}

/// A running server.
pub(crate) struct Server {
    kind: Kind,
    program: Program,
    socket: PathBuf,
    directory: PathBuf,
    /// Each server has its own bus, as only one can own the bus name.
    bus: Option<Arc<Bus>>,
}

impl Server {
    /// Starts a server with its files in `directory`, and waits until it responds.
    pub(crate) async fn start(kind: Kind, directory: &Path) -> Server {
        Self::start_with(kind, directory, Broker::DbusDaemon).await
    }

    /// Starts a server on a bus of this kind, if it has a bus.
    pub(crate) async fn start_with(kind: Kind, directory: &Path, broker: Broker) -> Server {
        let directory = directory.to_owned();
        let server = match kind {
            Kind::Virtlockd => {
                let program = Virtlockd::program().expect("virtlockd is installed");
                let virtlockd = Virtlockd::start(&program, &directory, "max_clients = 10000\n");
                let socket = virtlockd.socket().to_owned();
                Server {
                    kind,
                    program: Program::Virtlockd(virtlockd),
                    socket,
                    directory,
                    bus: None,
                }
            }
            Kind::Vmlockd { kept, bus: met } => {
                let socket = directory.join("virtlockd-sock");
                let bus = match broker {
                    _ if !met => None,
                    Broker::DbusDaemon => Some(Bus::system(&directory.join("bus"), &[]).await),
                    Broker::DbusBroker => Some(Bus::broker(&directory.join("bus")).await),
                };
                let store = kept.then(|| Store::serve(&directory.join("notify")));
                let child = vmlockd(&directory, &socket, kept, bus.as_deref(), &[]);
                if let Some(bus) = &bus {
                    within("the service's name", bus.watch().await.owned_by(child.id())).await;
                }
                Server { kind, program: Program::Vmlockd(child, store), socket, directory, bus }
            }
        };
        server.wait_for_answer();
        server
    }

    fn wait_for_answer(&self) {
        let begun = Instant::now();
        while !self.answers() {
            assert!(begun.elapsed() < DEADLINE, "{} does not answer: {}", self.kind, self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills a vmlockd with a bus and a store, and starts it again with its stored descriptors.
    /// Returns the time from the start until it has its name.
    pub(crate) async fn restart(&mut self) -> Duration {
        let Program::Vmlockd(child, Some(store)) = &mut self.program else {
            unreachable!("only vmlockd with a store is restarted");
        };
        let bus = self.bus.as_deref().expect("it has a bus");
        let mut watch = bus.watch().await;
        child.kill().unwrap();
        child.wait().unwrap();
        within("the end of the name", watch.not_owned_by(child.id())).await;
        let passed = store.inheritable();
        let begun = Instant::now();
        *child = vmlockd(&self.directory, &self.socket, true, Some(bus), &passed);
        within("the service's name", watch.owned_by(child.id())).await;
        let took = begun.elapsed();
        self.wait_for_answer();
        took
    }

    /// Returns its bus, if it has one.
    pub(crate) fn bus(&self) -> Option<&Bus> {
        self.bus.as_deref()
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

    /// Waits until it is idle: after a reply, it publishes objects on its message bus.
    pub(crate) fn settle(&self) {
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            let before = self.worked();
            thread::sleep(SETTLED);
            if self.worked().saturating_sub(before) < SETTLED / 50 {
                return;
            }
        }
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

/// The script that passes descriptors on as `sd_listen_fds(3)` describes. Only bash redirects
/// descriptors with more than one digit. The shell becomes the program, so its process ID stays.
const PASS: &str = r#"
    next=3
    for from in $PASSED; do
        eval "exec $next<&$from $from<&-"
        next=$((next + 1))
    done
    export LISTEN_FDS=$((next - 3)) LISTEN_PID=$$
    unset PASSED
    exec "$@"
"#;

/// Starts vmlockd as a child process: vmlockd looks for its stored descriptors in its parent.
///
/// `passed` are its stored descriptors, with their names.
fn vmlockd(
    directory: &Path,
    socket: &Path,
    kept: bool,
    bus: Option<&Bus>,
    passed: &[(String, OwnedFd)],
) -> Child {
    let config = directory.join("vmlockd.toml");
    std::fs::write(&config, "").unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig=KILL", "--"]);
    if !passed.is_empty() {
        command.args(["bash", "-euc", PASS, "bash"]);
    }
    command.arg(program("vmlockd"));
    command.arg("--system").arg("--config").arg(config);
    command.arg("--runtime-dir").arg(directory.join("run"));
    command.arg("--virtlockd-socket").arg(socket);
    for key in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "RUST_LOG"] {
        command.env_remove(key);
    }
    if !passed.is_empty() {
        let names: Vec<_> = passed.iter().map(|(name, _)| name.as_str()).collect();
        let numbers: Vec<_> = passed.iter().map(|(_, fd)| fd.as_raw_fd().to_string()).collect();
        command.env("LISTEN_FDNAMES", names.join(":")).env("PASSED", numbers.join(" "));
    }
    let bus = bus.map_or_else(|| "unix:path=/nonexistent".to_owned(), Bus::address);
    command.env("DBUS_SYSTEM_BUS_ADDRESS", bus);
    if kept {
        command.env("NOTIFY_SOCKET", directory.join("notify"));
    }
    let mut log = std::fs::File::options();
    let log = log.append(true).create(true).open(directory.join("vmlockd.log")).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().expect("setpriv is part of util-linux")
}
