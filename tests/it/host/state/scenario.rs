//! Two machines on a host, whose service is killed with something done to what it has written.

use std::fs;
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use nix::sys::signal::Signal;
use zbus::Connection;

use super::STATE;
use crate::dbus_client::{TestVm, exclusive, manager, owner, shared};
use crate::fixture::{ForeignHolder, LockProber, LockType, NameWatch, Tool, gone, pidfd, within};
use crate::methods::none;
use crate::nspawn::{Host, MainProcess, Tree};
use crate::snapshot::Listed;

/// Restarts soon however often, yet not at once: there is a time without any process.
pub(super) const RESTART: &str = "[Service]\nRestartSec=50ms\nRestartSteps=0\n";
/// A program that says its process number and then lives until its input ends.
const LIVES: [&str; 3] = ["sh", "-c", "echo $$; exec cat"];
/// The name of the owner of recovered locks.
pub(super) const RECOVERED: &str = "recovered";

/// A host with the service, and a process in it that machines live by.
pub(super) struct ServiceHost {
    pub(super) host: Host,
    pub(super) bus: Connection,
    watch: NameWatch,
    main: MainProcess,
    _process: Tool,
    pid: u32,
    disks: [PathBuf; 3],
}

/// `web1` lives by a lifeline and `web2` by its process; they share a disk.
pub(super) struct Scenario<'p> {
    service_host: &'p mut ServiceHost,
    web1: TestVm,
    before: Listed,
    lock_prober: LockProber,
}

impl ServiceHost {
    pub(super) async fn boot(config: &str) -> Option<Self> {
        let host = Host::boot(Tree::Own).await?;
        host.drop_in("restart", RESTART).await;
        fs::create_dir(host.at("/srv/locks")).unwrap();
        host.configure(config);
        let mut process = host.spawn(&LIVES);
        let pid = process.line().await.parse().unwrap();
        let main = host.enable().await;
        let (watch, bus) = (host.watch().await, host.bus().await);
        let disks = ["web1.img", "both.img", "web2.img"].map(|name| host.image(name));
        Some(Self { host, bus, watch, main, _process: process, pid, disks })
    }

    /// Kills the service after something is done to its records, which it does not notice.
    pub(super) async fn kill(&mut self, damage: impl FnOnce(&Path)) {
        self.stop(damage);
        self.main = self.host.successor(&mut self.watch, self.main).await;
    }

    /// Damages the state of a service that may not come back.
    pub(super) fn stop(&self, damage: impl FnOnce(&Path)) {
        self.main.signal(Signal::SIGSTOP);
        damage(&self.host.at(STATE));
        self.main.signal(Signal::SIGKILL);
    }

    /// Kills the service, and returns when its process has ended.
    pub(super) async fn stop_and_wait(&self) {
        let end = pidfd(self.main.outside);
        self.main.signal(Signal::SIGKILL);
        within("the end of the service", gone(end)).await;
    }

    /// systemd has tried to start it some times since.
    pub(super) async fn tried_again(&self) {
        let restarts = async || self.host.property("NRestarts").await.parse::<u32>().unwrap();
        let before = restarts().await;
        let tried = async { while restarts().await < before + 3 {} };
        within("systemd tries to start it", tried).await;
    }

    /// It comes back after all.
    pub(super) async fn came_back(&mut self) {
        self.main = self.host.successor(&mut self.watch, self.main).await;
    }
}

impl<'p> Scenario<'p> {
    /// The machines get their disks, and an prober begins.
    pub(super) async fn set_up(service_host: &'p mut ServiceHost) -> Self {
        let [own, both, other] = &service_host.disks;
        let web1 = TestVm::open(&service_host.bus, "web1").await;
        web1.acquire(&[exclusive(own), shared(both)]).await.unwrap();
        let manager = manager(&service_host.bus).await;
        let web2 = manager.register_owner("", "web2", service_host.pid, none()).await.unwrap();
        let web2 = owner(&service_host.bus, web2).await;
        web2.acquire(&[shared(both), exclusive(other)], none()).await.unwrap();
        let before = Listed::by(&service_host.bus).await;
        assert_eq!((before.owners.len(), before.locks.len()), (2, 4));
        let mut files: Vec<PathBuf> =
            before.locks.values().map(|lock| service_host.host.at(&lock["lock-file"])).collect();
        files.sort();
        files.dedup();
        let lock_prober = LockProber::at(&files, &service_host.host.log());
        Self { service_host, web1, before, lock_prober }
    }

    pub(super) fn service_host(&mut self) -> &mut ServiceHost {
        self.service_host
    }

