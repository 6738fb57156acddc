//! How long a machine keeps its disks: as long as its own connection is open anywhere, or its
//! process lives.

use std::path::PathBuf;

use zbus::Connection;

use crate::house::rpc::{Answer, Owner, Rpc, SHARED};
use crate::house::{House, Kind, Rival, within};
use crate::listed::{Entry, Listed};
use crate::untouched::assert_free;

use super::crowd::sleep;
use super::guest::{Guest, end};
use super::judge::house;

struct Scene {
    house: House,
    bus: Connection,
    path: PathBuf,
    disk: String,
}

impl Scene {
    async fn set() -> Scene {
        let house = house().await;
        let bus = house.connection().await;
        let path = house.raw_of(0, "disk");
        let disk = path.to_str().unwrap().to_owned();
        Scene { house, bus, path, disk }
    }

    /// A connection in somebody's name, as libvirtd has it for each of its commands.
    fn libvirtd(&self, owner: &Owner) -> Rpc {
        let mut rpc = Rpc::connect(&self.house.dir().join("virtlockd-sock")).unwrap();
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
            Rpc::connect(&self.house.dir().join("virtlockd-sock")).unwrap().ping().granted();
            assert_eq!(Listed::by(&self.bus).await.on(&self.disk).count(), 1);
            let refused = self.libvirtd(&owner).acquire("", &self.disk, 0).refused();
            assert_eq!(refused.code, 87, "{}", refused.message);
        }
        Rival::try_once(&self.path, Kind::Posix, true).unwrap_err();
    }

    /// The disk is given up, without anybody's asking.
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
async fn a_machine_that_ends_gives_its_disks_back() {
    let scene = Scene::set().await;
    let mut guest = Guest::beside(&scene.house).await;
    let owner = guest.come_up("web1", 1).await;
    scene.lock_for(&owner);
    scene.stays_locked().await;
    let [listed] = scene.owners(1).await.try_into().unwrap();
    assert_eq!(listed["name"], "web1");
    assert!(listed["pid"].contains(&guest.pid.to_string()), "{listed:?}");
    guest.is_killed().await;
    scene.is_freed().await;
    let gone = async { while !scene.owners(1).await.is_empty() {} };
    within("the owner is gone", gone).await;
}

#[tokio::test]
async fn a_machine_may_lock_for_itself() {
    let scene = Scene::set().await;
    let mut guest = Guest::beside(&scene.house).await;
    guest.register(&guest.owner("web1", 1)).await.granted();
    guest.acquire(&scene.disk, 0).await.granted();
    scene.stays_locked().await;
    guest.release(&scene.disk).await.granted();
    assert_free(&scene.path);
    guest.acquire(&scene.disk, 0).await.granted();
    guest.is_killed().await;
    scene.is_freed().await;
}

/// virtlockd kills such a machine.
#[tokio::test]
async fn a_machine_that_hangs_up_lives_and_keeps_its_disks() {
    let scene = Scene::set().await;
    let mut guest = Guest::beside(&scene.house).await;
    let owner = guest.come_up("web1", 1).await;
    scene.lock_for(&owner);
    guest.close().await;
    scene.stays_locked().await;
    // It is still there to be commanded.
    let mut libvirtd = scene.libvirtd(&owner);
    libvirtd.release("", &scene.disk, 0).granted();
    assert_free(&scene.path);
    libvirtd.acquire("", &scene.disk, 0).granted();
    drop(libvirtd);
    guest.is_killed().await;
    scene.is_freed().await;
}

#[tokio::test]
async fn what_a_machine_has_started_keeps_its_disks() {
    let scene = Scene::set().await;
    let mut guest = Guest::beside(&scene.house).await;
    let owner = guest.come_up("web1", 1).await;
    scene.lock_for(&owner);
    let child = guest.bear().await;
    guest.is_killed().await;
    scene.stays_locked().await;
    // Not even its number is there any more.
    drop(guest);
    scene.stays_locked().await;
    end(child).await;
    scene.is_freed().await;
}

#[tokio::test]
async fn who_is_named_as_an_owner_keeps_his_disks_until_he_ends() {
    let scene = Scene::set().await;
    let process = sleep(&scene.house);
    let owner = Owner::new("web1", 1, process.pid());
    let mut first = scene.libvirtd(&owner);
    let second = scene.libvirtd(&owner);
    first.acquire("", &scene.disk, 0).granted();
    drop(first);
    scene.stays_locked().await;
    drop(second);
    scene.stays_locked().await;
    drop(process);
    scene.is_freed().await;
}

/// The one who says it is not the one who is named: his own end does not matter.
#[tokio::test]
async fn who_names_an_owner_and_stays_does_not_keep_him() {
    let scene = Scene::set().await;
    let process = sleep(&scene.house);
    let mut libvirtd = scene.libvirtd(&Owner::new("web1", 1, process.pid()));
    libvirtd.acquire("", &scene.disk, 0).granted();
    drop(process);
    scene.is_freed().await;
    let refused = libvirtd.acquire("", &scene.disk, 0).refused();
    assert_eq!(refused.code, 55, "{}", refused.message);
    assert!(refused.message.contains("process"), "{}", refused.message);
    libvirtd.ping().granted();
}

