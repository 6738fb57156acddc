//! Storage with defective locks: the self-test detects and reports them before a client relies on
//! them.

pub(crate) mod hung_request;
mod results;
mod service;
mod unresponsive;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::fixture::{Fixture, Process, within};
use crate::nspawn::skip;

/// The options of bindfs for lock forwarding, which it does as one process for all callers.
const FORWARDING: [&str; 2] = ["--multithreaded", "--enable-lock-forwarding"];

/// A directory of the fixture that a process shows in another place.
struct Served {
    /// Where it is shown.
    at: PathBuf,
    /// Where it is.
    behind: PathBuf,
    server: Process,
}

impl Served {
    async fn mount(fixture: &Fixture, options: &[&str]) -> Option<Served> {
        Self::of(fixture, private(&fixture.dir().join("behind")), options).await
    }

    /// Mounts an existing directory.
    async fn of(fixture: &Fixture, behind: PathBuf, options: &[&str]) -> Option<Served> {
        if !Path::new("/dev/fuse").exists() {
            return skip("there is no /dev/fuse here");
        }
        let at = private(&fixture.dir().join("served"));
        fs::write(behind.join("there"), "").unwrap();
        let mut command = Command::new("bindfs");
        command.arg("-f").args(options).args([&behind, &at]);
        let server = Process::start("bindfs", command, &fixture.dir().join("bindfs.log"));
        let served = Served { at, behind, server };
        let there = async {
            while !served.at.join("there").exists() {
                assert!(served.server.lives(), "bindfs: {}", served.server.stderr());
                tokio::task::yield_now().await;
            }
        };
        within("the file system is mounted", there).await;
        fs::remove_file(served.behind.join("there")).unwrap();
        Some(served)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Pending requests fail.
        self.server.signal(Signal::SIGKILL);
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

/// Makes a directory that a lockspace may be.
pub(crate) fn private(path: &Path) -> PathBuf {
    fs::create_dir(path).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
    path.to_owned()
}

/// Returns the entries of a directory.
fn names(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Returns the output of `doctor` for a path, with its exit code.
async fn doctor(fixture: &Fixture, path: &Path) -> (i32, Vec<Value>) {
    let ran = fixture.run("vmlockctl", &["--json", "doctor", path.to_str().unwrap()]).await;
    let remarks = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:#?}"));
    (ran.status.code().unwrap(), remarks)
}

/// The remark on one thing.
fn on<'r>(remarks: &'r [Value], check: &str) -> &'r Value {
    let found = remarks.iter().find(|remark| remark["check"] == check);
    found.unwrap_or_else(|| panic!("nothing on {check}: {remarks:#?}"))
}

/// Returns the output of `doctor` for the service, with its exit code.
async fn of_service(fixture: &Fixture) -> (i32, Vec<Value>) {
    let ran = fixture.run("vmlockctl", &["--json", "doctor"]).await;
    let remarks = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:#?}"));
    (ran.status.code().unwrap(), remarks)
}
