//! The script for `/etc/init.d`, on a host without systemd and without a message bus.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::Command;

use crate::fixture::rpc::{Owner, Rpc};
use crate::fixture::{CommandOutput, Connector, LockProber, Process, program, run, within};
use crate::refused_requests::assert_free;

/// Makes what the script writes to the test's own, tells its process number as others see it, and
/// stays, as the process with which all others end.
const WORLD: &str = r#"
    read -r number _ </proc/self/stat
    mount -t proc proc /proc
    for place in /run /var/log /etc/default; do
        [ ! -d "$place" ] || mount -t tmpfs -o mode=755 tmpfs "$place"
    done
    echo "$number" >"$1"
    echo ready
    sleep infinity &
    wait
"#;

/// The message of the service when it is replaced.
const REPLACED: &str = "is re-executing the installed program";

/// A host of its own, as far as the script can see.
struct Harness {
    // In this order: the directory goes last.
    first: u32,
    _process: Process,
    script: PathBuf,
    dir: TempDir,
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("init").join(name)
}

impl Harness {
    async fn begin() -> Harness {
        let dir = tempfile::tempdir().unwrap();
        let number = dir.path().join("number");
        let mut command = std::process::Command::new("setpriv");
        command.args(["--pdeathsig=KILL", "--", "unshare", "--mount", "--propagation=private"]);
        command.args(["--pid", "--fork", "--kill-child", "--", "sh", "-euc", WORLD, "world"]);
        command.arg(&number).stdin(Stdio::null()).stdout(Stdio::piped());
        let process = Process::start("a world", command, &dir.path().join("world.log"));
        process.first_output().await;
        let first = fs::read_to_string(number).unwrap().trim().parse().unwrap();

        let installed = program("vmlockd");
        let installed = installed.parent().unwrap().to_str().unwrap();
        let text = fs::read_to_string(source("vmlockd.lsb.in")).unwrap();
        let script = dir.path().join("vmlockd");
        let text = text.replace("@sbindir@", installed).replace("@bindir@", installed);
        fs::write(&script, text).unwrap();
        Harness { first, _process: process, script, dir }
    }

    /// Runs a program there.
    async fn run(&self, line: &[&str]) -> CommandOutput {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--pid", "--target", &self.first.to_string(), "--"]).args(line);
        run(command).await
    }

    async fn script(&self, word: &str) -> CommandOutput {
        self.run(&["sh", self.script.to_str().unwrap(), word]).await
    }

    async fn status(&self) -> Option<i32> {
        self.script("status").await.status.code()
    }

    /// Where one of its files is.
    fn at(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root{path}", self.first).into()
    }

    fn socket(&self) -> PathBuf {
        self.at("/run/libvirt/virtlockd-sock")
    }

    fn connect(&self) -> Rpc {
        Rpc::connect(&self.socket()).unwrap()
    }

    /// A connection of a process there, which lives as long as what comes first.
    fn connect_inside(&self) -> (Connector, Rpc) {
        let target = format!("--target={}", self.first);
        let behind = ["nsenter", &target, "--mount", "--pid", "--"];
        let socket = Path::new("/run/libvirt/virtlockd-sock");
        let log = self.dir.path().join("connector.log");
        let (process, stream) = Connector::start(&behind, None, socket, &log);
        (process, Rpc::on(stream))
    }

    /// The service's process, as it is numbered there.
    fn service(&self) -> String {
        fs::read_to_string(self.at("/run/vmlockd/lock")).unwrap().trim().to_owned()
    }

    /// How often the service has said something.
    fn occurrences(&self, words: &str) -> usize {
        fs::read_to_string(self.at("/var/log/vmlockd.log")).unwrap().matches(words).count()
    }

    /// Asks the script for something, and waits until the service says that it has done it.
    async fn does(&self, word: &str, words: &str) {
        let before = self.occurrences(words);
        self.script(word).await.ok();
        let done = async {
            while self.occurrences(words) == before {
                // A client that connects in between may be rejected.
                drop(self.connect().ping());
                tokio::task::yield_now().await;
            }
        };
        within(words, done).await;
    }

    /// The disk is locked, by this machine.
    fn is_refused(&self, disk: &Path, holder: &str) {
        let (_process, mut foreign_holder) = self.connect_inside();
        foreign_holder.register(&Owner::new("web9", 99, 1)).granted();
        let refusal = foreign_holder.acquire("", disk.to_str().unwrap(), 0).refused();
        assert_eq!(refusal.code, 87, "{}", refusal.message);
        assert!(refusal.message.contains(&format!("\"{holder}\"")), "{}", refusal.message);
    }
}

#[tokio::test]
async fn the_script_unlocks_disks_only_at_stop() {
    let harness = Harness::begin().await;
    let disk = harness.dir.path().join("disk");
    fs::write(&disk, "disk").unwrap();
    assert_eq!(harness.status().await, Some(3));
    harness.script("start").await.ok();
    assert_eq!(harness.status().await, Some(0));
    let service = harness.service();

    let (_libvirtd, mut libvirtd) = harness.connect_inside();
    // The machine: the world's first process.
    libvirtd.register(&Owner::new("web1", 1, 1)).granted();
    libvirtd.acquire("", disk.to_str().unwrap(), 0).granted();
    drop(libvirtd);
    let log = harness.dir.path().join("prober.log");
    let lock_prober = LockProber::at(std::slice::from_ref(&disk), &log);
    harness.script("start").await.ok();
    harness.does("reexec", REPLACED).await;
    harness.does("restart", REPLACED).await;
    harness.does("try-restart", REPLACED).await;
    harness.does("reload", "reloaded the configuration").await;
    harness.does("force-reload", "reloaded the configuration").await;
    harness.is_refused(&disk, "web1");
    lock_prober.stop().were_refused();
    assert_eq!((harness.service(), harness.status().await), (service, Some(0)));

    let stopped = harness.script("stop").await;
    assert!(stopped.stderr.contains("are free until it is started again"), "{stopped:?}");
    stopped.ok();
    assert_free(&disk);
    assert!(!harness.socket().exists());
    for (word, code) in [("status", 3), ("stop", 0), ("reload", 7), ("reexec", 7)] {
        assert_eq!(harness.script(word).await.status.code(), Some(code), "{word}");
    }
    harness.script("start").await.ok();
    // The machine still lives.
    harness.is_refused(&disk, "web1");
}

#[tokio::test]
async fn the_script_reports_the_state_of_the_service() {
    let harness = Harness::begin().await;
    harness.script("start").await.ok();
    harness.run(&["kill", "-KILL", &harness.service()]).await.ok();
    let ended = async { while harness.status().await == Some(0) {} };
    within("it is killed", ended).await;
    assert_eq!(harness.status().await, Some(1));
    // Its leftover files are not taken for a running service.
    harness.script("start").await.ok();
    harness.connect().ping().granted();
    harness.script("stop").await.ok();

    let _virtlockd = UnixListener::bind(harness.socket()).unwrap();
    let complaint = harness.script("start").await.refused();
    assert!(complaint.contains("another program serves it"), "{complaint}");
    assert_eq!(harness.status().await, Some(3));
    harness.script("nonsense").await.refused();
}

#[tokio::test]
async fn both_scripts_are_shell() {
    for name in ["vmlockd.lsb.in", "vmlockd.openrc.in"] {
        let mut command = Command::new("sh");
        command.arg("-n").arg(source(name));
        run(command).await.ok();
    }
}
