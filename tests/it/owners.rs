//! An owner lives as long as anything keeps it alive, and not longer.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::process::{Child, Command};
use vmlockd::client::{ManagerProxy, Options};
use zbus::Fd;
use zbus::fdo::PropertiesProxy;

use crate::dbus_client::{Refused, TestVm, exclusive, manager, option, owner};
use crate::fixture::user::NOBODY;
use crate::fixture::{Fixture, ForeignHolder, LockType, NameWatch, within};

fn sleeper() -> Child {
    Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap()
}

fn none() -> Options<'static> {
    HashMap::new()
}

/// The reasons with which locks are released, as they come.
pub(crate) async fn releases(manager: &ManagerProxy<'static>) -> impl AsyncFnMut() -> String {
    let mut stream = manager.receive_lock_released().await.unwrap();
    async move || {
        let told = within("a release", stream.next()).await.unwrap();
        told.args().unwrap().reason().clone()
    }
}

fn is_free(image: &Path) -> bool {
    ForeignHolder::try_once(image, LockType::Ofd, true).is_ok()
}

#[tokio::test]
async fn a_lifeline_that_a_child_inherited_outlives_its_parent() {
    let fixture = Fixture::builder().start().await;
    let (bus, image) = (fixture.connection().await, fixture.image("a").await);
    let manager = manager(&fixture.connection().await).await;
    let mut released = releases(&manager).await;
    let vm = TestVm::open(&bus, "web1").await;
    vm.acquire(&[exclusive(&image)]).await.unwrap();
    fcntl(&vm.lifeline, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let mut child = sleeper();
    drop(vm);
    // The manager of the machine goes, and takes its bus connection along: nothing is freed.
    bus.close().await.unwrap();
    let owners = manager.list_owners(none()).await.unwrap();
    assert_eq!(owners.len(), 1);
    assert!(!is_free(&image));

    let killed = Instant::now();
    child.kill().await.unwrap();
    assert_eq!(released().await, "owner-gone");
    // A promise of the README; it takes a millisecond where nothing else runs.
    assert!(killed.elapsed() < Duration::from_millis(100), "{:?}", killed.elapsed());
    assert!(is_free(&image));
    assert_eq!(manager.n_owners().await.unwrap(), 0);
}

#[tokio::test]
async fn a_killed_vm_unlocks_its_disks() {
    let fixture = Fixture::builder().start().await;
    let (bus, image) = (fixture.connection().await, fixture.image("a").await);
    let manager = manager(&bus).await;
    let mut released = releases(&manager).await;
    let mut vm = sleeper();
    let pid = vm.id().unwrap();
    let options = option("resources", vec![exclusive(&image)]);
    let path = manager.register_owner("", "web1", pid, options).await.unwrap();
    let machine = owner(&bus, path.clone()).await;
    assert_eq!(machine.pid().await.unwrap(), pid);
    assert_eq!(machine.anchors().await.unwrap(), ["process"]);
    assert_eq!(manager.get_owner_by_pid(pid).await.unwrap(), path);
    assert!(!is_free(&image));
    vm.start_kill().unwrap();
    assert_eq!(released().await, "owner-gone");
    assert!(is_free(&image));
    vm.wait().await.unwrap();
    assert!(machine.pid().await.is_err());
}

#[tokio::test]
async fn the_last_anchor_decides() {
    let fixture = Fixture::builder().start().await;
    let (bus, image) = (fixture.connection().await, fixture.image("a").await);
    let manager = manager(&bus).await;
    let mut released = releases(&manager).await;
    let mut qemu = sleeper();
    let pid = Pid::from_raw(qemu.id().unwrap().cast_signed()).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();

    let vm = TestVm::open(&bus, "web1").await;
    vm.acquire(&[exclusive(&image)]).await.unwrap();
    vm.owner.bind_process(Fd::from(pidfd.as_fd()), none()).await.unwrap();
    let second = vm.owner.new_lifeline(none()).await.unwrap();
    assert_eq!(vm.owner.anchors().await.unwrap(), ["lifeline", "process", "lifeline"]);
    let properties = PropertiesProxy::builder(&bus)
        .destination("org.vmlockd1")
        .path(vm.path())
        .build()
        .await
        .unwrap();
    let mut changes = properties.receive_properties_changed().await.unwrap();
    let mut left = async || loop {
        let change = within("a change", changes.next()).await.unwrap();
        if let Some(anchors) = change.args().unwrap().changed_properties().get("Anchors") {
            return <Vec<String>>::try_from(anchors.try_clone().unwrap()).unwrap();
        }
    };
    let TestVm { owner, lifeline } = vm;
    drop(lifeline);
    assert_eq!(left().await, ["process", "lifeline"]);
    qemu.kill().await.unwrap();
    assert_eq!(left().await, ["lifeline"]);
    assert_eq!(owner.pid().await.unwrap(), 0);
    assert!(!is_free(&image));
    drop(second);
    assert_eq!(released().await, "owner-gone");
    assert!(is_free(&image));
}

#[tokio::test]
async fn a_manual_owner_stays_until_it_is_closed() {
    let fixture = Fixture::builder().start().await;
    let (bus, image) = (fixture.connection().await, fixture.image("a").await);
    let manager = manager(&bus).await;
    let mut released = releases(&manager).await;
    let uuid = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";
    let vm = TestVm::open_with(&bus, uuid, "backup", option("manual", true)).await.unwrap();
    vm.acquire(&[exclusive(&image)]).await.unwrap();
    assert_eq!(vm.owner.anchors().await.unwrap(), ["lifeline", "manual"]);
    drop(vm.lifeline);
    let path = "/org/vmlockd1/owner/_4dea22b3_1d52_d8f3_2516_782e98ab3fa0";
    assert_eq!(manager.get_owner(uuid).await.unwrap().as_str(), path);
    // Asking to open it again is no way to get it.
    let again = TestVm::open_with(&bus, uuid, "backup", none()).await.unwrap_err();
    assert_eq!(again.name, "OwnerExists");
    assert!(again.message.contains(uuid), "{again:?}");
    assert!(!is_free(&image));
    vm.owner.close(none()).await.unwrap();
    assert_eq!(released().await, "owner-closed");
    assert!(is_free(&image));
    let gone = Refused::from(manager.get_owner(uuid).await.unwrap_err());
    assert_eq!(gone.name, "NoSuchOwner");
}

#[tokio::test]
async fn the_lifeline_shows_that_its_owner_was_closed() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let TestVm { owner, lifeline } = TestVm::open(&bus, "web1").await;
    let end = tokio::net::unix::pipe::Receiver::from_owned_fd(lifeline).unwrap();
    owner.close(none()).await.unwrap();
    within("the end of the pipe", end.readable()).await.unwrap();
    assert_eq!(end.try_read(&mut [0]).unwrap(), 0);
}

