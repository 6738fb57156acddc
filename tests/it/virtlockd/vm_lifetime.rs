//! How long a machine keeps its disks: as long as its own connection is open anywhere, or its
//! process lives.

use std::path::PathBuf;

use zbus::Connection;

use crate::fixture::rpc::{Answer, Owner, Rpc, SHARED};
use crate::fixture::{Fixture, ForeignHolder, LockType, within};
use crate::refused_requests::assert_free;
use crate::snapshot::{Entry, Listed};

use super::checker::fixture;
use super::guest::{Guest, end};
use super::many_clients::sleep;

struct Scenario {
    fixture: Fixture,
    bus: Connection,
    path: PathBuf,
    disk: String,
}

impl Scenario {
    async fn set_up() -> Scenario {
        let fixture = fixture().await;
        let bus = fixture.connection().await;
        let path = fixture.raw_of(0, "disk");
        let disk = path.to_str().unwrap().to_owned();
        Scenario { fixture, bus, path, disk }
    }

    /// A connection in somebody's name, as libvirtd has it for each of its commands.
    fn libvirtd(&self, owner: &Owner) -> Rpc {
        let mut rpc = Rpc::connect(&self.fixture.dir().join("virtlockd-sock")).unwrap();
        rpc.register(owner).granted();
        rpc
    }

    /// libvirtd locks the disk for a machine, and hangs up.
    fn lock_for(&self, owner: &Owner) {
        self.libvirtd(owner).acquire("", &self.disk, 0).granted();
    }

    /// The disk stays locked whatever the service has learned by now.
    async fn stays_locked(&self) {
        let owner = Owner::new("passer-by", 99, 1);
        for _ in 0..3 {
            Rpc::connect(&self.fixture.dir().join("virtlockd-sock")).unwrap().ping().granted();
            assert_eq!(Listed::by(&self.bus).await.on(&self.disk).count(), 1);
            let refused = self.libvirtd(&owner).acquire("", &self.disk, 0).refused();
            assert_eq!(refused.code, 87, "{}", refused.message);
        }
        ForeignHolder::try_once(&self.path, LockType::Posix, true).unwrap_err();
    }

    /// Waits until the disk is unlocked, without a request to release it.
    async fn is_freed(&self) {
        let freed = async { while Listed::by(&self.bus).await.on(&self.disk).count() > 0 {} };
        within("the disk is given up", freed).await;
        assert_free(&self.path);
    }

    /// The owners with this UUID.
    async fn owners(&self, number: u8) -> Vec<Entry> {
        let uuid = uuid::Uuid::from_bytes([number; 16]).to_string();
        let owners = Listed::by(&self.bus).await.owners.into_values();
        owners.filter(|owner| owner["uuid"] == uuid).collect()
    }
}

#[tokio::test]
async fn a_vm_that_ends_unlocks_its_disks() {
    let scenario = Scenario::set_up().await;
    let mut guest = Guest::beside(&scenario.fixture).await;
    let owner = guest.come_up("web1", 1).await;
    scenario.lock_for(&owner);
    scenario.stays_locked().await;
    let [listed] = scenario.owners(1).await.try_into().unwrap();
    assert_eq!(listed["name"], "web1");
    assert!(listed["pid"].contains(&guest.pid.to_string()), "{listed:?}");
    guest.is_killed().await;
    scenario.is_freed().await;
    let gone = async { while !scenario.owners(1).await.is_empty() {} };
    within("the owner is gone", gone).await;
}

#[tokio::test]
async fn a_vm_may_lock_for_itself() {
    let scenario = Scenario::set_up().await;
    let mut guest = Guest::beside(&scenario.fixture).await;
    guest.register(&guest.owner("web1", 1)).await.granted();
    guest.acquire(&scenario.disk, 0).await.granted();
    scenario.stays_locked().await;
    guest.release(&scenario.disk).await.granted();
    assert_free(&scenario.path);
    guest.acquire(&scenario.disk, 0).await.granted();
    guest.is_killed().await;
    scenario.is_freed().await;
}

