//! Block devices: what lies on what, what the host uses itself, and the names of lock files that hosts
//! agree on.

mod changed_range;
mod file_systems;
mod in_use;
mod incomplete;
mod layers;
mod lock_file_names;
mod loops;
mod overlay;
mod swap;

use std::path::Path;

use zbus::{Connection, OwnedObjectPath};

use crate::dbus_client::{Answer, TestVm, exclusive, lock, manager, option, shared};
use crate::fixture::{Fixture, LoopDevice, within};
use crate::methods::none;
use crate::refused_requests::assert_refused;
use crate::wait::{LONG, until_waiting};

type Waiting = tokio::task::JoinHandle<Answer<Vec<OwnedObjectPath>>>;

/// Two machines ask for two disks of which the second lies on the first.
async fn meet(fixture: &Fixture, lower: &Path, upper: &Path) {
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    for (first, second, remark) in
        [(lower, upper, ", on which it lies"), (upper, lower, ", which lies on it")]
    {
        let locks = web1.acquire(&[exclusive(first)]).await.unwrap();
        let through = format!("through {}{remark}", first.display());
        for disk_request in [exclusive(second), shared(second)] {
            let refused = web2.acquire(&[disk_request]).await.unwrap_err();
            assert_refused(&refused, "LockHeld", &through);
        }
        let (manager, name) = (manager(&bus).await, second.to_str().unwrap());
        let found = manager.find_holders(name, none()).await.unwrap();
        assert_eq!(<&str>::try_from(&found[0]["name"]).unwrap(), "web1");
        // The holder of the one gets the other, which is another lock.
        let other = web1.acquire(&[exclusive(second)]).await.unwrap();
        assert_ne!(locks, other);
        web1.release(&other).await.unwrap();
        web1.release(&locks).await.unwrap();
        let one = web1.acquire(&[shared(first)]).await.unwrap();
        let other = web2.acquire(&[shared(second)]).await.unwrap();
        let alone = lock(&bus, &one[0]).await.convert("exclusive", none()).await;
        assert_refused(&alone.unwrap_err().into(), "LockHeld", "by VM \"web2\"");
        web2.release(&other).await.unwrap();
        web1.release(&one).await.unwrap();
    }
}

#[tokio::test]
async fn a_loop_device_conflicts_with_its_backing_file() {
    let device = LoopDevice::new();
    let upper = LoopDevice::attach(device.node());
    let fixture = Fixture::builder().start().await;
    let file = device.file();
    meet(&fixture, &file, device.node()).await;
    // A link to the file is the file, and what lies on what lies on it lies on it.
    let link = fixture.dir().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    meet(&fixture, &link, upper.node()).await;
    meet(&fixture, device.node(), upper.node()).await;
}

#[tokio::test]
async fn a_disk_conflicts_with_its_partitions_and_two_partitions_do_not() {
    let mut device = LoopDevice::new();
    let parts = [device.part(64, 64), device.part(256, 64)];
    let fixture = Fixture::builder().start().await;
    let file = device.file();
    for part in &parts {
        meet(&fixture, device.node(), part).await;
        meet(&fixture, &file, part).await;
    }
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    web1.acquire(&[exclusive(&parts[0])]).await.unwrap();
    web2.acquire(&[exclusive(&parts[1])]).await.unwrap();
}

/// Starts a task in which a VM waits for a disk, and returns once it waits.
async fn wait(bus: &Connection, machine: &TestVm, disk: &Path) -> Waiting {
    let before = manager(bus).await.n_waiting().await.unwrap();
    let (owner, disk) = (machine.owner.clone(), disk.to_str().unwrap().to_owned());
    let task = tokio::spawn(async move {
        let disk_request = [(disk.as_str(), "exclusive")];
        Ok(owner.acquire(&disk_request, option("timeout-usec", LONG)).await?)
    });
    until_waiting(bus, before + 1).await;
    task
}

#[tokio::test]
async fn a_request_for_a_disk_waits_for_its_partitions_and_is_not_overtaken() {
    let mut device = LoopDevice::new();
    let (one, two) = (device.part(64, 64), device.part(256, 64));
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let [web1, web2, web3] = [
        TestVm::open(&bus, "web1").await,
        TestVm::open(&bus, "web2").await,
        TestVm::open(&bus, "web3").await,
    ];
    let locks = web1.acquire(&[exclusive(&one)]).await.unwrap();
    let whole = wait(&bus, &web2, device.node()).await;
    // Free, but claimed with the whole disk.
    let refused = web3.acquire(&[exclusive(&two)]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", "waited for");
    let part = wait(&bus, &web3, &two).await;
    web1.release(&locks).await.unwrap();
    let locks = within("the disk", whole).await.unwrap().unwrap();
    assert_eq!(manager(&bus).await.n_waiting().await.unwrap(), 1);
    web2.release(&locks).await.unwrap();
    within("the part", part).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_lower_devices_of_a_disk_are_known_after_a_crash() {
    let device = LoopDevice::new();
    let (fixture, file) = (Fixture::builder().start().await, device.file());
    let bus = fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    web1.owner.bind_pid(std::process::id(), none()).await.unwrap();
    web1.acquire(&[exclusive(device.node())]).await.unwrap();
    fixture.daemon().kill9().await;
    fixture.daemon().start_again().await;
    let bus = fixture.connection().await;
    let web2 = TestVm::open(&bus, "web2").await;
    let refused = web2.acquire(&[exclusive(&file)]).await.unwrap_err();
    let through = format!("through {}, which lies on it", device.node().display());
    assert_refused(&refused, "LockHeld", &through);
}
