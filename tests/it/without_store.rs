//! If the service's descriptors are not stored, its locks end with it; the loss is reported, and a
//! VM that could write a disk beside another one is never reported as healthy.

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::pin;

use futures_util::{Stream, StreamExt as _};
use zbus::message::Type;
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath};

use crate::dbus_client::{TestVm, exclusive, lock, manager, owner};
use crate::fixture::{Fixture, ForeignHolder, LockType, Process, within};
use crate::methods::none;
use crate::refused_requests::{assert_free, assert_refused};
use crate::snapshot::Listed;

/// A machine with two disks.
struct Scenario {
    fixture: Fixture,
    bus: Connection,
    web1: TestVm,
    disks: [PathBuf; 2],
    locks: Vec<OwnedObjectPath>,
    lock_files: Vec<PathBuf>,
}

impl Scenario {
    async fn set_up(config: &str) -> Self {
        let fixture = Fixture::builder().folder("locks").config(config).start().await;
        let bus = fixture.connection().await;
        let disks = ["first", "second"].map(|name| fixture.raw_of(0, name));
        let web1 = TestVm::open(&bus, "web1").await;
        let locks = web1.acquire(&disks.each_ref().map(|disk| exclusive(disk))).await.unwrap();
        let mut lock_files = Vec::new();
        for path in &locks {
            lock_files.push(lock(&bus, path).await.lock_file().await.unwrap().into());
        }
        Self { fixture, bus, web1, disks, locks, lock_files }
    }

    /// Returns the state of each lock: verified, and lost.
    async fn lock_states(&self) -> Vec<(bool, bool)> {
        let rows = manager(&self.bus).await.list_locks(none()).await.unwrap();
        let of = |disk: &PathBuf| {
            let row = rows.iter().find(|row| crate::snapshot::text(row, "resource") == path(disk));
            let row = row.unwrap_or_else(|| panic!("{} is not listed", disk.display()));
            let word = |key: &str| bool::try_from(&row[key]).unwrap();
            (word("verified"), word("lost"))
        };
        self.disks.iter().map(of).collect()
    }

    async fn until_said(&self, wanted: [(bool, bool); 2]) {
        let said = async { while self.lock_states().await != wanted {} };
        within(&format!("verified and lost: {wanted:?}"), said).await;
    }

    /// Returns the signals about lost locks from any sender, also before the name has an owner.
    async fn losses(&self) -> impl Stream<Item = (String, String)> {
        let rule = MatchRule::builder().msg_type(Type::Signal).member("LockLost").build();
        let losses = MessageStream::for_match_rule(rule.unwrap(), &self.bus, None).await.unwrap();
        losses.map(|message| {
            let message = message.unwrap();
            let object = message.header().path().unwrap().to_string();
            let body = message.body();
            let reason = if object == vmlockd::client::MANAGER_PATH {
                let told: (OwnedObjectPath, OwnedObjectPath, String, String) =
                    body.deserialize().unwrap();
                told.3
            } else {
                body.deserialize::<(OwnedObjectPath, String, String)>().unwrap().2
            };
            (object, reason)
        })
    }

    /// Checks that the first lock is reported as lost for this reason everywhere, and that no other
    /// owner gets its disk.
    async fn is_lost(&self, losses: impl Stream<Item = (String, String)>, why: &str) {
        let mut losses = pin!(losses);
        let mut told = Vec::new();
        for _ in 0..2 {
            told.push(within("LockLost", losses.next()).await.unwrap());
        }
        told.sort();
        let of = |object: &str| (object.to_owned(), why.to_owned());
        assert_eq!(told, [of(vmlockd::client::MANAGER_PATH), of(&self.web1.path())]);
        let line = format!("LOST the lock on {}", path(&self.disks[0]));
        let is_it = |said: &str| said.contains(&line) && said.contains("ERROR");
        let logged = async {
            while !self.fixture.daemon().stderr().lines().any(is_it) {
                manager(&self.bus).await.n_locks().await.unwrap();
            }
        };
        within(&line, logged).await;
        self.until_said([(false, true), (true, false)]).await;
        ForeignHolder::try_once(&self.lock_files[1], LockType::Ofd, true).unwrap_err();
    }

