//! Damage to more than one record: zeros, a missing end, several records of one disk.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use zbus::Connection;

use super::{SUSPECT, change, restart, says, state_file};
use crate::cli::str;
use crate::dbus_client::{TestVm, exclusive, shared};
use crate::fixture::rpc::{Owner, Rpc};
use crate::fixture::{Damage, Fixture, ForeignHolder, LockType, StateImage, field};
use crate::methods::none;
use crate::refused_requests::assert_refused;
use crate::snapshot::Listed;

/// Two VMs with a disk each, and a service whose descriptors nothing keeps.
struct Scenario {
    fixture: Fixture,
    bus: Connection,
    disks: [PathBuf; 2],
    web1: TestVm,
    web2: TestVm,
}

impl Scenario {
    async fn set_up() -> Scenario {
        let fixture = Fixture::builder().start().await;
        let bus = fixture.connection().await;
        let disks = ["one.img", "two.img"].map(|name| fixture.raw_of(0, name));
        let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
        Scenario { fixture, bus, disks, web1, web2 }
    }

    /// Creates the scenario, in which each VM has locked its disk.
    async fn locked() -> Scenario {
        let scenario = Scenario::set_up().await;
        let [one, two] = &scenario.disks;
        scenario.web1.acquire(&[exclusive(one)]).await.unwrap();
        scenario.web2.acquire(&[exclusive(two)]).await.unwrap();
        scenario
    }

    /// Kills the service, changes its state file, and starts it again.
    async fn damage(&self, damage: impl FnOnce(&mut StateImage)) {
        restart(&self.fixture, || change(&state_file(&self.fixture), damage)).await;
    }

    /// The disk is locked by these owners, and in the kernel.
    async fn is_locked(&self, disk: &Path, owners: &[&str]) {
        if owners.contains(&SUSPECT) {
            says(&self.fixture, &format!("names {}: it is locked again", str(disk))).await;
        }
        let listed = Listed::by(&self.bus).await;
        let found: BTreeSet<_> = listed.on(str(disk)).map(|lock| lock["name"].as_str()).collect();
        assert_eq!(found, owners.iter().copied().collect(), "{}", disk.display());
        ForeignHolder::try_once(disk, LockType::Posix, true).unwrap_err();
    }
}

#[tokio::test]
async fn records_on_both_sides_of_zeros_are_read() {
    let scenario = Scenario::locked().await;
    let [one, two] = &scenario.disks;
    scenario
        .damage(|image| {
            // From behind the path of the first to in front of the path of the second.
            let locks = image.of_kind("lock");
            let begin = image.offset(&locks[0], field::IDENTITY);
            let end = image.offset(&locks[1], field::PATH);
            image.bytes[begin..end].fill(0);
        })
        .await;
    scenario.is_locked(one, &[SUSPECT]).await;
    scenario.is_locked(two, &[SUSPECT]).await;
}

#[tokio::test]
async fn the_head_may_be_zeros() {
    let scenario = Scenario::locked().await;
    let [one, two] = &scenario.disks;
    scenario
        .damage(|image| {
            let end = image.offset(&image.of_kind("lock")[0], field::ID);
            image.bytes[..end].fill(0);
        })
        .await;
    scenario.is_locked(one, &[SUSPECT]).await;
    // Its owner's record was among the zeros.
    scenario.is_locked(two, &["recovered"]).await;
}

#[tokio::test]
async fn a_record_that_is_cut_off_behind_the_path_is_read() {
    let scenario = Scenario::set_up().await;
    let [one, two] = &scenario.disks;
    scenario.web1.acquire(&[exclusive(one)]).await.unwrap();
    let locks = scenario.web2.acquire(&[exclusive(two)]).await.unwrap();
    scenario
        .damage(|image| {
            let end = image.offset(&image.last_lock(), field::IDENTITY);
            image.bytes.truncate(end);
        })
        .await;
    scenario.is_locked(one, &["web1"]).await;
    scenario.is_locked(two, &[SUSPECT]).await;
    // No number is given twice: a client that knows one would release the lock of another.
    let listed = Listed::by(&scenario.bus).await;
    let number = locks[0].as_str().rsplit('/').next().unwrap().parse::<u64>().unwrap();
    assert!(!listed.locks.contains_key(&number), "{:?}", listed.locks.keys());
}

#[tokio::test]
async fn a_record_that_seems_to_continue_the_one_before_costs_none() {
    let scenario = Scenario::set_up().await;
    let [one, two] = &scenario.disks;
    scenario.web1.acquire(&[exclusive(one)]).await.unwrap();
    scenario.web1.acquire(&[exclusive(two)]).await.unwrap();
    scenario
        .damage(|image| {
            let locks = image.of_kind("lock");
            assert_eq!(locks[0].end, locks[1].start);
            image.damage(&locks[1], &Damage::Joined);
        })
        .await;
    scenario.is_locked(one, &[SUSPECT]).await;
    scenario.is_locked(two, &[SUSPECT]).await;
}

/// A damaged record and a sound one name one disk, or two damaged ones do: one lock is enough.
#[tokio::test]
async fn shared_locks_on_one_disk_are_kept_whichever_record_is_damaged() {
    for (damaged, owners) in [(1, &["web1", SUSPECT][..]), (2, &[SUSPECT])] {
        // The mode may be damaged, too.
        for mode in [false, true] {
            let scenario = Scenario::set_up().await;
            let [one, _] = &scenario.disks;
            scenario.web1.acquire(&[shared(one)]).await.unwrap();
            scenario.web2.acquire(&[shared(one)]).await.unwrap();
            scenario
                .damage(|image| {
                    for lock in image.of_kind("lock").iter().rev().take(damaged) {
                        image.damage(lock, &Damage::Value(field::LOCK));
                        if mode {
                            image.damage(lock, &Damage::Mode);
                        }
                    }
                })
                .await;
            scenario.is_locked(one, owners).await;
            let said = scenario.fixture.daemon().complete_log().await;
            assert!(!said.contains("cannot be locked again"), "{damaged} {mode}: {said}");
        }
    }
}

