//! A lock that libvirt releases while its VM lives is reserved for this VM for a grace period.

use std::path::PathBuf;

use tokio::task::JoinHandle;
use zbus::{Connection, OwnedObjectPath};

use super::checker::fixture_with;
use super::guest::Guest;
use super::many_clients::sleep;
use crate::cli::{fails, json, str, vmlockctl};
use crate::dbus_client::{Answer, TestVm, exclusive, manager, option};
use crate::fixture::rpc::{Owner, Rpc, SHARED};
use crate::fixture::{Fixture, ForeignHolder, LockType, Process, Tool, within};
use crate::methods::none;
use crate::refused_requests::{assert_free, assert_refused};
use crate::snapshot::{Listed, text};
use crate::wait::{LONG, until_waiting, wait};

/// Longer than any test lives.
const FOR_EVER: &str = "release_grace = 3600\n";
/// Short enough to be waited for.
const BRIEF: &str = "release_grace = 1\n";

type Waiting = JoinHandle<Answer<Vec<OwnedObjectPath>>>;

/// A VM that libvirt has just paused: it has released its disk.
pub(super) struct Scenario {
    pub(super) fixture: Fixture,
    pub(super) bus: Connection,
    pub(super) path: PathBuf,
    pub(super) disk: String,
    guest: Guest,
    pub(super) owner: Owner,
}

impl Scenario {
    pub(super) async fn set_up(config: &str) -> Scenario {
        let fixture = fixture_with(config).await;
        let bus = fixture.connection().await;
        let path = fixture.raw_of(0, "disk");
        let disk = str(&path).to_owned();
        let mut guest = Guest::beside(&fixture).await;
        let owner = guest.come_up("web1", 1).await;
        let scenario = Scenario { fixture, bus, path, disk, guest, owner };
        scenario.libvirtd(&scenario.owner).acquire("", &scenario.disk, 0).granted();
        scenario
    }

    /// A connection in the name of a VM, as libvirtd has it for each of its commands.
    pub(super) fn libvirtd(&self, owner: &Owner) -> Rpc {
        let mut rpc = Rpc::connect(&self.fixture.dir().join("virtlockd-sock")).unwrap();
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
        ForeignHolder::try_once(&self.path, LockType::Posix, true).unwrap_err();
    }