/// virtlockd kills such a machine.
#[tokio::test]
async fn a_vm_that_closes_its_connection_keeps_its_disks() {
    let scenario = Scenario::set_up().await;
    let mut guest = Guest::beside(&scenario.fixture).await;
    let owner = guest.come_up("web1", 1).await;
    scenario.lock_for(&owner);
    guest.close().await;
    scenario.stays_locked().await;
    // It is still there to be commanded.
    let mut libvirtd = scenario.libvirtd(&owner);
    libvirtd.release("", &scenario.disk, 0).granted();
    assert_free(&scenario.path);
    libvirtd.acquire("", &scenario.disk, 0).granted();
    drop(libvirtd);
    guest.is_killed().await;
    scenario.is_freed().await;
}

#[tokio::test]
async fn a_child_of_a_vm_keeps_its_disks() {
    let scenario = Scenario::set_up().await;
    let mut guest = Guest::beside(&scenario.fixture).await;
    let owner = guest.come_up("web1", 1).await;
    scenario.lock_for(&owner);
    let child = guest.bear().await;
    guest.is_killed().await;
    scenario.stays_locked().await;
    // Not even its number is there any more.
    drop(guest);
    scenario.stays_locked().await;
    end(child).await;
    scenario.is_freed().await;
}

#[tokio::test]
async fn a_process_named_as_owner_keeps_its_disks_until_it_ends() {
    let scenario = Scenario::set_up().await;
    let process = sleep(&scenario.fixture);
    let owner = Owner::new("web1", 1, process.pid());
    let mut first = scenario.libvirtd(&owner);
    let second = scenario.libvirtd(&owner);
    first.acquire("", &scenario.disk, 0).granted();
    drop(first);
    scenario.stays_locked().await;
    drop(second);
    scenario.stays_locked().await;
    drop(process);
    scenario.is_freed().await;
}

/// The client is not the process that it names: its own end has no effect.
#[tokio::test]
async fn a_client_that_names_an_owner_does_not_keep_it_alive() {
    let scenario = Scenario::set_up().await;
    let process = sleep(&scenario.fixture);
    let mut libvirtd = scenario.libvirtd(&Owner::new("web1", 1, process.pid()));
    libvirtd.acquire("", &scenario.disk, 0).granted();
    drop(process);
    scenario.is_freed().await;
    let refused = libvirtd.acquire("", &scenario.disk, 0).refused();
    assert_eq!(refused.code, 55, "{}", refused.message);
    assert!(refused.message.contains("process"), "{}", refused.message);
    libvirtd.ping().granted();
}

#[tokio::test]
async fn a_disk_shared_twice_is_held_until_the_second_release() {
    let scenario = Scenario::set_up().await;
    let process = sleep(&scenario.fixture);
    let owner = Owner::new("web1", 1, process.pid());
    let mut first = scenario.libvirtd(&owner);
    first.acquire("", &scenario.disk, SHARED).granted();
    scenario.libvirtd(&owner).acquire("", &scenario.disk, SHARED).granted();
    first.release("", &scenario.disk, 0).granted();
    ForeignHolder::try_once(&scenario.path, LockType::Posix, true).unwrap_err();
    ForeignHolder::try_once(&scenario.path, LockType::Posix, false).unwrap();
    scenario.libvirtd(&owner).release("", &scenario.disk, 0).granted();
    assert_free(&scenario.path);
    let refused = first.release("", &scenario.disk, 0).refused();
    assert_eq!(refused.code, 87, "{}", refused.message);
}

