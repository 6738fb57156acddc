//! What there may be much of, or what is unusual.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;

use super::Scene;
use crate::house::{Kind, Rival};
use crate::listed::Listed;
use crate::machine::{Machine, exclusive};

#[tokio::test]
async fn two_thousand_locks_with_long_names() {
    let mut scene = Scene::set().await;
    let below = scene.house.dir().join("d".repeat(230)).join("e".repeat(200));
    fs::create_dir_all(&below).unwrap();
    let machine = Machine::open(&scene.bus, "large").await;
    let disks: Vec<_> = (0..2000).map(|n| below.join(format!("{n:0>40}.img"))).collect();
    for part in disks.chunks(50) {
        for disk in part {
            drop(File::create_new(disk).unwrap());
        }
        let wanted: Vec<_> = part.iter().map(|disk| exclusive(disk)).collect();
        machine.acquire(&wanted).await.unwrap();
    }
    scene.before = Listed::by(&scene.bus).await;
    scene.descriptors = scene.daemon.open_fds();
    scene.replace(false).await;
    scene.compare().await;
    for disk in disks.iter().step_by(200) {
        Rival::try_once(disk, Kind::Ofd, true).unwrap_err();
    }
    drop(machine);
    scene.end().await;
}

#[tokio::test]
async fn a_path_that_is_no_text_and_a_client_that_says_nothing() {
    let mut scene = Scene::set().await;
    // Neither of them says a word before all is over.
    let _silent = scene.house.connection().await;
    let socket = scene.house.address().replace("unix:path=", "");
    let _mute = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let path = scene.house.dir().join(OsStr::from_bytes(b"\xff\xfe disk"));
    let disk = File::create_new(&path).unwrap();
    disk.set_len(4096).unwrap();
    let machine = Machine::open(&scene.bus, "odd").await;
    machine.acquire_files(&[(&disk, "exclusive")]).await.unwrap();
    scene.before = Listed::by(&scene.bus).await;
    scene.descriptors = scene.daemon.open_fds();
    scene.replace(false).await;
    scene.compare().await;
    Rival::try_once(&path, Kind::Ofd, true).unwrap_err();
    drop(machine);
    scene.end().await;
}
