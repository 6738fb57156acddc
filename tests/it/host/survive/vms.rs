//! Two machines that hold disks.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use serde_json::Value;
use vmlockd::client::LockReleasedStream;
use zbus::Connection;

use crate::dbus_client::{exclusive, lock, manager, owner, shared};
use crate::fixture::{ForeignHolder, LockProber, LockType, Tool, within};
use crate::nspawn::Host;

/// A program that says its process number and then lives until its input ends.
pub(super) const LIVES: [&str; 3] = ["sh", "-c", "echo $$; exec cat"];

/// `web1` lives by a lifeline and `web2` by its process; they share a disk.
pub(super) struct TestVms<'h> {
    host: &'h Host,
    /// A disk of web1's, one of both, one of web2's.
    disks: [PathBuf; 3],
    /// A disk that web2 has given back.
    left: PathBuf,
    web1: Tool,
    web1_pid: u32,
    web2: Tool,
    web2_pid: u32,
}

impl<'h> TestVms<'h> {
    /// Starts both; they hold their disks when this returns.
    pub(super) async fn begin(host: &'h Host) -> Self {
        let disks = ["web1.img", "both.img", "web2.img"].map(|name| host.image(name));
        let left = host.image("left.img");
        let [own, both, other] = disks.each_ref().map(|disk| disk.to_str().unwrap());
        let (both_shared, line) =
            (format!("{both}:shared"), ["vmlockctl", "run", "--name", "web1"]);
        let line = [&line, &["--disk", own, "--disk", &both_shared, "--"][..], &LIVES].concat();
        let mut web1 = host.spawn(&line);
        let web1_pid = web1.line().await.parse().unwrap();
        let mut web2 = host.spawn(&LIVES);
        let web2_pid = web2.line().await.parse().unwrap();

        let bus = host.bus().await;
        let path = manager(&bus).await.register_owner("", "web2", web2_pid, HashMap::new()).await;
        let web2_owner = owner(&bus, path.unwrap()).await;
        // Earlier changes of its locks must not be undone by the event.
        let wanted = [shared(Path::new(other)), shared(Path::new(both)), exclusive(&left)];
        let locks = web2_owner.acquire(&wanted, HashMap::new()).await.unwrap();
        lock(&bus, &locks[0]).await.convert("exclusive", HashMap::new()).await.unwrap();
        web2_owner.release(&locks[2..], HashMap::new()).await.unwrap();
        Self { host, disks, left, web1, web1_pid, web2, web2_pid }
    }

    /// All that the service tells about owners and locks, once it has looked at all of them.
    pub(super) async fn known(&self) -> (Value, Value) {
        let owners = self.host.json(&["vmlockctl", "--json", "owners"]).await;
        let looking = async {
            loop {
                let locks = self.host.json(&["vmlockctl", "--json", "list"]).await;
                if locks.as_array().unwrap().iter().all(|lock| lock["verified"] == true) {
                    return locks;
                }
            }
        };
        (owners, within("all locks verified", looking).await)
    }

    /// Sets an prober on all files that are locked.
    pub(super) async fn lock_prober(&self) -> LockProber {
        let bus = self.host.bus().await;
        let mut files = Vec::new();
        for path in manager(&bus).await.list_locks(HashMap::new()).await.unwrap() {
            let path = path["lock"].try_clone().unwrap().try_into().unwrap();
            files.push(self.host.at(lock(&bus, &path).await.lock_file().await.unwrap()));
        }
        assert_eq!(files.len(), 4);
        files.sort();
        files.dedup();
        LockProber::at(&files, &self.host.log())
    }

    /// Checks that a third VM gets none of the disks, and is told their holders. Released disks are
    /// free.
    pub(super) async fn keep_others_out(&self) {
        let [own, both, other] = &self.disks;
        let (web1, web2) = (("web1", self.web1_pid), ("web2", self.web2_pid));
        for (disk, holders) in [(own, vec![web1]), (both, vec![web1, web2]), (other, vec![web2])] {
            let disk = disk.to_str().unwrap();
            let ran = self.host.run(&["vmlockctl", "run", "--disk", disk, "--", "true"]).await;
            assert_eq!(ran.status.code(), Some(75), "{ran:?}");
            for (name, pid) in holders {
                assert!(ran.stderr.contains(name), "not {name}, but {ran:?}");
                assert!(ran.stderr.contains(&format!("pid {pid},")), "not {pid}, but {ran:?}");
            }
        }
        ForeignHolder::try_once(self.host.at(&self.left), LockType::Ofd, true).unwrap();
    }

    /// Ends both, one after the other: what one holds is released, and no more than that.
    pub(super) async fn end_and_leave_nothing(mut self) {
        let bus = self.host.bus().await;
        let manager = manager(&bus).await;
        let mut releases = Releases::follow(&bus).await;
        let [own, both, other] = &self.disks;
        releases.at_the_end_of(&mut self.web1, &[own, both]).await;
        let left = manager.list_locks(HashMap::new()).await.unwrap();
        assert_eq!(left.len(), 2, "{left:?}");
        releases.at_the_end_of(&mut self.web2, &[both, other]).await;
        assert!(manager.list_locks(HashMap::new()).await.unwrap().is_empty());
        assert!(manager.list_owners(HashMap::new()).await.unwrap().is_empty());
        for disk in &self.disks {
            let disk = disk.to_str().unwrap();
            self.host.run(&["vmlockctl", "run", "--disk", disk, "--", "true"]).await.ok();
            for kind in [LockType::Ofd, LockType::Posix] {
                let outcome = ForeignHolder::try_once(self.host.at(disk), kind, true);
                outcome.unwrap_or_else(|errno| panic!("{disk} is still locked: {errno}"));
            }
        }
    }
}

/// The news of locks that are released.
pub(super) struct Releases(LockReleasedStream);

impl Releases {
    pub(super) async fn follow(bus: &Connection) -> Self {
        Self(manager(bus).await.receive_lock_released().await.unwrap())
    }

    /// Ends a machine, and waits until these disks are released, and no others, because it ended.
    pub(super) async fn at_the_end_of(&mut self, machine: &mut Tool, disks: &[&PathBuf]) {
        machine.end_input();
        let mut disks = disks.to_vec();
        while !disks.is_empty() {
            let told = within("a release", self.0.next()).await.unwrap();
            let told = told.args().unwrap();
            assert_eq!(told.reason(), "owner-gone");
            let place = disks.iter().position(|disk| disk.to_str() == Some(told.resource()));
            disks.remove(place.unwrap_or_else(|| panic!("{} released", told.resource())));
        }
    }
}
