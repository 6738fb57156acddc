//! A lock that libvirt releases while its VM lives is reserved for this VM for a grace period.

use std::path::PathBuf;

use tokio::task::JoinHandle;
use zbus::{Connection, OwnedObjectPath};

use super::crowd::sleep;
use super::guest::Guest;
use super::judge::house_with;
use crate::cli::{fails, json, str, vmlockctl};
use crate::house::rpc::{Owner, Rpc, SHARED};
use crate::house::{House, Kind, Process, Rival, Tool, within};
use crate::listed::{Listed, text};
use crate::machine::{Answer, Machine, exclusive, manager, option};
use crate::methods::none;
use crate::untouched::{assert_free, assert_refused};
use crate::wait::{LONG, until_waiting, wait};

/// Longer than any test lives.
const FOR_EVER: &str = "release_grace = 3600\n";
/// Short enough to be waited for.
const BRIEF: &str = "release_grace = 1\n";

type Waiting = JoinHandle<Answer<Vec<OwnedObjectPath>>>;

/// A VM that libvirt has just paused: it has released its disk.
pub(super) struct Scene {
    pub(super) house: House,
    pub(super) bus: Connection,
    pub(super) path: PathBuf,
    pub(super) disk: String,
    guest: Guest,
    pub(super) owner: Owner,
}

impl Scene {
    pub(super) async fn set(config: &str) -> Scene {
        let house = house_with(config).await;
        let bus = house.connection().await;
        let path = house.raw_of(0, "disk");
        let disk = str(&path).to_owned();
        let mut guest = Guest::beside(&house).await;
        let owner = guest.come_up("web1", 1).await;
        let scene = Scene { house, bus, path, disk, guest, owner };
        scene.libvirtd(&scene.owner).acquire("", &scene.disk, 0).granted();
        scene
    }

    /// A connection in the name of a VM, as libvirtd has it for each of its commands.
    pub(super) fn libvirtd(&self, owner: &Owner) -> Rpc {
        let mut rpc = Rpc::connect(&self.house.dir().join("virtlockd-sock")).unwrap();
        rpc.register(owner).granted();
        rpc
    }

    /// libvirt pauses the VM.
    pub(super) fn pause(&self) {
        self.libvirtd(&self.owner).release("", &self.disk, 0).granted();
        // As libvirt expects; another program could have it.
        assert_free(&self.path);
    }

    /// libvirt lets the VM go on.
    pub(super) fn go_on(&self) {
        self.libvirtd(&self.owner).acquire("", &self.disk, 0).granted();
        Rival::try_once(&self.path, Kind::Posix, true).unwrap_err();
    }

    /// Another VM, which waits for the disk.
    async fn waiter(&self) -> (Machine, Waiting) {
        let machine = Machine::open(&self.bus, "backup").await;
        let waiting = wait(&self.bus, &machine, &[exclusive(&self.path)], LONG).await;
        (machine, waiting)
    }

    async fn reserved_until(&self) -> u64 {
        let rows = manager(&self.bus).await.find_holders(&self.disk, none()).await.unwrap();
        assert_eq!((rows.len(), text(&rows[0], "kind")), (1, "reserved".to_owned()), "{rows:?}");
        u64::try_from(&*rows[0]["until-usec"]).unwrap()
    }
}

#[tokio::test]
async fn a_paused_vm_gets_its_disk_back_ahead_of_those_who_wait() {
    let scene = Scene::set(FOR_EVER).await;
    let (_machine, waiting) = scene.waiter().await;
    for _ in 0..3 {
        scene.pause();
        // The service has looked at all who wait by the time that it answers this.
        scene.reserved_until().await;
        assert_free(&scene.path);
        scene.go_on();
    }
    assert!(!waiting.is_finished());
    until_waiting(&scene.bus, 1).await;
    assert_eq!(Listed::by(&scene.bus).await.on(&scene.disk).count(), 1);
    scene.guest.is_killed().await;
    within("the waiter gets the disk", waiting).await.unwrap().unwrap();
}

