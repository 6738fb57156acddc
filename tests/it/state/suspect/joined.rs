//! Damage to more than one record: zeros, a missing end, several records of one disk.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use zbus::Connection;

use super::{SUSPECT, restart, says, state_file};
use crate::cli::str;
use crate::dbus_client::{TestVm, exclusive, shared};
use crate::fixture::rpc::{Owner, Rpc};
use crate::fixture::{Fixture, ForeignHolder, LockType};
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
    async fn damage(&self, change: impl FnOnce(&mut Vec<u8>)) {
        restart(&self.fixture, || {
            let file = state_file(&self.fixture);
            let mut state = fs::read(&file).unwrap();
            change(&mut state);
            fs::write(file, state).unwrap();
        })
        .await;
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

/// Where a text begins for the last time.
fn last(state: &[u8], text: &str) -> usize {
    state.windows(text.len()).rposition(|part| part == text.as_bytes()).expect(text)
}

/// Where a text begins for the first time.
fn first(state: &[u8], text: &str) -> usize {
    state.windows(text.len()).position(|part| part == text.as_bytes()).expect(text)
}

#[tokio::test]
async fn records_on_both_sides_of_zeros_are_read() {
    let scenario = Scenario::locked().await;
    let [one, two] = &scenario.disks;
    scenario
        .damage(|state| {
            // From behind the path of the first to in front of the path of the second.
            let begin = first(state, "\"identity\"");
            let end = last(state, ",\"path\":");
            state[begin..end].fill(0);
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
        .damage(|state| {
            let end = first(state, "{\"lock\":{");
            state[..end].fill(0);
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
        .damage(|state| {
            let end = last(state, ",\"identity\"");
            state.truncate(end);
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
async fn a_lost_end_of_a_line_costs_no_record() {
    let scenario = Scenario::set_up().await;
    let [one, two] = &scenario.disks;
    scenario.web1.acquire(&[exclusive(one)]).await.unwrap();
    scenario.web1.acquire(&[exclusive(two)]).await.unwrap();
    scenario
        .damage(|state| {
            let end = last(state, "}}\nhx ") + 2;
            state[end] = b' ';
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
        for mode in ["hs ", "h? "] {
            let scenario = Scenario::set_up().await;
            let [one, _] = &scenario.disks;
            scenario.web1.acquire(&[shared(one)]).await.unwrap();
            scenario.web2.acquire(&[shared(one)]).await.unwrap();
            scenario
                .damage(|state| {
                    let text = String::from_utf8(state.clone()).unwrap();
                    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                    let locks = lines.iter_mut().rev().filter(|line| line.contains("{\"lock\":{"));
                    for line in locks.take(damaged) {
                        *line = line.replace("\"since\"", "\"sinze\"").replace("hs ", mode);
                    }
                    *state = (lines.join("\n") + "\n").into_bytes();
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
        .damage(|state| {
            let text = String::from_utf8(state.clone()).unwrap();
            let at = text.rfind("{\"lock\":{").unwrap();
            let damaged = text[at..].replace(str(two), str(one)).replace("inode", "knode");
            *state = (text[..at].to_owned() + &damaged).into_bytes();
        })
        .await;
    says(&scenario.fixture, "which another owner has locked: ").await;
    scenario.is_locked(one, &["web1"]).await;
}

/// The locks that a suspended owner has to acquire again are not lost.
#[tokio::test]
async fn an_owner_is_not_resumed_without_a_lock_whose_record_is_damaged() {
    for (text, other) in [("\"since\":", "\"since\": "), ("\"ino\":", "\"ino\":1")] {
        let scenario = Scenario::set_up().await;
        let [one, two] = &scenario.disks;
        scenario.web1.acquire(&[exclusive(one), exclusive(two)]).await.unwrap();
        scenario.web1.owner.suspend(none()).await.unwrap();
        scenario
            .damage(|state| {
                let all = String::from_utf8(state.clone()).unwrap();
                let at = all.rfind("{\"lock\":{").unwrap();
                *state = (all[..at].to_owned() + &all[at..].replacen(text, other, 1)).into_bytes();
            })
            .await;
        let suspended = scenario.web1.owner.suspended().await.unwrap();
        assert_eq!(suspended.len(), 2, "{suspended:?}");
        let resumed = scenario.web1.owner.resume(none()).await;
        if text == "\"since\":" {
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
        .damage(|state| {
            let all = String::from_utf8(state.clone()).unwrap();
            let number = |n: u8| format!("{{\"lock\":{{\"number\":{n},");
            assert!(all.contains(&number(2)), "{all}");
            *state = all.replace(&number(2), &number(1)).into_bytes();
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
        let all = fs::read_to_string(state_file(&fixture)).unwrap();
        let at = all.find("\nvx ").expect(&all);
        let (before, line) = all.split_at(at);
        let line = line.replacen("\"since\":", "\"since\": ", 1);
        fs::write(state_file(&fixture), before.to_owned() + &line).unwrap();
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
        .damage(|state| {
            let all = String::from_utf8(state.clone()).unwrap();
            *state = all.replace("{\"inode\":", "{\"knode\":").into_bytes();
        })
        .await;
    for disk in names.iter().rev() {
        let refused = scenario.web2.acquire(&[exclusive(disk)]).await.unwrap_err();
        assert_refused(&refused, "LockHeld", "VM \"suspect\"");
    }
}
