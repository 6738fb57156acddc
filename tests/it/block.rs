//! Block devices: what lies on what, what the host uses itself, and the names of lock files that hosts
//! agree on.

mod file_systems;
mod in_use;
mod incomplete;
mod layers;
mod loops;
mod moved;
mod names;
mod overlay;
mod swap;

use std::path::Path;

use zbus::{Connection, OwnedObjectPath};

use crate::house::{House, Looped, within};
use crate::machine::{Answer, Machine, exclusive, lock, manager, option, shared};
use crate::methods::none;
use crate::untouched::assert_refused;
use crate::wait::{LONG, until_waiting};

type Waiting = tokio::task::JoinHandle<Answer<Vec<OwnedObjectPath>>>;

/// Two machines ask for two disks of which the second lies on the first.
async fn meet(house: &House, lower: &Path, upper: &Path) {
    let bus = house.connection().await;
    let (web1, web2) = (Machine::open(&bus, "web1").await, Machine::open(&bus, "web2").await);
    for (first, second, remark) in
        [(lower, upper, ", on which it lies"), (upper, lower, ", which lies on it")]
    {
        let locks = web1.acquire(&[exclusive(first)]).await.unwrap();
        let through = format!("through {}{remark}", first.display());
        for wish in [exclusive(second), shared(second)] {
            let refused = web2.acquire(&[wish]).await.unwrap_err();
            assert_refused(&refused, "LockHeld", &through);
        }
        let (manager, name) = (manager(&bus).await, second.to_str().unwrap());
        let found = manager.find_holders(name, none()).await.unwrap();
        assert_eq!(<&str>::try_from(&found[0]["name"]).unwrap(), "web1");
        // Who has the one gets the other, and that is another lock.
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
async fn a_loop_device_and_what_it_was_made_of_are_not_given_to_two() {
    let device = Looped::new();
    let upper = Looped::attach(device.node());
    let house = House::builder().start().await;
    let file = device.file();
    meet(&house, &file, device.node()).await;
    // A link to the file is the file, and what lies on what lies on it lies on it.
    let link = house.dir().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    meet(&house, &link, upper.node()).await;
    meet(&house, device.node(), upper.node()).await;
}

#[tokio::test]
async fn a_disk_and_its_partitions_are_not_given_to_two_but_two_partitions_are() {
    let mut device = Looped::new();
    let parts = [device.part(64, 64), device.part(256, 64)];
    let house = House::builder().start().await;
    let file = device.file();
    for part in &parts {
        meet(&house, device.node(), part).await;
        meet(&house, &file, part).await;
    }
    let bus = house.connection().await;
    let (web1, web2) = (Machine::open(&bus, "web1").await, Machine::open(&bus, "web2").await);
    web1.acquire(&[exclusive(&parts[0])]).await.unwrap();
    web2.acquire(&[exclusive(&parts[1])]).await.unwrap();
}

/// Has a machine wait for a disk, and returns once it does.
async fn wait(bus: &Connection, machine: &Machine, disk: &Path) -> Waiting {
    let before = manager(bus).await.n_waiting().await.unwrap();
    let (owner, disk) = (machine.owner.clone(), disk.to_str().unwrap().to_owned());
    let task = tokio::spawn(async move {
        let wish = [(disk.as_str(), "exclusive")];
        Ok(owner.acquire(&wish, option("timeout-usec", LONG)).await?)
    });
    until_waiting(bus, before + 1).await;
    task
}

#[tokio::test]
async fn who_waits_for_a_disk_waits_for_all_its_parts_and_is_not_overtaken_there() {
    let mut device = Looped::new();
    let (one, two) = (device.part(64, 64), device.part(256, 64));
    let house = House::builder().start().await;
    let bus = house.connection().await;
    let [web1, web2, web3] = [
        Machine::open(&bus, "web1").await,
        Machine::open(&bus, "web2").await,
        Machine::open(&bus, "web3").await,
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
async fn what_a_disk_lies_on_is_known_after_a_crash() {
    let device = Looped::new();
    let (house, file) = (House::builder().start().await, device.file());
    let bus = house.connection().await;
    let web1 = Machine::open(&bus, "web1").await;
    web1.owner.bind_pid(std::process::id(), none()).await.unwrap();
    web1.acquire(&[exclusive(device.node())]).await.unwrap();
    house.daemon().kill9().await;
    house.daemon().start_again().await;
    let bus = house.connection().await;
    let web2 = Machine::open(&bus, "web2").await;
    let refused = web2.acquire(&[exclusive(&file)]).await.unwrap_err();
    let through = format!("through {}, which lies on it", device.node().display());
    assert_refused(&refused, "LockHeld", &through);
}