#[tokio::test]
async fn a_restarted_vm_is_accepted_after_its_old_owner() {
    let fixture = Fixture::builder().start().await;
    let (bus, image) = (fixture.connection().await, fixture.image("a").await);
    let uuid = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";
    for _ in 0..50 {
        let mut old = sleeper();
        let manager = manager(&bus).await;
        let disks = || option("resources", vec![exclusive(&image)]);
        manager.register_owner(uuid, "web1", old.id().unwrap(), disks()).await.unwrap();
        // Whether the service has seen the end of the old one yet or not: what it may answer is
        // that the owner is there still, never that the disk is its successor's and not free.
        old.start_kill().unwrap();
        old.wait().await.unwrap();
        let next = loop {
            match TestVm::open_with(&bus, uuid, "web1", disks()).await {
                Ok(machine) => break machine,
                Err(refused) => assert_eq!(refused.name, "OwnerExists", "{refused:?}"),
            }
        };
        next.owner.close(none()).await.unwrap();
    }
}

#[tokio::test]
async fn owners_belong_to_one_user() {
    let fixture = Fixture::builder().session_of(NOBODY).start().await;
    let bus = fixture.connection_as(NOBODY).await;
    let uuid = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";
    let vm = TestVm::open_with(&bus, uuid, "web1", none()).await.unwrap();
    let path = format!("/org/vmlockd1/owner/_4dea22b3_1d52_d8f3_2516_782e98ab3fa0_{NOBODY}");
    assert_eq!(vm.path().as_str(), path);
    assert_eq!(manager(&bus).await.get_owner(uuid).await.unwrap().as_str(), path);
    assert_eq!(vm.owner.uid().await.unwrap(), NOBODY);
    // In its own instance, the user locks by name without a check.
    let image = fixture.image_of(NOBODY, "a").await;
    vm.acquire(&[exclusive(&image)]).await.unwrap();
    assert!(!is_free(&image));
}

#[tokio::test]
async fn the_bus_goes_away_and_comes_back_and_everything_is_as_before() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a").await;
    let bus = fixture.connection().await;
    let vm = TestVm::open(&bus, "web1").await;
    let locks = vm.acquire(&[exclusive(&image)]).await.unwrap();
    fixture.bus().stop();
    assert!(!is_free(&image));
    fixture.bus().start().await;
    let bus = fixture.connection().await;
    NameWatch::new(&bus, "org.vmlockd1").await.owned_by(fixture.daemon().pid()).await;
    assert!(!is_free(&image));
    let again = owner(&bus, vm.path()).await;
    assert_eq!(again.locks().await.unwrap(), locks);
    // Its lifeline was no matter of the bus.
    let manager = manager(&bus).await;
    let mut released = releases(&manager).await;
    drop(vm.lifeline);
    assert_eq!(released().await, "owner-gone");
    assert!(is_free(&image));
}

#[tokio::test]
async fn a_thousand_owners_with_four_locks_each() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let manager = manager(&bus).await;
    let mut machines = Vec::new();
    for n in 0..1000 {
        let images: Vec<_> = (0..4).map(|d| fixture.raw_of(0, &format!("{n}-{d}"))).collect();
        let disk_request: Vec<_> = images.iter().map(|image| exclusive(image)).collect();
        let machine = TestVm::open(&bus, &format!("vm{n}")).await;
        assert_eq!(machine.acquire(&disk_request).await.unwrap().len(), 4);
        machines.push(machine);
    }
    assert_eq!(manager.n_owners().await.unwrap(), 1000);
    assert_eq!(manager.list_locks(none()).await.unwrap().len(), 4000);
    assert_eq!(manager.list_owners(none()).await.unwrap().len(), 1000);
    let objects = zbus::fdo::ObjectManagerProxy::builder(&bus)
        .destination("org.vmlockd1")
        .path("/org/vmlockd1")
        .build()
        .await
        .unwrap();
    let objects = objects.get_managed_objects().await.unwrap();
    let with = |interface: &str| {
        objects
            .values()
            .filter(|object| object.keys().any(|name| name.as_str() == interface))
            .count()
    };
    assert_eq!((with("org.vmlockd1.Owner"), with("org.vmlockd1.Lock")), (1000, 4000));
    // All of them go at once.
    let mut released = releases(&manager).await;
    drop(machines);
    for _ in 0..4000 {
        assert_eq!(released().await, "owner-gone");
    }
    assert!(is_free(&fixture.dir().join("999-3")));
    assert_eq!((manager.n_owners().await.unwrap(), manager.n_locks().await.unwrap()), (0, 0));
}
