//! Hosts that share a directory of lock files tell each other who holds a disk.
//!
//! Each is a service with a bus and a runtime directory of its own. They see the directory as a
//! [`SharedDirectory`] shows it to them: one and the same here, or a mount of one file system for each. The
//! disk has one path for all, as it must have on hosts that share lock files.

mod forged;
mod names;
mod without_xattrs;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::dbus_client::TestVm;
use crate::fixture::Fixture;

/// The directory of lock files, as each host sees it.
pub(crate) struct SharedDirectory {
    /// Where each host finds it.
    pub(crate) places: Vec<PathBuf>,
    /// Dropped with the test, in this order.
    pub(crate) _kept: Vec<Box<dyn Send>>,
}

impl SharedDirectory {
    /// One directory that `hosts` see at the same place.
    pub(crate) fn plain(hosts: usize) -> Self {
        let dir = tempfile::Builder::new().prefix("vmlockd-shared-").tempdir().unwrap();
        Self { places: vec![dir.path().to_owned(); hosts], _kept: vec![Box::new(dir)] }
    }
}

/// Hosts with a directory of lock files in common.
pub(crate) struct Hosts {
    pub(crate) fixtures: Vec<Fixture>,
    pub(crate) shared: SharedDirectory,
    /// A disk that each host knows by this path.
    pub(crate) disk: PathBuf,
}

impl Hosts {
    /// Starts a service for each place, named `Node 0`, `Node 1` and so on.
    pub(crate) async fn sharing(shared: SharedDirectory) -> Self {
        let mut fixtures = Vec::new();
        for (n, place) in shared.places.iter().enumerate() {
            // The directory is on a local file system, unlike that of real hosts.
            let recorded = "record_holders = \"lockspaces\"";
            let directory = place.display();
            let config = format!("file_lockspace_dir = \"{directory}\"\n{recorded}\n{}", node(n));
            fixtures.push(Fixture::builder().config(&config).start().await);
        }
        let disk = fixtures[0].raw_of(0, "a.img");
        Self { fixtures, shared, disk }
    }

    /// A machine of this process on a host.
    pub(crate) async fn machine(&self, host: usize, name: &str) -> TestVm {
        let machine = TestVm::open(&self.fixtures[host].connection().await, name).await;
        machine.owner.bind_pid(std::process::id(), HashMap::new()).await.unwrap();
        machine
    }

    /// Returns the output of `vmlockctl who` on a host.
    pub(crate) async fn who(&self, host: usize) -> String {
        self.fixtures[host].run("vmlockctl", &["who", str(&self.disk)]).await.ok()
    }

    /// Returns the reply to `FindHolders` on a host, called with busctl.
    pub(crate) async fn holders(&self, host: usize) -> Vec<Value> {
        let call = ["org.vmlockd1", "/org/vmlockd1", "org.vmlockd1.Manager", "FindHolders"];
        let line = [&["--system", "--json=short", "call"][..], &call, &["sa{sv}"]].concat();
        let line = [&line[..], &[str(&self.disk), "0"]].concat();
        let said = self.fixtures[host].run("busctl", &line).await.ok();
        let said: Value = serde_json::from_str(&said).unwrap();
        said["data"][0].as_array().unwrap().clone()
    }

    /// The lock files, as the first host sees them. A service that has just begun may be trying locks
    /// with a hidden file of its own.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(&self.shared.places[0]).unwrap().map(|file| file.unwrap());
        let hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
        files.filter(|file| !hidden(&file.file_name())).map(|file| file.path()).collect()
    }
}

/// Returns the name of the n-th host.
fn node(n: usize) -> String {
    format!("host_id = \"node-{n}\"\nhost_name = \"Node {n}\"\n")
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A fact of a holder, as busctl prints it.
pub(crate) fn fact<'h>(holder: &'h Value, key: &str) -> &'h Value {
    &holder[key]["data"]
}