/// A damaged record names a disk that another owner has locked exclusively: the disk stays that owner's.
#[tokio::test]
async fn a_disk_with_an_intact_record_keeps_its_owner() {
    let scenario = Scenario::locked().await;
    let [one, two] = &scenario.disks;
    scenario
        .damage(|image| {
            let lock = image.last_lock();
            image.damage(&lock, &Damage::Value(field::IDENTITY));
            let names = [field::RESOURCE, field::CANONICAL, field::PATH, field::LOCK_FILE];
            image.forge(&lock, &names, str(two), str(one));
        })
        .await;
    says(&scenario.fixture, "which another owner has locked: ").await;
    scenario.is_locked(one, &["web1"]).await;
}

/// The locks that a suspended owner has to acquire again are not lost.
#[tokio::test]
async fn an_owner_is_not_resumed_without_a_lock_whose_record_is_damaged() {
    for what in [Damage::Checksum, Damage::Value(field::IDENTITY)] {
        let scenario = Scenario::set_up().await;
        let [one, two] = &scenario.disks;
        scenario.web1.acquire(&[exclusive(one), exclusive(two)]).await.unwrap();
        scenario.web1.owner.suspend(none()).await.unwrap();
        scenario
            .damage(|image| {
                let lock = image.last_lock();
                // The inode is another; the kind of the identity is as it was.
                let mut identity = image.value(&lock, field::IDENTITY).unwrap();
                identity[9 + 3] ^= 1;
                match &what {
                    Damage::Checksum => image.damage(&lock, &what),
                    _ => image.damage(&lock, &Damage::Other(field::IDENTITY, identity)),
                }
            })
            .await;
        let suspended = scenario.web1.owner.suspended().await.unwrap();
        assert_eq!(suspended.len(), 2, "{suspended:?}");
        let resumed = scenario.web1.owner.resume(none()).await;
        if matches!(what, Damage::Checksum) {
            assert_eq!(resumed.unwrap().len(), 2);
            ForeignHolder::try_once(two, LockType::Posix, true).unwrap_err();
        } else {
            let refused = resumed.unwrap_err().into();
            assert_refused(&refused, "ResourceChanged", "two.img");
        }
    }
}

/// The number of a suspended lock is damaged, and is that of another one: both are there.
#[tokio::test]
async fn two_suspended_locks_with_one_number_are_both_there() {
    let scenario = Scenario::set_up().await;
    let [one, two] = &scenario.disks;
    scenario.web1.acquire(&[exclusive(one), exclusive(two)]).await.unwrap();
    scenario.web1.owner.suspend(none()).await.unwrap();
    scenario
        .damage(|image| {
            let locks = image.of_kind("lock");
            let [one, two] = [0, 1].map(|n| image.value(&locks[n], field::ID).unwrap());
            assert_eq!((one[0], two[0]), (1, 2));
            image.damage(&locks[1], &Damage::Other(field::ID, one));
        })
        .await;
    assert_eq!(scenario.web1.owner.suspended().await.unwrap().len(), 2);
    assert_eq!(scenario.web1.owner.resume(none()).await.unwrap().len(), 2);
    for disk in [one, two] {
        ForeignHolder::try_once(disk, LockType::Posix, true).unwrap_err();
    }
}

/// A disk that libvirt has released for an instant stays reserved for its VM.
#[tokio::test]
async fn a_damaged_record_of_a_reserved_lock_keeps_the_reservation() {
    let config = "virtlockd_socket = \"@DIR@/virtlockd-sock\"\nrelease_grace = 600\n";
    let fixture = Fixture::builder().config(config).start().await;
    let (bus, disk) = (fixture.connection().await, fixture.raw_of(0, "disk.img"));
    let mut rpc = Rpc::connect(&fixture.dir().join("virtlockd-sock")).unwrap();
    let owner = Owner::new("web1", 1, std::process::id());
    rpc.register(&owner).granted();
    rpc.acquire("", str(&disk), 0).granted();
    rpc.release("", str(&disk), 0).granted();
    restart(&fixture, || {
        change(&state_file(&fixture), |image| {
            image.damage(&image.last_lock(), &Damage::Checksum);
        });
    })
    .await;
    let web2 = TestVm::open(&bus, "web2").await;
    let refused = web2.acquire(&[exclusive(&disk)]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", "reserved for VM");
}

/// Of these disks only the names are known, so each has to be looked up: no other request comes first.
#[tokio::test]
async fn disks_that_are_known_by_name_alone_are_locked_before_anything_is_granted() {
    let scenario = Scenario::set_up().await;
    let names: Vec<_> = (0..60).map(|n| scenario.fixture.raw_of(0, &format!("{n}.img"))).collect();
    let wanted: Vec<_> = names.iter().map(|disk| exclusive(disk)).collect();
    scenario.web1.acquire(&wanted).await.unwrap();
    scenario
        .damage(|image| {
            for lock in image.of_kind("lock") {
                image.damage(&lock, &Damage::Value(field::IDENTITY));
            }
        })
        .await;
    for disk in names.iter().rev() {
        let refused = scenario.web2.acquire(&[exclusive(disk)]).await.unwrap_err();
        assert_refused(&refused, "LockHeld", "VM \"suspect\"");
    }
}
