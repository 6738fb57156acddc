//! The script for `/etc/init.d`, on a host without systemd and without a message bus.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::Command;

use crate::house::rpc::{Owner, Rpc};
use crate::house::{Connector, Intruder, Process, Ran, program, run, within};
use crate::untouched::assert_free;

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

/// What the service says when it has been replaced.
const REPLACED: &str = "is re-executing the installed program";

/// A host of its own, as far as the script can see.
struct World {
    // In this order: the directory goes last.
    first: u32,
    _process: Process,
    script: PathBuf,
    dir: TempDir,
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("init").join(name)
}

impl World {
    async fn begin() -> World {
        let dir = tempfile::tempdir().unwrap();
        let number = dir.path().join("number");
        let mut command = std::process::Command::new("setpriv");
        command.args(["--pdeathsig=KILL", "--", "unshare", "--mount", "--propagation=private"]);
        command.args(["--pid", "--fork", "--kill-child", "--", "sh", "-euc", WORLD, "world"]);
        command.arg(&number).stdin(Stdio::null()).stdout(Stdio::piped());
        let process = Process::start("a world", command, &dir.path().join("world.log"));
        process.says_something().await;
        let first = fs::read_to_string(number).unwrap().trim().parse().unwrap();

        let installed = program("vmlockd");
        let installed = installed.parent().unwrap().to_str().unwrap();
        let text = fs::read_to_string(source("vmlockd.lsb.in")).unwrap();
        let script = dir.path().join("vmlockd");
        let text = text.replace("@sbindir@", installed).replace("@bindir@", installed);
        fs::write(&script, text).unwrap();
        World { first, _process: process, script, dir }
    }

    /// Runs a program there.
    async fn run(&self, line: &[&str]) -> Ran {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--pid", "--target", &self.first.to_string(), "--"]).args(line);
        run(command).await
    }

    async fn script(&self, word: &str) -> Ran {
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
    fn said(&self, words: &str) -> usize {
        fs::read_to_string(self.at("/var/log/vmlockd.log")).unwrap().matches(words).count()
    }

    /// Asks the script for something, and waits until the service says that it has done it.
    async fn does(&self, word: &str, words: &str) {
        let before = self.said(words);
        self.script(word).await.ok();
        let done = async {
            while self.said(words) == before {
                // Who comes in between may be sent away.
                drop(self.connect().ping());
                tokio::task::yield_now().await;
            }
        };
        within(words, done).await;
    }

    /// The disk is locked, by this machine.
    fn is_refused(&self, disk: &Path, holder: &str) {
        let (_process, mut rival) = self.connect_inside();
        rival.register(&Owner::new("rival", 99, 1)).granted();
        let refusal = rival.acquire("", disk.to_str().unwrap(), 0).refused();
        assert_eq!(refusal.code, 87, "{}", refusal.message);
        assert!(refusal.message.contains(&format!("\"{holder}\"")), "{}", refusal.message);
    }
}

#[tokio::test]
async fn the_script_frees_disks_only_when_told_to_stop() {
    let world = World::begin().await;
    let disk = world.dir.path().join("disk");
    fs::write(&disk, "disk").unwrap();
    assert_eq!(world.status().await, Some(3));
    world.script("start").await.ok();
    assert_eq!(world.status().await, Some(0));
    let service = world.service();

    let (_libvirtd, mut libvirtd) = world.connect_inside();
    // The machine: the world's first process.
    libvirtd.register(&Owner::new("web1", 1, 1)).granted();
    libvirtd.acquire("", disk.to_str().unwrap(), 0).granted();
    drop(libvirtd);
    let log = world.dir.path().join("intruder.log");
    let intruder = Intruder::at(std::slice::from_ref(&disk), &log);
    world.script("start").await.ok();
    world.does("reexec", REPLACED).await;
    world.does("restart", REPLACED).await;
    world.does("try-restart", REPLACED).await;
    world.does("reload", "reloaded the configuration").await;
    world.does("force-reload", "reloaded the configuration").await;
    world.is_refused(&disk, "web1");
    intruder.stop().were_refused();
    assert_eq!((world.service(), world.status().await), (service, Some(0)));

    let stopped = world.script("stop").await;
    assert!(stopped.stderr.contains("are free until it is started again"), "{stopped:?}");
    stopped.ok();
    assert_free(&disk);
    assert!(!world.socket().exists());
    for (word, code) in [("status", 3), ("stop", 0), ("reload", 7), ("reexec", 7)] {
        assert_eq!(world.script(word).await.status.code(), Some(code), "{word}");
    }
    world.script("start").await.ok();
    // The machine still lives.
    world.is_refused(&disk, "web1");
}

#[tokio::test]
async fn the_script_tells_what_has_become_of_the_service() {
    let world = World::begin().await;
    world.script("start").await.ok();
    world.run(&["kill", "-KILL", &world.service()]).await.ok();
    let ended = async { while world.status().await == Some(0) {} };
    within("it is killed", ended).await;
    assert_eq!(world.status().await, Some(1));
    // What it left behind is not taken for what is there.
    world.script("start").await.ok();
    world.connect().ping().granted();
    world.script("stop").await.ok();

    let _virtlockd = UnixListener::bind(world.socket()).unwrap();
    let complaint = world.script("start").await.refused();
    assert!(complaint.contains("another program serves it"), "{complaint}");
    assert_eq!(world.status().await, Some(3));
    world.script("nonsense").await.refused();
}

#[tokio::test]
async fn both_scripts_are_shell() {
    for name in ["vmlockd.lsb.in", "vmlockd.openrc.in"] {
        let mut command = Command::new("sh");
        command.arg("-n").arg(source(name));
        run(command).await.ok();
    }
}