    /// Another VM, which waits for the disk.
    async fn waiter(&self) -> (TestVm, Waiting) {
        let machine = TestVm::open(&self.bus, "backup").await;
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
async fn a_paused_vm_gets_its_disk_back_ahead_of_waiters() {
    let scenario = Scenario::set_up(FOR_EVER).await;
    let (_machine, waiting) = scenario.waiter().await;
    for _ in 0..3 {
        scenario.pause();
        // The service has looked at all who wait by the time that it answers this.
        scenario.reserved_until().await;
        assert_free(&scenario.path);
        scenario.go_on();
    }
    assert!(!waiting.is_finished());
    until_waiting(&scenario.bus, 1).await;
    assert_eq!(Listed::by(&scenario.bus).await.on(&scenario.disk).count(), 1);
    scenario.guest.is_killed().await;
    within("the waiter gets the disk", waiting).await.unwrap().unwrap();
}

/// Refusals over both protocols name the VM, its process and the time.
#[tokio::test]
async fn a_refusal_names_the_reservation_and_its_end() {
    let scenario = Scenario::set_up(FOR_EVER).await;
    let (_machine, waiting) = scenario.waiter().await;
    scenario.pause();
    let uuid = uuid::Uuid::from_bytes([1; 16]);
    let who = format!("VM \"web1\" ({uuid}, pid {}, user root) until ", scenario.guest.pid);
    let words = format!("disk {} is reserved for {who}", scenario.disk);

    let other = sleep(&scenario.fixture);
    for flags in [0, SHARED] {
        let mut foreign_holder = scenario.libvirtd(&Owner::new("web2", 2, other.pid()));
        let refused = foreign_holder.acquire("", &scenario.disk, flags).refused();
        assert_eq!(refused.code, 87, "{}", refused.message);
        assert!(refused.message.contains(&words), "{}", refused.message);
    }
    let machine = TestVm::open(&scenario.bus, "web3").await;
    let refused = machine.acquire(&[exclusive(&scenario.path)]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", &words);

    let rows = manager(&scenario.bus).await.list_waiting(none()).await.unwrap();
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!(text(row, "reserved-name"), "web1");
    assert_eq!(text(row, "reserved-uuid"), uuid.to_string());
    assert_eq!(u32::try_from(&*row["reserved-pid"]).unwrap(), scenario.guest.pid);
    // Some microseconds may be between two readings of two clocks.
    let until = scenario.reserved_until().await;
    assert!(until.abs_diff(u64::try_from(&*row["reserved-until-usec"]).unwrap()) < 1_000_000);

    let told = vmlockctl(&scenario.fixture, &["waiting"]).await.ok();
    let line = format!(
        "{} is reserved for VM \"web1\" ({uuid}, pid {}",
        scenario.disk, scenario.guest.pid
    );
    assert!(told.lines().any(|told| told.starts_with(&line)), "{told}");
    let told = vmlockctl(&scenario.fixture, &["who", &scenario.disk]).await.ok();
    assert!(told.starts_with(&words) && told.lines().count() == 1, "{told}");
    let said = fails(&scenario.fixture, 75, &["lock", &scenario.disk]).await;
    assert!(said.contains(&words), "{said}");
    assert!(!waiting.is_finished());
    // It is no lock any more.
    assert_eq!(Listed::by(&scenario.bus).await.on(&scenario.disk).count(), 0);
}

#[tokio::test]
async fn when_the_grace_period_is_over_the_waiter_gets_it_without_asking() {
    let scenario = Scenario::set_up(BRIEF).await;
    let (_machine, waiting) = scenario.waiter().await;
    scenario.pause();
    within("the waiter gets the disk", waiting).await.unwrap().unwrap();
    // The VM that comes back late is told who has it.
    let refused = scenario.libvirtd(&scenario.owner).acquire("", &scenario.disk, 0).refused();
    assert!(refused.message.contains("VM \"backup\""), "{}", refused.message);
}

#[tokio::test]
async fn run_with_wait_names_the_reservation() {
    let scenario = Scenario::set_up(FOR_EVER).await;
    let line = ["run", "--wait", "--disk", &scenario.disk, "--", "echo", "go"];
    let mut run = Tool::vmlockctl(&scenario.fixture, &line);
    until_waiting(&scenario.bus, 1).await;
    scenario.pause();
    let words = format!("waiting for disk {}: reserved for VM \"web1\"", scenario.disk);
    let manager = manager(&scenario.bus).await;
    let said = async {
        while !run.process.stderr().contains(&words) {
            manager.n_waiting().await.unwrap();
        }
    };
    within(&words, said).await;
    scenario.guest.is_killed().await;
    assert_eq!(run.line().await, "go");
    assert!(run.ended().await.success());
}

/// Locks that an administrator takes from a VM, or that a VM held at its end, are free at once.
#[tokio::test]
async fn forced_and_leftover_locks_are_not_reserved() {
    let scenario = Scenario::set_up(FOR_EVER).await;
    let (machine, waiting) = scenario.waiter().await;
    let number = json(&scenario.fixture, &["list"]).await[0]["generation"].to_string();
    vmlockctl(&scenario.fixture, &["release", "--force", &number]).await.ok();
    let locks = within("the waiter gets the disk", waiting).await.unwrap().unwrap();
    machine.release(&locks).await.unwrap();

    scenario.go_on();
    let waiting = wait(&scenario.bus, &machine, &[exclusive(&scenario.path)], LONG).await;
    scenario.pause();
    scenario.guest.is_killed().await;
    within("the waiter gets the disk", waiting).await.unwrap().unwrap();
}

/// Closing the owner ends what is reserved for it, too, and needs no more than its locks do.
#[tokio::test]
async fn an_owner_with_a_reservation_can_be_closed() {
    let scenario = Scenario::set_up(FOR_EVER).await;
    let (_machine, waiting) = scenario.waiter().await;
    scenario.pause();
    let owner = json(&scenario.fixture, &["owners"]).await;
    let owner = owner.as_array().unwrap().iter().find(|owner| owner["name"] == "web1").unwrap();
    assert_eq!(owner["locks"], 0);
    let path = OwnedObjectPath::try_from(owner["owner"].as_str().unwrap()).unwrap();
    let owner = crate::dbus_client::owner(&scenario.bus, path).await;
    owner.close(option("force", true)).await.unwrap();
    within("the waiter gets the disk", waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn nothing_is_reserved_where_the_configuration_says_so() {
    let scenario = Scenario::set_up("release_grace = 0\n").await;
    let (_machine, waiting) = scenario.waiter().await;
    scenario.libvirtd(&scenario.owner).release("", &scenario.disk, 0).granted();
    within("the waiter gets the disk", waiting).await.unwrap().unwrap();
}

/// A VM without a connection of its own, of which libvirtd speaks alone, is no owner any more once it
/// holds nothing: but not before what is reserved for it is over.
#[tokio::test]
async fn a_vm_that_has_no_connection_keeps_its_reservation() {
    for (config, reserved) in [(FOR_EVER, true), (BRIEF, false)] {
        let scenario = Scenario::set_up(config).await;
        scenario.guest.is_killed().await;
        let process: Process = sleep(&scenario.fixture);
        let owner = Owner::new("web5", 5, process.pid());
        let freed =
            async { while Listed::by(&scenario.bus).await.on(&scenario.disk).count() > 0 {} };
        within("the disk is free", freed).await;
        scenario.libvirtd(&owner).acquire("", &scenario.disk, 0).granted();
        let (machine, waiting) = scenario.waiter().await;
        scenario.libvirtd(&owner).release("", &scenario.disk, 0).granted();
        if reserved {
            scenario.libvirtd(&owner).acquire("", &scenario.disk, 0).granted();
            assert!(!waiting.is_finished());
            drop((process, machine));
            continue;
        }
        within("the waiter gets the disk", waiting).await.unwrap().unwrap();
        let gone = async {
            loop {
                let owners = Listed::by(&scenario.bus).await.owners;
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
    let scenario = Scenario::set_up(FOR_EVER).await;
    scenario.pause();
    scenario.fixture.daemon().kill9().await;
    scenario.fixture.daemon().start_again().await;
    let machine = TestVm::open(&scenario.bus, "backup").await;
    let refused = machine.acquire(&[exclusive(&scenario.path)]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", "is reserved for VM \"web1\"");
    scenario.reserved_until().await;
    let waiting = wait(&scenario.bus, &machine, &[exclusive(&scenario.path)], LONG).await;
    scenario.go_on();
    scenario.pause();
    scenario.reserved_until().await;
    assert!(!waiting.is_finished());
    scenario.guest.is_killed().await;
    within("the waiter gets the disk", waiting).await.unwrap().unwrap();
}
