//! A runtime directory in which nothing more can be written.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use zbus::Connection;

use super::scene::Place;
use crate::house::{Daemon, House, Intruder, Launch, Mounted, within};
use crate::listed::Listed;
use crate::machine::{Machine, Refused, exclusive};
use crate::methods::none;
use crate::untouched::{assert_free, assert_refused};

/// Takes all the room that there is; removing the file gives it back.
fn fill(directory: &Path) -> PathBuf {
    let path = directory.join("filling");
    let mut file = File::create(&path).unwrap();
    while file.write_all(&[b'.'; 512]).is_ok() {}
    path
}

/// Acquires until it is refused: the last page of a file has some room still. Tells the disk that
/// was refused.
async fn until_refused(
    machine: &Machine,
    mut disk: impl FnMut(usize) -> PathBuf,
) -> (PathBuf, Refused) {
    for number in 0..100 {
        let disk = disk(number);
        if let Err(refused) = machine.acquire(&[exclusive(&disk)]).await {
            return (disk, refused);
        }
    }
    panic!("there is room for everything");
}

async fn small(house: &House) -> (Mounted, Daemon) {
    let runtime_dir = house.dir().join("small");
    let mounted = Mounted::small(&runtime_dir);
    let launch = Launch { runtime_dir, ..house.launch() };
    (mounted, Daemon::start(house.bus(), launch).await)
}

fn held(house: &House, listed: &Listed) -> Intruder {
    let files: Vec<_> = listed.locks.values().map(|lock| (&lock["lock-file"]).into()).collect();
    Intruder::at(&files, &house.dir().join("intruder.log"))
}

const FULL: &str = "No space left on device";

#[tokio::test]
async fn no_room_for_records() {
    let house = House::builder().without_daemon().start().await;
    let (_mounted, daemon) = small(&house).await;
    let bus: Connection = house.connection().await;
    let web1 = Machine::open(&bus, "web1").await;
    let first = house.raw_of(0, "first");
    let lock = web1.acquire(&[exclusive(&first)]).await.unwrap();
    let filling = fill(&daemon.launch().runtime_dir);

    let name = |number| house.raw_of(0, &format!("{number}.raw"));
    let (refused_disk, refused) = until_refused(&web1, name).await;
    assert_refused(&refused, "DBus.Error.IOError", FULL);
    // Less is written of an owner than of a lock.
    let mut others = Vec::new();
    while let Ok(other) = Machine::open_with(&bus, "", "web2", none()).await {
        others.push(other);
    }
    let before = Listed::by(&bus).await;
    let descriptors = daemon.open_fds();
    let intruder = held(&house, &before);
    for _ in 0..3 {
        let refused = web1.acquire(&[exclusive(&refused_disk)]).await.unwrap_err();
        assert_refused(&refused, "DBus.Error.IOError", FULL);
        let refused: Refused = Machine::open_with(&bus, "", "web2", none()).await.unwrap_err();
        assert_refused(&refused, "DBus.Error.IOError", FULL);
    }
    assert_free(&refused_disk);
    assert_eq!(Listed::by(&bus).await, before);
    let closed = async {
        while daemon.open_fds() != descriptors {
            Listed::by(&bus).await;
        }
    };
    within("descriptors are closed", closed).await;
    intruder.stop().were_refused();

    // What is given back needs no room.
    web1.release(&lock).await.unwrap();
    assert_free(&first);
    assert_eq!(Listed::by(&bus).await.locks.len(), before.locks.len() - 1);
    fs::remove_file(filling).unwrap();
    web1.acquire(&[exclusive(&refused_disk), exclusive(&first)]).await.unwrap();
    let before = Listed::by(&bus).await;
    daemon.kill9().await;
    daemon.start_again().await;
    assert_eq!(Listed::by(&bus).await, before);
    held(&house, &before).stop();
    drop((web1, others));
    let gone = async { while !Listed::by(&bus).await.owners.is_empty() {} };
    within("the machine's end", gone).await;
    assert_free(&first);
}

/// Killed where there is no room, the service can't begin; all stays locked until there is.
#[tokio::test]
async fn no_room_for_a_successor() {
    let Some(mut place) = Place::boot("").await else { return };
    let run = place.host.at("/run/vmlockd");
    place.host.run(&["mount", "-t", "tmpfs", "-o", "size=64k", "none", "/run/vmlockd"]).await.ok();
    place.host.systemctl(&["restart", "vmlockd"]).await;
    place.came_back().await;
    let mut scene = super::scene::Scene::set(&mut place).await;
    let filling = fill(&run);
    let place = scene.place();
    place.stop(|_| ());
    place.tried_again().await;
    fs::remove_file(filling).unwrap();
    place.came_back().await;
    scene.comes_back_as_it_was().await;
}

/// Where nothing can be written any more the service does not begin, and says why.
#[tokio::test]
async fn a_directory_that_is_read_only() {
    let Some(mut place) = Place::boot("").await else { return };
    let mut scene = super::scene::Scene::set(&mut place).await;
    let place = scene.place();
    let mount = ["mount", "-t", "tmpfs", "-o", "ro", "none", "/run/vmlockd"];
    place.host.run(&mount).await.ok();
    place.stop(|_| ());
    place.tried_again().await;
    let said = place.host.journal().await;
    assert!(said.contains("Read-only file system"), "{said}");
    place.host.run(&["umount", "/run/vmlockd"]).await.ok();
    place.came_back().await;
    scene.comes_back_as_it_was().await;
}
