//! A host: the installed program under a real systemd, with a real bus and a real polkit.
//!
//! The container is a temporary copy of a [`Tree`] in which `make install` has installed the files
//! as a package would. Each test boots its own, so they run side by side; the service is started on
//! demand, as on a physical host. The test can access files, processes and the bus of a host, too;
//! only processes that systemd, polkit and the service must see as part of the host have to run in
//! it.
//!
//! Where no container can be booted, a test prints the reason and succeeds. The environment
//! variable `VMLOCKD_TESTS_NO_SKIP` makes that a failure.

#![allow(dead_code, reason = "a host offers more than the tests of the day use")]

mod container;
mod programs;
mod tree;
mod unit;

use std::{
    env,
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
};

use tempfile::TempDir;
use zbus::Connection;

use crate::fixture::{Connector, NAME, NameWatch, connect, within};
use container::{Container, Failure};

pub(crate) use programs::JOURNAL;
pub(crate) use tree::{Tree, apart};
pub(crate) use unit::MainProcess;

/// Where a host has its disk images.
const IMAGES: &str = "/srv/images";

/// Where it has what it shares with others.
pub(crate) const SHARED: &str = "/srv/shared";

/// A machine with a systemd of its own. It is gone without a trace when it is dropped.
pub(crate) struct Host {
    tree: Tree,
    systemd: u32,
    /// The processes in it that have connected to its bus for the test.
    connectors: Mutex<Vec<Connector>>,
    // Before the directory that it is in.
    container: Container,
    dir: TempDir,
}

impl Host {
    /// Boots a host; the service is installed and neither enabled nor running. None if this
    /// machine can't, which has been said then.
    pub(crate) async fn boot(tree: Tree) -> Option<Host> {
        Self::boot_with(tree, None).await
    }

    /// Boots one of several hosts that share a directory at [`SHARED`].
    pub(crate) async fn boot_sharing(tree: Tree, directory: &Path) -> Option<Host> {
        Self::boot_with(tree, Some(directory)).await
    }

    async fn boot_with(tree: Tree, shared: Option<&Path>) -> Option<Host> {
        let dir = tempfile::Builder::new().prefix("vmlockd-host-").tempdir();
        let dir = dir.expect("a temporary directory");
        let path = match tree.path().await {
            Ok(path) => path,
            Err(reason) => return skip(&reason),
        };
        let container = match Container::boot(&path, dir.path(), shared).await {
            Ok(container) => container,
            Err(Failure::NotHere(said)) => {
                return skip(&format!("{tree} can't be booted here: {}", said.trim()));
            }
            Err(Failure::NotThere(said)) => {
                // No machine could do better with what is built on this one.
                println!("skipped: what is built here does not run on {tree}: {}", said.trim());
                return None;
            }
            Err(Failure::Broken(said)) => panic!("{tree} does not boot: {said}"),
        };
        let connectors = Mutex::default();
        let mut host = Host { tree, systemd: 0, connectors, container, dir };
        fs::create_dir(host.at(IMAGES)).expect("a directory in the host");
        let open = Permissions::from_mode(0o755);
        fs::set_permissions(host.at(IMAGES), open).expect("the directory is ours");
        host.systemd = host.version().await;
        Some(host)
    }

    /// The version of its systemd.
    pub(crate) fn systemd(&self) -> u32 {
        self.systemd
    }

    /// Where this process finds what is at `path` in the host.
    pub(crate) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        let below = path.strip_prefix("/").unwrap_or_else(|_| panic!("{}", path.display()));
        self.root().join(below)
    }

    /// Where this process finds the host's files.
    pub(crate) fn root(&self) -> PathBuf {
        format!("/proc/{}/root", self.container.leader()).into()
    }

    /// A disk image of root's; its path in the host comes back.
    pub(crate) fn image(&self, name: &str) -> PathBuf {
        let path = Path::new(IMAGES).join(name);
        let outside = self.at(&path);
        let file = File::create_new(&outside).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        file.set_len(1 << 20).expect("a sparse file");
        fs::set_permissions(&outside, Permissions::from_mode(0o600)).expect("the image is ours");
        path
    }

    /// Writes a file in the host, and the directories that lead to it.
    pub(crate) fn write(&self, path: impl AsRef<Path>, text: &str) {
        let outside = self.at(&path);
        let above = outside.parent().expect("a file is in a directory");
        fs::create_dir_all(above).unwrap_or_else(|e| panic!("{}: {e}", above.display()));
        fs::write(&outside, text).unwrap_or_else(|e| panic!("{}: {e}", outside.display()));
        // polkit, for one, reads as a user of its own.
        fs::set_permissions(&outside, Permissions::from_mode(0o644)).expect("the file is ours");
    }

    /// A new connection to the host's system bus, as root.
    ///
    /// It is that of a process in the host, which lives as long as the host: a process outside has no
    /// number there, and its names lead elsewhere.
    pub(crate) async fn bus(&self) -> Connection {
        let target = format!("--target={}", self.container.leader());
        let behind = ["nsenter", &target, "--mount", "--pid", "--root", "--"];
        let socket = Path::new("/run/dbus/system_bus_socket");
        let (connector, stream) = Connector::start(&behind, None, socket, &self.log());
        self.connectors.lock().expect("no test panics with it").push(connector);
        let builder = zbus::connection::Builder::unix_stream(stream).user_id(0);
        let connection = within("an answer to Hello", builder.build()).await;
        connection.unwrap_or_else(|e| panic!("{}: {e}", socket.display()))
    }

    /// A new connection to it of this process, outside of the host. The bus can't number it: for the
    /// bus and for the service, this caller has no process.
    pub(crate) async fn bus_from_outside(&self) -> Connection {
        let socket = self.at("/run/dbus/system_bus_socket");
        let connection = connect(socket.clone(), 0).await;
        connection.unwrap_or_else(|e| panic!("{}: {e}", socket.display()))
    }

    /// Where programs that are started for this host may write what is wrong with them.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.path().join("tools.log")
    }

    /// Follows the owner of the service's name.
    pub(crate) async fn watch(&self) -> NameWatch {
        NameWatch::new(&self.bus().await, NAME).await
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- the service on {}:\n{}----", self.tree, self.log_tail());
        }
    }
}

/// Prints the reason why a test is skipped.
pub(crate) fn skip<T>(reason: &str) -> Option<T> {
    let strict = env::var_os("VMLOCKD_TESTS_NO_SKIP").is_some();
    assert!(!strict, "nothing may be skipped, but {reason}");
    println!("skipped: {reason}");
    None
}