/// Refusals over both protocols name the VM, its process and the time.
#[tokio::test]
async fn others_are_told_for_whom_it_is_reserved_and_until_when() {
    let scene = Scene::set(FOR_EVER).await;
    let (_machine, waiting) = scene.waiter().await;
    scene.pause();
    let uuid = uuid::Uuid::from_bytes([1; 16]);
    let who = format!("VM \"web1\" ({uuid}, pid {}, user root) until ", scene.guest.pid);
    let words = format!("disk {} is reserved for {who}", scene.disk);

    let other = sleep(&scene.house);
    for flags in [0, SHARED] {
        let mut rival = scene.libvirtd(&Owner::new("web2", 2, other.pid()));
        let refused = rival.acquire("", &scene.disk, flags).refused();
        assert_eq!(refused.code, 87, "{}", refused.message);
        assert!(refused.message.contains(&words), "{}", refused.message);
    }
    let machine = Machine::open(&scene.bus, "web3").await;
    let refused = machine.acquire(&[exclusive(&scene.path)]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", &words);

    let rows = manager(&scene.bus).await.list_waiting(none()).await.unwrap();
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!(text(row, "reserved-name"), "web1");
    assert_eq!(text(row, "reserved-uuid"), uuid.to_string());
    assert_eq!(u32::try_from(&*row["reserved-pid"]).unwrap(), scene.guest.pid);
    // Some microseconds may be between two readings of two clocks.
    let until = scene.reserved_until().await;
    assert!(until.abs_diff(u64::try_from(&*row["reserved-until-usec"]).unwrap()) < 1_000_000);

    let told = vmlockctl(&scene.house, &["waiting"]).await.ok();
    let line =
        format!("{} is reserved for VM \"web1\" ({uuid}, pid {}", scene.disk, scene.guest.pid);
    assert!(told.lines().any(|told| told.starts_with(&line)), "{told}");
    let told = vmlockctl(&scene.house, &["who", &scene.disk]).await.ok();
    assert!(told.starts_with(&words) && told.lines().count() == 1, "{told}");
    let said = fails(&scene.house, 75, &["lock", &scene.disk]).await;
    assert!(said.contains(&words), "{said}");
    assert!(!waiting.is_finished());
    // It is no lock any more.
    assert_eq!(Listed::by(&scene.bus).await.on(&scene.disk).count(), 0);
}

#[tokio::test]
async fn when_the_grace_period_is_over_the_waiter_gets_it_without_asking() {
    let scene = Scene::set(BRIEF).await;
    let (_machine, waiting) = scene.waiter().await;
    scene.pause();
    within("the waiter gets the disk", waiting).await.unwrap().unwrap();
    // The VM that comes back late is told who has it.
    let refused = scene.libvirtd(&scene.owner).acquire("", &scene.disk, 0).refused();
    assert!(refused.message.contains("VM \"backup\""), "{}", refused.message);
}

#[tokio::test]
async fn run_with_wait_says_for_whom_the_disk_is_reserved() {
    let scene = Scene::set(FOR_EVER).await;
    let line = ["run", "--wait", "--disk", &scene.disk, "--", "echo", "go"];
    let mut run = Tool::vmlockctl(&scene.house, &line);
    until_waiting(&scene.bus, 1).await;
    scene.pause();
    let words = format!("waiting for disk {}: reserved for VM \"web1\"", scene.disk);
    let manager = manager(&scene.bus).await;
    let said = async {
        while !run.process.stderr().contains(&words) {
            manager.n_waiting().await.unwrap();
        }
    };
    within(&words, said).await;
    scene.guest.is_killed().await;
    assert_eq!(run.line().await, "go");
    assert!(run.ended().await.success());
}

/// What an administrator takes from a VM, and what it had at its end, is free at once.
#[tokio::test]
async fn what_is_broken_or_left_behind_is_not_reserved() {
    let scene = Scene::set(FOR_EVER).await;
    let (machine, waiting) = scene.waiter().await;
    let number = json(&scene.house, &["list"]).await[0]["generation"].to_string();
    vmlockctl(&scene.house, &["release", "--force", &number]).await.ok();
    let locks = within("the waiter gets the disk", waiting).await.unwrap().unwrap();
    machine.release(&locks).await.unwrap();

    scene.go_on();
    let waiting = wait(&scene.bus, &machine, &[exclusive(&scene.path)], LONG).await;
    scene.pause();
    scene.guest.is_killed().await;
    within("the waiter gets the disk", waiting).await.unwrap().unwrap();
}

/// Closing the owner ends what is reserved for it, too, and needs no more than its locks do.
#[tokio::test]
async fn an_owner_with_a_reservation_can_be_closed() {
    let scene = Scene::set(FOR_EVER).await;
    let (_machine, waiting) = scene.waiter().await;
    scene.pause();
    let owner = json(&scene.house, &["owners"]).await;
    let owner = owner.as_array().unwrap().iter().find(|owner| owner["name"] == "web1").unwrap();
    assert_eq!(owner["locks"], 0);
    let path = OwnedObjectPath::try_from(owner["owner"].as_str().unwrap()).unwrap();
    let owner = crate::machine::owner(&scene.bus, path).await;
    owner.close(option("force", true)).await.unwrap();
    within("the waiter gets the disk", waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn nothing_is_reserved_where_the_configuration_says_so() {
    let scene = Scene::set("release_grace = 0\n").await;
    let (_machine, waiting) = scene.waiter().await;
    scene.libvirtd(&scene.owner).release("", &scene.disk, 0).granted();
    within("the waiter gets the disk", waiting).await.unwrap().unwrap();
}

/// A VM without a connection of its own, of which libvirtd speaks alone, is no owner any more once it
/// holds nothing: but not before what is reserved for it is over.
#[tokio::test]
async fn a_vm_that_has_no_connection_keeps_its_reservation() {
    for (config, reserved) in [(FOR_EVER, true), (BRIEF, false)] {
        let scene = Scene::set(config).await;
        scene.guest.is_killed().await;
        let process: Process = sleep(&scene.house);
        let owner = Owner::new("web5", 5, process.pid());
        let freed = async { while Listed::by(&scene.bus).await.on(&scene.disk).count() > 0 {} };
        within("the disk is free", freed).await;
        scene.libvirtd(&owner).acquire("", &scene.disk, 0).granted();
        let (machine, waiting) = scene.waiter().await;
        scene.libvirtd(&owner).release("", &scene.disk, 0).granted();
        if reserved {
            scene.libvirtd(&owner).acquire("", &scene.disk, 0).granted();
            assert!(!waiting.is_finished());
            drop((process, machine));
            continue;
        }
        within("the waiter gets the disk", waiting).await.unwrap().unwrap();
        let gone = async {
            loop {
                let owners = Listed::by(&scene.bus).await.owners;
                if owners.values().all(|owner| owner["name"] != "web5") {
                    return;
                }
            }
        };
        within("the owner is gone", gone).await;
    }
}

/// The service is killed while a VM is paused for an instant; who waits asks its successor again.
#[tokio::test]
async fn a_reservation_outlives_the_service() {
    let scene = Scene::set(FOR_EVER).await;
    scene.pause();
    scene.house.daemon().kill9().await;
    scene.house.daemon().start_again().await;
    let machine = Machine::open(&scene.bus, "backup").await;
    let refused = machine.acquire(&[exclusive(&scene.path)]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", "is reserved for VM \"web1\"");
    scene.reserved_until().await;
    let waiting = wait(&scene.bus, &machine, &[exclusive(&scene.path)], LONG).await;
    scene.go_on();
    scene.pause();
    scene.reserved_until().await;
    assert!(!waiting.is_finished());
    scene.guest.is_killed().await;
    within("the waiter gets the disk", waiting).await.unwrap().unwrap();
}