#[tokio::test]
async fn shared_twice_is_kept_until_the_second_is_given_back() {
    let scene = Scene::set().await;
    let process = sleep(&scene.house);
    let owner = Owner::new("web1", 1, process.pid());
    let mut first = scene.libvirtd(&owner);
    first.acquire("", &scene.disk, SHARED).granted();
    scene.libvirtd(&owner).acquire("", &scene.disk, SHARED).granted();
    first.release("", &scene.disk, 0).granted();
    Rival::try_once(&scene.path, Kind::Posix, true).unwrap_err();
    Rival::try_once(&scene.path, Kind::Posix, false).unwrap();
    scene.libvirtd(&owner).release("", &scene.disk, 0).granted();
    assert_free(&scene.path);
    let refused = first.release("", &scene.disk, 0).refused();
    assert_eq!(refused.code, 87, "{}", refused.message);
}

/// A machine is destroyed and started again; what was is over when its process is, whether or not
/// anybody has seen that yet.
#[tokio::test]
async fn a_machine_that_is_started_again_gets_its_disks() {
    let scene = Scene::set().await;
    for _ in 0..20 {
        let mut old = Guest::beside(&scene.house).await;
        let owner = old.come_up("web1", 1).await;
        scene.lock_for(&owner);
        let mut new = Guest::beside(&scene.house).await;
        // It is a zombie now: nobody has asked how it ended.
        old.is_killed().await;
        let owner = new.come_up("web1", 1).await;
        scene.lock_for(&owner);
        scene.stays_locked().await;
        let [listed] = scene.owners(1).await.try_into().unwrap();
        assert!(listed["pid"].contains(&new.pid.to_string()), "{listed:?}");
        drop(old);
        scene.stays_locked().await;
        new.is_killed().await;
    }
    scene.is_freed().await;
}

/// A child that has its connection still is not the machine; and the one that comes is not it.
#[tokio::test]
async fn what_a_machine_left_behind_is_not_in_its_way() {
    let scene = Scene::set().await;
    let mut old = Guest::beside(&scene.house).await;
    let owner = old.come_up("web1", 1).await;
    scene.lock_for(&owner);
    let child = old.bear().await;
    old.is_killed().await;
    // The end of the process is known, that of the connection is not there yet.
    let known = async {
        loop {
            match scene.owners(1).await.as_slice() {
                [owner] if owner["anchors"].contains("process") => {}
                owners => break assert_eq!(owners.len(), 1, "{owners:?}"),
            }
        }
    };
    within("the end of the process is known", known).await;
    scene.stays_locked().await;

    let mut new = Guest::beside(&scene.house).await;
    let owner = new.come_up("web1", 1).await;
    scene.lock_for(&owner);
    scene.stays_locked().await;
    // It has its own life, and no share in that of the other one.
    new.is_killed().await;
    scene.is_freed().await;
    end(child).await;
}

#[tokio::test]
async fn a_machine_that_lives_is_not_replaced_by_its_like() {
    let scene = Scene::set().await;
    let (mut old, mut new) = (Guest::beside(&scene.house).await, Guest::beside(&scene.house).await);
    let (first, second) = (old.come_up("web1", 1).await, new.come_up("web1", 1).await);
    scene.lock_for(&first);
    let refused = scene.libvirtd(&second).acquire("", &scene.disk, 0).refused();
    let busy = format!("resource busy: Lockspace resource '{}' is locked", scene.disk);
    assert_eq!((refused.code, refused.domain), (87, 51));
    assert!(refused.message.starts_with(&busy), "{}", refused.message);
    assert!(refused.message.contains(&format!("pid {}", old.pid)), "{}", refused.message);
    let mut pids: Vec<_> = scene.owners(1).await.into_iter().map(|o| o["pid"].clone()).collect();
    pids.sort();
    assert_eq!(pids.len(), 2, "{pids:?}");
    assert_ne!(pids[0], pids[1]);
    // Neither gives back what is the other's.
    let refused = scene.libvirtd(&second).release("", &scene.disk, 0).refused();
    assert_eq!(refused.code, 1, "{}", refused.message);
    new.is_killed().await;
    scene.stays_locked().await;
    old.is_killed().await;
    scene.is_freed().await;
}

/// The same machine on two ways in is one machine.
#[tokio::test]
async fn the_same_uuid_over_d_bus_is_the_same_machine() {
    let scene = Scene::set().await;
    let mut guest = Guest::beside(&scene.house).await;
    let owner = guest.come_up("web1", 1).await;
    scene.lock_for(&owner);
    let [listed] = scene.owners(1).await.try_into().unwrap();
    let uuid = listed["uuid"].clone();
    let opened =
        crate::machine::Machine::open_with(&scene.bus, &uuid, "web1", crate::methods::none());
    let refused = opened.await.unwrap_err();
    assert!(refused.name.contains("Exists"), "{refused:?}");
    assert_eq!(scene.libvirtd(&owner).release("", &scene.disk, 0), Answer::Granted);
}