    /// Both are there, and are given back when the machine ends.
    async fn end(self) {
        for file in &self.lock_files {
            ForeignHolder::try_once(file, LockType::Ofd, true).unwrap_err();
        }
        drop(self.web1);
        let gone = async { while !Listed::by(&self.bus).await.owners.is_empty() {} };
        within("the machine's end", gone).await;
        self.disks.iter().for_each(|disk| assert_free(disk));
    }
}

fn path(disk: &Path) -> &str {
    disk.to_str().unwrap()
}

async fn a_foreign_holder_locks_one_meanwhile(config: &str) {
    let scenario = Scenario::set_up(config).await;
    let before = Listed::by(&scenario.bus).await;
    let daemon = scenario.fixture.daemon();
    daemon.kill9().await;
    let foreign_holder =
        ForeignHolder::hold(&scenario.lock_files[0], LockType::Posix, true).unwrap();
    let losses = scenario.losses().await;
    daemon.start_again().await;
    scenario.is_lost(losses, "taken").await;
    assert_eq!(Listed::by(&scenario.bus).await, before);

    let other = TestVm::open(&scenario.bus, "other").await;
    let refused = other.acquire(&[exclusive(&scenario.disks[0])]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", "web1");
    other.owner.close(none()).await.unwrap();

    foreign_holder.release();
    scenario.until_said([(true, false); 2]).await;
    daemon.logs(&format!("regained the lock on {}", path(&scenario.disks[0]))).await;
    assert_eq!(
        owner(&scenario.bus, scenario.web1.path()).await.locks().await.unwrap(),
        scenario.locks
    );
    scenario.end().await;
}

#[tokio::test]
async fn a_lock_acquired_by_a_foreign_holder_meanwhile_is_lost() {
    a_foreign_holder_locks_one_meanwhile("").await;
}

#[tokio::test]
async fn a_hashed_lock_acquired_by_a_foreign_holder_meanwhile_is_lost() {
    a_foreign_holder_locks_one_meanwhile("file_lockspace_dir = \"@DIR@/locks\"\n").await;
}

/// The file that has the disk's name now is not the one that the VM has open, and is not locked in
/// its place.
#[tokio::test]
async fn a_lock_on_a_replaced_file_is_lost() {
    let scenario = Scenario::set_up("").await;
    let daemon = scenario.fixture.daemon();
    daemon.kill9().await;
    let [disk, _] = &scenario.disks;
    let aside = scenario.fixture.dir().join("aside");
    fs::rename(disk, &aside).unwrap();
    scenario.fixture.raw_of(0, "first");
    let losses = scenario.losses().await;
    daemon.start_again().await;
    scenario.is_lost(losses, "replaced").await;
    assert_free(disk);

    fs::rename(&aside, disk).unwrap();
    scenario.until_said([(true, false); 2]).await;
    scenario.end().await;
}

/// Owners that end while it is away have ended when it comes back; living ones keep all their
/// locks.
#[tokio::test]
async fn living_owners_lose_nothing_and_ended_owners_everything() {
    let scenario = Scenario::set_up("").await;
    let daemon = scenario.fixture.daemon();
    let disks = ["process", "lifeline"].map(|name| scenario.fixture.raw_of(0, name));
    let before = Listed::by(&scenario.bus).await;
    let mut sleep = std::process::Command::new("sleep");
    sleep.arg("infinity");
    let process = Process::start("web2", sleep, &scenario.fixture.dir().join("web2.log"));
    let registered =
        manager(&scenario.bus).await.register_owner("", "web2", process.pid(), none()).await;
    let web2 = owner(&scenario.bus, registered.unwrap()).await;
    web2.acquire(&[exclusive(&disks[0])], none()).await.unwrap();
    let web3 = TestVm::open(&scenario.bus, "web3").await;
    web3.acquire(&[exclusive(&disks[1])]).await.unwrap();

    daemon.kill9().await;
    drop((process, web3));
    daemon.start_again().await;
    let gone = async { while Listed::by(&scenario.bus).await != before {} };
    within("those who have ended are gone", gone).await;
    for disk in &disks {
        assert_free(disk);
    }
    scenario.until_said([(true, false); 2]).await;
    scenario.end().await;
}