    /// The bytes of the state file.
    pub(super) fn state(&self) -> Vec<u8> {
        fs::read(self.service_host.host.at(STATE)).unwrap()
    }

    /// Kills the service with its records damaged, then without. Checks each time that no disk is
    /// free, that all other objects are unchanged, and that `recovered` locks are recovered.
    pub(super) async fn outlives(self, what: &str, recovered: usize, damage: impl FnOnce(&Path)) {
        let Self { service_host, web1, before, lock_prober } = self;
        service_host.kill(damage).await;
        let once = Listed::by(&service_host.bus).await;
        compare(what, &before, &once, recovered);
        refuse_others(service_host, &once).await;
        service_host.kill(|_| ()).await;
        let twice = Listed::by(&service_host.bus).await;
        assert_eq!(twice, once, "{what}");
        refuse_others(service_host, &twice).await;
        let attempts = lock_prober.stop();
        assert!(attempts.news.is_empty(), "{what}: {attempts:#?}");
        attempts.were_refused();
        end(service_host, web1, &twice).await;
    }

    /// As before.
    pub(super) async fn comes_back_as_it_was(self) {
        let Self { service_host, web1, before, lock_prober } = self;
        let after = Listed::by(&service_host.bus).await;
        assert_eq!(after, before);
        refuse_others(service_host, &after).await;
        lock_prober.stop().were_refused();
        end(service_host, web1, &after).await;
    }
}

fn compare(what: &str, before: &Listed, after: &Listed, recovered: usize) {
    assert_eq!(after.locks.len(), before.locks.len(), "{what}: {:#?}", after.locks);
    let mut count = 0;
    for (number, lock) in &after.locks {
        let was = &before.locks[number];
        if lock["name"] == RECOVERED {
            count += 1;
            assert_eq!((&lock["lock-file"], &lock["mode"]), (&was["lock-file"], &was["mode"]));
        } else {
            assert_eq!(lock, was, "{what}");
        }
    }
    assert_eq!(count, recovered, "{what}: {:#?}", after.locks);
    for (path, owner) in &after.owners {
        match before.owners.get(path) {
            // It may have less than it had.
            Some(was) if owner["name"] != RECOVERED => {
                assert_eq!(owner["anchors"], was["anchors"], "{what}");
                assert_eq!(owner["since-usec"], was["since-usec"], "{what}");
            }
            _ => assert_eq!(owner["name"], RECOVERED, "{what}"),
        }
    }
}

/// Another machine gets no disk, and is told who has it, as far as that is known.
async fn refuse_others(service_host: &ServiceHost, listed: &Listed) {
    let other = TestVm::open(&service_host.bus, "other").await;
    for disk in &service_host.disks {
        let refused = other.acquire(&[exclusive(disk)]).await.unwrap_err();
        let names: Vec<&str> =
            listed.on(disk.to_str().unwrap()).map(|lock| &*lock["name"]).collect();
        if names.is_empty() {
            // A lock file with a hashed name tells nothing about the disk.
            assert_eq!(refused.name, "LockHeldElsewhere", "{}", refused.message);
        } else {
            assert_eq!(refused.name, "LockHeld", "{}", refused.message);
        }
        for name in names {
            assert!(refused.message.contains(name), "not {name}, but {}", refused.message);
        }
    }
    other.owner.close(none()).await.unwrap();
}

/// Ends all there is; nothing stays locked.
async fn end(service_host: &ServiceHost, web1: TestVm, listed: &Listed) {
    let mut released = manager(&service_host.bus).await.receive_lock_released().await.unwrap();
    drop(web1);
    // Its lifeline is watched still, whatever is known of its locks.
    for _ in listed.locks.values().filter(|lock| lock["name"] == "web1") {
        let told = within("a release", released.next()).await.unwrap();
        assert_eq!(told.args().unwrap().reason(), "owner-gone");
    }
    for path in Listed::by(&service_host.bus).await.owners.into_keys() {
        let path = zbus::OwnedObjectPath::try_from(path).unwrap();
        match owner(&service_host.bus, path).await.close(none()).await {
            // web1's own, which ends by itself.
            Ok(()) | Err(zbus::Error::FDO(_) | zbus::Error::MethodError(..)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    let left = Listed::by(&service_host.bus).await;
    assert!(left.owners.is_empty() && left.locks.is_empty(), "{left:#?}");
    for lock in listed.locks.values() {
        let file = service_host.host.at(&lock["lock-file"]);
        if file.exists() {
            let free = ForeignHolder::try_once(&file, LockType::Ofd, true);
            free.unwrap_or_else(|errno| panic!("{} stays locked: {errno}", file.display()));
        }
    }
}
