//! Disks on a file system that does not answer any more.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::guests::{LIVES, Releases};
use super::host;
use crate::host::{Host, Main, Tree, skip};
use crate::house::{Intruder, Tool, gone, pidfd, within};

const MOUNTED: &str = "/srv/mounted";

/// A machine that has one disk on a file system whose server is a process, and one elsewhere.
struct Scene {
    host: Host,
    service: Main,
    /// Serves what is mounted.
    server: Main,
    far: PathBuf,
    near: PathBuf,
    machine: Tool,
    /// What the service told about the locks.
    known: Value,
    /// At the disk that can be reached all the time.
    intruder: Intruder,
}

impl Scene {
    async fn set() -> Option<Self> {
        if !Path::new("/dev/fuse").exists() {
            return skip("there is no /dev/fuse here");
        }
        let host = host(Tree::Own).await?;
        if !host.at("/usr/bin/bindfs").exists() {
            return skip("bindfs is not installed here");
        }
        let service = host.enable().await;
        let near = host.image("near.img");
        let behind = host.image("far.img");
        let far = Path::new(MOUNTED).join(behind.file_name().unwrap());
        fs::create_dir(host.at(MOUNTED)).unwrap();
        host.run(&["mknod", "/dev/fuse", "c", "10", "229"]).await.ok();
        // It goes into the background when it has mounted.
        let line = ["bindfs", behind.parent().unwrap().to_str().unwrap(), MOUNTED];
        let server = host.start("server", "forking", &line).await;

        let [far_disk, near_disk] = [&far, &near].map(|disk| disk.to_str().unwrap());
        let line = ["vmlockctl", "run", "--disk", far_disk, "--disk", near_disk, "--"];
        let mut machine = host.spawn(&[&line[..], &LIVES].concat());
        machine.line().await;
        let known = host.json(&["vmlockctl", "--json", "list"]).await;
        assert_eq!(known.as_array().unwrap().len(), 2);
        let intruder = Intruder::at(&[host.at(&near)], &host.log());
        Some(Self { host, service, server, far, near, machine, known, intruder })
    }

    /// The service that came after knows both locks, and gives them up when the machine ends.
    async fn goes_on_as_before(mut self) {
        let known = self.host.json(&["vmlockctl", "--json", "list"]).await;
        self.intruder.stop().were_refused();
        assert_eq!(but_for_looks(known), but_for_looks(self.known));
        let near = self.near.to_str().unwrap();
        let ran = self.host.run(&["vmlockctl", "run", "--disk", near, "--", "true"]).await;
        assert_eq!(ran.status.code(), Some(75), "{ran:?}");
        let mut releases = Releases::follow(&self.host.bus().await).await;
        releases.at_the_end_of(&mut self.machine, &[&self.near, &self.far]).await;
        self.host.run(&["vmlockctl", "run", "--disk", near, "--", "true"]).await.ok();
    }
}

#[tokio::test]
async fn locks_outlive_a_kill_where_a_file_system_is_dead() {
    let Some(scene) = Scene::set().await else { return };
    let server = pidfd(scene.server.outside);
    scene.server.signal(Signal::SIGKILL);
    within("the server's end", gone(server)).await;
    fs::metadata(scene.host.at(&scene.far)).unwrap_err();

    let mut watch = scene.host.watch().await;
    scene.service.signal(Signal::SIGKILL);
    scene.host.successor(&mut watch, scene.service).await;
    scene.goes_on_as_before().await;
}

/// What is told of locks, but for whether somebody has looked at them since: where a file system
/// does not answer nobody can.
fn but_for_looks(mut locks: Value) -> Value {
    for lock in locks.as_array_mut().unwrap() {
        lock.as_object_mut().unwrap().remove("verified").unwrap();
    }
    locks
}

/// Who closes a file there waits for its server, and can't even be killed. So the service must have
/// none open: neither the one that is killed, nor the one that comes after and is killed too.
#[tokio::test]
async fn locks_outlive_a_kill_where_a_file_system_hangs() {
    let Some(scene) = Scene::set().await else { return };
    let mut watch = scene.host.watch().await;
    scene.server.signal(Signal::SIGSTOP);
    scene.service.signal(Signal::SIGKILL);
    let second = scene.host.successor(&mut watch, scene.service).await;
    let known = scene.host.json(&["vmlockctl", "--json", "list"]).await;
    assert_eq!(but_for_looks(known), but_for_looks(scene.known.clone()));
    second.signal(Signal::SIGKILL);
    scene.host.successor(&mut watch, second).await;
    scene.server.signal(Signal::SIGCONT);
    scene.goes_on_as_before().await;
}
