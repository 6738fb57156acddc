//! Disks on a file system that does not answer any more.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::host;
use super::vms::{LIVES, Releases};
use crate::fixture::{LockProber, Tool, gone, pidfd, within};
use crate::nspawn::{Host, MainProcess, Tree, skip};

const MOUNTED: &str = "/srv/mounted";

/// A machine that has one disk on a file system whose server is a process, and one elsewhere.
struct Scenario {
    host: Host,
    service: MainProcess,
    /// Serves what is mounted.
    server: MainProcess,
    remote_disk: PathBuf,
    local_disk: PathBuf,
    machine: Tool,
    /// The reported locks of the service.
    reported: Value,
    /// At the disk that can be reached all the time.
    lock_prober: LockProber,
}

impl Scenario {
    async fn set_up() -> Option<Self> {
        if !Path::new("/dev/fuse").exists() {
            return skip("there is no /dev/fuse here");
        }
        let host = host(Tree::Own).await?;
        if !host.at("/usr/bin/bindfs").exists() {
            return skip("bindfs is not installed here");
        }
        let service = host.enable().await;
        let local_disk = host.image("local_disk.img");
        let behind = host.image("remote_disk.img");
        let remote_disk = Path::new(MOUNTED).join(behind.file_name().unwrap());
        fs::create_dir(host.at(MOUNTED)).unwrap();
        host.run(&["mknod", "/dev/fuse", "c", "10", "229"]).await.ok();
        // It goes into the background when it has mounted.
        let line = ["bindfs", behind.parent().unwrap().to_str().unwrap(), MOUNTED];
        let server = host.start("server", "forking", &line).await;

        let [far_disk, near_disk] = [&remote_disk, &local_disk].map(|disk| disk.to_str().unwrap());
        let line = ["vmlockctl", "run", "--disk", far_disk, "--disk", near_disk, "--"];
        let mut machine = host.spawn(&[&line[..], &LIVES].concat());
        machine.line().await;
        let reported = host.json(&["vmlockctl", "--json", "list"]).await;
        assert_eq!(reported.as_array().unwrap().len(), 2);
        let lock_prober = LockProber::at(&[host.at(&local_disk)], &host.log());
        Some(Self {
            host,
            service,
            server,
            remote_disk,
            local_disk,
            machine,
            reported,
            lock_prober,
        })
    }

    /// The service that came after knows both locks, and gives them up when the machine ends.
    async fn goes_on_as_before(mut self) {
        let reported = self.host.json(&["vmlockctl", "--json", "list"]).await;
        self.lock_prober.stop().were_refused();
        assert_eq!(but_for_looks(reported), but_for_looks(self.reported));
        let local_disk = self.local_disk.to_str().unwrap();
        let ran = self.host.run(&["vmlockctl", "run", "--disk", local_disk, "--", "true"]).await;
        assert_eq!(ran.status.code(), Some(75), "{ran:?}");
        let mut releases = Releases::follow(&self.host.bus().await).await;
        releases.at_the_end_of(&mut self.machine, &[&self.local_disk, &self.remote_disk]).await;
        self.host.run(&["vmlockctl", "run", "--disk", local_disk, "--", "true"]).await.ok();
    }
}

#[tokio::test]
async fn locks_outlive_a_kill_where_a_file_system_is_dead() {
    let Some(scenario) = Scenario::set_up().await else { return };
    let server = pidfd(scenario.server.outside);
    scenario.server.signal(Signal::SIGKILL);
    within("the server's end", gone(server)).await;
    fs::metadata(scenario.host.at(&scenario.remote_disk)).unwrap_err();

    let mut watch = scenario.host.watch().await;
    scenario.service.signal(Signal::SIGKILL);
    scenario.host.successor(&mut watch, scenario.service).await;
    scenario.goes_on_as_before().await;
}

/// Returns the reported locks without their verification state: on a hung file system they cannot
/// be verified.
fn but_for_looks(mut locks: Value) -> Value {
    for lock in locks.as_array_mut().unwrap() {
        lock.as_object_mut().unwrap().remove("verified").unwrap();
    }
    locks
}

/// A process that closes a file there waits for its server, and cannot even be killed. So the
/// service must have none open: neither the killed one, nor the next one, which is killed too.
#[tokio::test]
async fn locks_outlive_a_kill_where_a_file_system_hangs() {
    let Some(scenario) = Scenario::set_up().await else { return };
    let mut watch = scenario.host.watch().await;
    scenario.server.signal(Signal::SIGSTOP);
    scenario.service.signal(Signal::SIGKILL);
    let second = scenario.host.successor(&mut watch, scenario.service).await;
    let reported = scenario.host.json(&["vmlockctl", "--json", "list"]).await;
    assert_eq!(but_for_looks(reported), but_for_looks(scenario.reported.clone()));
    second.signal(Signal::SIGKILL);
    scenario.host.successor(&mut watch, second).await;
    scenario.server.signal(Signal::SIGCONT);
    scenario.goes_on_as_before().await;
}