/// A VM is destroyed and started again. Its former locks end with its process, whether or not its
/// end has been noticed.
#[tokio::test]
async fn a_restarted_vm_gets_its_disks() {
    let scenario = Scenario::set_up().await;
    for _ in 0..20 {
        let mut old = Guest::beside(&scenario.fixture).await;
        let owner = old.come_up("web1", 1).await;
        scenario.lock_for(&owner);
        let mut new = Guest::beside(&scenario.fixture).await;
        // It is a zombie now, as its parent has not reaped it.
        old.is_killed().await;
        let owner = new.come_up("web1", 1).await;
        scenario.lock_for(&owner);
        scenario.stays_locked().await;
        let [listed] = scenario.owners(1).await.try_into().unwrap();
        assert!(listed["pid"].contains(&new.pid.to_string()), "{listed:?}");
        drop(old);
        scenario.stays_locked().await;
        new.is_killed().await;
    }
    scenario.is_freed().await;
}

/// A child that has its connection still is not the machine; and the one that comes is not it.
#[tokio::test]
async fn a_leftover_owner_does_not_conflict_with_its_vm() {
    let scenario = Scenario::set_up().await;
    let mut old = Guest::beside(&scenario.fixture).await;
    let owner = old.come_up("web1", 1).await;
    scenario.lock_for(&owner);
    let child = old.bear().await;
    old.is_killed().await;
    // The end of the process is known, that of the connection is not there yet.
    let known = async {
        loop {
            match scenario.owners(1).await.as_slice() {
                [owner] if owner["anchors"].contains("process") => {}
                owners => break assert_eq!(owners.len(), 1, "{owners:?}"),
            }
        }
    };
    within("the end of the process is known", known).await;
    scenario.stays_locked().await;

    let mut new = Guest::beside(&scenario.fixture).await;
    let owner = new.come_up("web1", 1).await;
    scenario.lock_for(&owner);
    scenario.stays_locked().await;
    // It has its own life, and no share in that of the other one.
    new.is_killed().await;
    scenario.is_freed().await;
    end(child).await;
}

#[tokio::test]
async fn a_living_vm_is_not_replaced_by_one_of_its_uuid() {
    let scenario = Scenario::set_up().await;
    let (mut old, mut new) =
        (Guest::beside(&scenario.fixture).await, Guest::beside(&scenario.fixture).await);
    let (first, second) = (old.come_up("web1", 1).await, new.come_up("web1", 1).await);
    scenario.lock_for(&first);
    let refused = scenario.libvirtd(&second).acquire("", &scenario.disk, 0).refused();
    let busy = format!("resource busy: Lockspace resource '{}' is locked", scenario.disk);
    assert_eq!((refused.code, refused.domain), (87, 51));
    assert!(refused.message.starts_with(&busy), "{}", refused.message);
    assert!(refused.message.contains(&format!("pid {}", old.pid)), "{}", refused.message);
    let mut pids: Vec<_> = scenario.owners(1).await.into_iter().map(|o| o["pid"].clone()).collect();
    pids.sort();
    assert_eq!(pids.len(), 2, "{pids:?}");
    assert_ne!(pids[0], pids[1]);
    // Neither releases the locks of the other.
    let refused = scenario.libvirtd(&second).release("", &scenario.disk, 0).refused();
    assert_eq!(refused.code, 1, "{}", refused.message);
    new.is_killed().await;
    scenario.stays_locked().await;
    old.is_killed().await;
    scenario.is_freed().await;
}

/// A VM on two frontends is one VM.
#[tokio::test]
async fn the_same_uuid_over_d_bus_is_the_same_vm() {
    let scenario = Scenario::set_up().await;
    let mut guest = Guest::beside(&scenario.fixture).await;
    let owner = guest.come_up("web1", 1).await;
    scenario.lock_for(&owner);
    let [listed] = scenario.owners(1).await.try_into().unwrap();
    let uuid = listed["uuid"].clone();
    let opened =
        crate::dbus_client::TestVm::open_with(&scenario.bus, &uuid, "web1", crate::methods::none());
    let refused = opened.await.unwrap_err();
    assert!(refused.name.contains("Exists"), "{refused:?}");
    assert_eq!(scenario.libvirtd(&owner).release("", &scenario.disk, 0), Answer::Granted);
}
