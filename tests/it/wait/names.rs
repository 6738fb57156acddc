//! The name that a request waits for is given to another disk, or to none.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use zbus::{Connection, OwnedObjectPath};

use super::{LONG, until_waiting, wait};
use crate::dbus_client::{self, TestVm, exclusive, lock, manager, option};
use crate::fixture::user::NOBODY;
use crate::fixture::{Answer, Fixture, polkit, within};
use crate::refused_requests::{assert_free, assert_refused};

type Waiting = tokio::task::JoinHandle<dbus_client::Answer<Vec<OwnedObjectPath>>>;

/// A machine that holds a disk, and one that waits for it by name.
struct Scenario {
    fixture: Fixture,
    bus: Connection,
    disk: std::path::PathBuf,
    web1: TestVm,
    held: Vec<OwnedObjectPath>,
    web2: TestVm,
    waiting: Waiting,
}

impl Scenario {
    async fn set_up() -> Self {
        let fixture = Fixture::builder().start().await;
        let bus = fixture.connection().await;
        let disk = fixture.raw_of(0, "disk");
        let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
        let held = web1.acquire(&[exclusive(&disk)]).await.unwrap();
        let waiting = wait(&bus, &web2, &[exclusive(&disk)], LONG).await;
        Self { fixture, bus, disk, web1, held, web2, waiting }
    }

    /// Renames another disk over the name; the held disk has no name any more.
    fn replace(&self) {
        let new = self.fixture.raw_of(0, "new");
        fs::rename(new, &self.disk).unwrap();
    }
}

/// The waiting request is granted, and holds what has the name now.
async fn has(bus: &Connection, waiting: Waiting, disk: &Path) -> Vec<OwnedObjectPath> {
    let locks = within("the lock", waiting).await.unwrap().unwrap();
    let identity = lock(bus, &locks[0]).await.identity().await.unwrap();
    let inode = fs::metadata(disk).unwrap().ino();
    assert!(identity.ends_with(&format!(":{inode}")), "{identity} is not inode {inode}");
    locks
}

#[tokio::test]
async fn a_wait_follows_a_replaced_disk_to_the_new_one() {
    let scenario = Scenario::set_up().await;
    scenario.replace();
    // The old disk stays locked: nothing reports that the new one is free.
    has(&scenario.bus, scenario.waiting, &scenario.disk).await;
    assert_eq!(scenario.web1.locks().await, scenario.held);
}

#[tokio::test]
async fn a_release_finds_the_disk_that_has_the_name_then() {
    let scenario = Scenario::set_up().await;
    scenario.replace();
    scenario.web1.release(&scenario.held).await.unwrap();
    let locks = has(&scenario.bus, scenario.waiting, &scenario.disk).await;
    scenario.web2.release(&locks).await.unwrap();
    assert_free(&scenario.disk);
}

#[tokio::test]
async fn a_name_that_leads_nowhere_is_not_waited_for() {
    for gone in ["deleted", "moved"] {
        for release in [false, true] {
            let scenario = Scenario::set_up().await;
            match gone {
                "deleted" => fs::remove_file(&scenario.disk).unwrap(),
                _ => fs::rename(&scenario.disk, scenario.fixture.dir().join("elsewhere")).unwrap(),
            }
            if release {
                scenario.web1.release(&scenario.held).await.unwrap();
            }
            let refused = within("its end", scenario.waiting).await.unwrap().unwrap_err();
            let words = format!("disk {} does not exist", scenario.disk.display());
            assert_refused(&refused, "DBus.Error.FileNotFound", &words);
            until_waiting(&scenario.bus, 0).await;
            assert!(scenario.web2.locks().await.is_empty());
        }
    }
}

#[tokio::test]
async fn a_link_is_followed_to_where_it_leads_then() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (one, two, link) =
        (fixture.raw_of(0, "one"), fixture.raw_of(0, "two"), fixture.dir().join("link"));
    symlink(&one, &link).unwrap();
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let held = web1.acquire(&[exclusive(&link)]).await.unwrap();
    let waiting = wait(&bus, &web2, &[exclusive(&link)], LONG).await;
    fs::remove_file(&link).unwrap();
    symlink(&two, &link).unwrap();
    web1.release(&held).await.unwrap();
    has(&bus, waiting, &two).await;
    assert_free(&one);
}

