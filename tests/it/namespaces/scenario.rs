//! Two directories with a file of the same name in each, and callers for which one directory is
//! mounted over the other.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use tokio::process::Command;
use zbus::Connection;

use crate::fixture::rpc::Rpc;
use crate::fixture::user::{Account, ROOT};
use crate::fixture::{CommandOutput, Connector, Fixture, ForeignHolder, LockType, run, within};

/// Shows its second argument in the place of the first, for the command that follows.
const BIND: &str = r#"mount --bind "$2" "$1"; shift 2; exec "$@""#;
/// Shows an empty directory in the place of its first argument.
const HIDE: &str = r#"mount -t tmpfs none "$1"; shift 2; exec "$@""#;

/// A fixture with the directories `pool` and `other`, and a disk `x.img` in each.
pub(crate) struct Scenario {
    pub(crate) fixture: Fixture,
    uid: u32,
    count: AtomicU32,
}

impl Scenario {
    /// In a fixture of the system's service.
    pub(crate) async fn new() -> Scenario {
        Scenario::of(Fixture::builder().start().await, ROOT)
    }

    /// Creates the scenario in this fixture, with disks of a user.
    pub(crate) fn of(fixture: Fixture, uid: u32) -> Scenario {
        let scenario = Scenario { fixture, uid, count: AtomicU32::new(0) };
        for directory in ["pool", "other"] {
            fs::create_dir(scenario.path(directory)).unwrap();
            let Account { uid, gid } = Account::of(uid);
            std::os::unix::fs::chown(scenario.path(directory), Some(uid), Some(gid)).unwrap();
            scenario.fixture.raw_of(uid, &format!("{directory}/x.img"));
        }
        scenario
    }

    /// A path in the fixture.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.fixture.dir().join(name)
    }

    /// The disk whose name callers elsewhere use.
    pub(crate) fn disk(&self) -> PathBuf {
        self.path("pool/x.img")
    }

    /// The disk that they see by it.
    pub(crate) fn other(&self) -> PathBuf {
        self.path("other/x.img")
    }

    /// A command that executes its arguments where `pool` shows `other`.
    pub(crate) fn swapped(&self) -> Vec<String> {
        self.entering(BIND, &self.path("other"))
    }

    /// Returns a prefix for commands that see another directory in the place of an irrelevant one.
    pub(crate) fn beside(&self) -> Vec<String> {
        let mut words = self.entering(BIND, &self.path("other"));
        // The first of the script's arguments is where it mounts.
        let at = words.len() - 2;
        words[at] = self.path("bus").display().to_string();
        let from = words.len() - 1;
        words[from] = self.path("bus").display().to_string();
        words
    }

    /// Returns a prefix for commands that see an empty `pool`.
    pub(crate) fn hidden(&self) -> Vec<String> {
        self.entering(HIDE, &self.path("other"))
    }

    fn entering(&self, script: &str, from: &Path) -> Vec<String> {
        let user: &[&str] = if self.uid == ROOT { &[] } else { &["--map-root-user"] };
        let shell = ["--", "sh", "-euc", script, "sh"];
        let words = ["unshare", "--mount"].iter().chain(user).chain(&shell);
        let at = self.path("pool").display().to_string();
        let words = words.map(|word| (*word).to_owned());
        words.chain([at, from.display().to_string()]).collect()
    }

    /// Runs `vmlockctl` behind such a command.
    pub(crate) async fn vmlockctl(&self, behind: &[String], words: &[&str]) -> CommandOutput {
        run(self.command(behind, words)).await
    }

    /// Returns such a command, which is not started.
    pub(crate) fn command(&self, behind: &[String], words: &[&str]) -> Command {
        let mut command = self.fixture.command_as(self.uid, &behind[0]);
        command.args(&behind[1..]).arg(crate::fixture::program("vmlockctl")).args(words);
        command
    }

    fn connector(
        &self,
        behind: &[String],
        socket: &Path,
    ) -> (Connector, std::os::unix::net::UnixStream) {
        let account = (self.uid != ROOT).then(|| Account::of(self.uid));
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let log = self.path(&format!("connector{count}.log"));
        Connector::start(behind, account, socket, &log)
    }

    /// A connection to the bus of a process behind such a command.
    pub(crate) async fn bus(&self, behind: &[String]) -> (Connector, Connection) {
        let (connector, stream) = self.connector(behind, &self.path("bus/socket"));
        let builder = zbus::connection::Builder::unix_stream(stream).user_id(self.uid);
        (connector, within("an answer to Hello", builder.build()).await.unwrap())
    }

    /// A connection to virtlockd's socket of a process behind such a command.
    pub(crate) fn rpc(&self, behind: &[String]) -> (Connector, Rpc) {
        let (connector, stream) = self.connector(behind, &self.path("virtlockd-sock"));
        (connector, Rpc::on(stream))
    }
}

/// Whether no lock is on a disk.
pub(crate) fn is_free(disk: &Path) -> bool {
    match ForeignHolder::try_once(disk, LockType::Ofd, true) {
        Ok(()) => true,
        Err(Errno::EAGAIN) => false,
        Err(errno) => panic!("{}: {errno}", disk.display()),
    }
}
