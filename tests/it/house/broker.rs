//! dbus-broker as the private bus, on a machine that need not have systemd.

use std::{
    fs::{self, Permissions},
    os::{
        fd::OwnedFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixDatagram, UnixListener},
        },
    },
    path::Path,
    thread,
};

use super::{
    Bus,
    process::{Process, mortal},
};

/// Socket activation as systemd does it: the listening socket is descriptor 3, and the variables
/// name this very process. Standard input is how a descriptor gets into a child without unsafe
/// code.
const START: &str = r#"
    mount --bind "$1" /run
    exec 3<&0 </dev/null
    shift
    LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"
"#;

/// Starts dbus-broker for `bus`. It asks `other` to have services started, which comes to nothing.
pub(super) fn start(bus: &Bus, other: &Bus) -> (Process, Journal) {
    let run = bus.dir().join("run");
    let journal = Journal::open(&run);

    // A socket of an earlier life would be in the way.
    let _ = fs::remove_file(bus.socket());
    let listener = UnixListener::bind(bus.socket()).expect("a socket in our directory");
    let everyone = Permissions::from_mode(0o666);
    fs::set_permissions(bus.socket(), everyone).expect("the socket is ours");

    // It logs to the journal and to nothing else; in a file system of its own it finds ours.
    let mut command = mortal(None, "unshare");
    command.args(["--mount", "--propagation=private", "--", "sh", "-euc", START, "dbus-broker"]);
    command.arg(run).args(["dbus-broker-launch", "--scope=system", "--config-file"]);
    command.arg(bus.config());
    command.env("DBUS_SYSTEM_BUS_ADDRESS", other.address());
    command.stdin(OwnedFd::from(listener));
    (Process::start("dbus-broker", command, &bus.dir().join("log")), journal)
}

/// What stands in for systemd's journal. Shows what dbus-broker said if the test fails.
#[derive(Debug)]
pub(super) struct Journal(UnixDatagram);

impl Journal {
    fn open(run: &Path) -> Journal {
        let path = run.join("systemd/journal/socket");
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory in ours");
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(path).expect("a socket in our directory");
        // Nobody reads while the test runs: dbus-broker drops what does not fit, and never waits.
        socket.set_nonblocking(true).expect("a socket can be made so");
        Journal(socket)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let mut entry = vec![0; 64 * 1024];
        while let Ok(length) = self.0.recv(&mut entry) {
            let text = String::from_utf8_lossy(&entry[..length]);
            for message in text.lines().filter_map(|line| line.strip_prefix("MESSAGE=")) {
                eprintln!("dbus-broker: {message}");
            }
        }
    }
}