#[tokio::test]
async fn the_new_disk_is_waited_for_in_the_order_of_the_requests() {
    let scenario = Scenario::set_up().await;
    let new = scenario.fixture.raw_of(0, "new");
    let (web3, web4) =
        (TestVm::open(&scenario.bus, "web3").await, TestVm::open(&scenario.bus, "web4").await);
    let other = scenario.fixture.dir().join("other");
    fs::hard_link(&new, &other).unwrap();
    let held = web3.acquire(&[exclusive(&new)]).await.unwrap();
    // Later than web2's request.
    let later = wait(&scenario.bus, &web4, &[exclusive(&other)], LONG).await;
    fs::rename(&new, &scenario.disk).unwrap();
    scenario.web1.release(&scenario.held).await.unwrap();
    // It waits on, now for what web3 holds.
    let manager = manager(&scenario.bus).await;
    let lock = lock(&scenario.bus, &held[0]).await;
    let both = async { while lock.n_waiting().await.unwrap() != 2 {} };
    within("both wait for the new disk", both).await;
    assert_eq!(manager.n_waiting().await.unwrap(), 2);
    web3.release(&held).await.unwrap();
    let locks = has(&scenario.bus, scenario.waiting, &scenario.disk).await;
    assert!(!later.is_finished());
    scenario.web2.release(&locks).await.unwrap();
    has(&scenario.bus, later, &other).await;
}

#[tokio::test]
async fn an_owner_that_is_opened_with_its_disks_has_the_new_one() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "disk");
    let web1 = TestVm::open(&bus, "web1").await;
    let held = web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let opening = tokio::spawn({
        let (bus, disk) = (fixture.connection().await, disk.clone());
        async move {
            let mut options = option("resources", vec![exclusive(&disk)]);
            options.extend(option("timeout-usec", LONG));
            TestVm::open_with(&bus, "", "web2", options).await
        }
    });
    until_waiting(&bus, 1).await;
    fs::rename(fixture.raw_of(0, "new"), &disk).unwrap();
    web1.release(&held).await.unwrap();
    let web2 = within("it is opened", opening).await.unwrap().unwrap();
    let locks = web2.locks().await;
    let identity = lock(&bus, &locks[0]).await.identity().await.unwrap();
    let inode = fs::metadata(&disk).unwrap().ino();
    assert!(identity.ends_with(&format!(":{inode}")), "{identity}");
}

#[tokio::test]
async fn an_unprivileged_caller_follows_no_symlink() {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    fixture.polkit().mock().answer(Answer::Allow);
    let (bus, user) = (fixture.connection().await, fixture.connection_as(NOBODY).await);
    let (disk, secret) = (fixture.raw_of(0, "disk"), fixture.raw_of(0, "secret"));
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&user, "web2").await);
    let held = web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let waiting = wait(&bus, &web2, &[exclusive(&disk)], LONG).await;
    fs::remove_file(&disk).unwrap();
    symlink(&secret, &disk).unwrap();
    web1.release(&held).await.unwrap();
    let refused = within("its end", waiting).await.unwrap().unwrap_err();
    assert_refused(&refused, "NotLockable", "symbolic link");
    // A file it may wait for.
    let held = web1.acquire(&[exclusive(&secret)]).await.unwrap();
    let waiting = wait(&bus, &web2, &[exclusive(&secret)], LONG).await;
    fs::rename(fixture.raw_of(0, "new"), &secret).unwrap();
    web1.release(&held).await.unwrap();
    has(&bus, waiting, &secret).await;
}

#[tokio::test]
async fn a_passed_file_is_not_resolved_again() {
    let scenario = Scenario::set_up().await;
    let web3 = TestVm::open(&scenario.bus, "web3").await;
    let file = fs::File::options().read(true).write(true).open(&scenario.disk).unwrap();
    let owner = web3.owner.clone();
    let waiting = tokio::spawn(async move {
        let files = [(file.as_fd().into(), "exclusive")];
        let timeout = option("timeout-usec", LONG);
        Ok::<_, dbus_client::Refused>(owner.acquire_with_files(&[], &files, timeout).await?)
    });
    until_waiting(&scenario.bus, 2).await;
    scenario.replace();
    scenario.web1.release(&scenario.held).await.unwrap();
    has(&scenario.bus, scenario.waiting, &scenario.disk).await;
    let refused = within("its end", waiting).await.unwrap().unwrap_err();
    assert_refused(&refused, "ResourceChanged", "was replaced");
    assert_eq!(manager(&scenario.bus).await.n_waiting().await.unwrap(), 0);
}
