//! Large or unusual state.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;

use super::Scenario;
use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::{ForeignHolder, LockType};
use crate::snapshot::Listed;

#[tokio::test]
async fn two_thousand_locks_with_long_names() {
    let mut scenario = Scenario::set_up().await;
    let below = scenario.fixture.dir().join("d".repeat(230)).join("e".repeat(200));
    fs::create_dir_all(&below).unwrap();
    let machine = TestVm::open(&scenario.bus, "large").await;
    let disks: Vec<_> = (0..2000).map(|n| below.join(format!("{n:0>40}.img"))).collect();
    for part in disks.chunks(50) {
        for disk in part {
            drop(File::create_new(disk).unwrap());
        }
        let wanted: Vec<_> = part.iter().map(|disk| exclusive(disk)).collect();
        machine.acquire(&wanted).await.unwrap();
    }
    scenario.before = Listed::by(&scenario.bus).await;
    scenario.descriptors = scenario.daemon.open_fds();
    scenario.replace(false).await;
    scenario.compare().await;
    for disk in disks.iter().step_by(200) {
        ForeignHolder::try_once(disk, LockType::Ofd, true).unwrap_err();
    }
    drop(machine);
    scenario.end().await;
}

#[tokio::test]
async fn a_path_that_is_not_utf8_and_a_client_that_sends_nothing() {
    let mut scenario = Scenario::set_up().await;
    // Neither of them says a word before all is over.
    let _silent = scenario.fixture.connection().await;
    let socket = scenario.fixture.address().replace("unix:path=", "");
    let _mute = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let path = scenario.fixture.dir().join(OsStr::from_bytes(b"\xff\xfe disk"));
    let disk = File::create_new(&path).unwrap();
    disk.set_len(4096).unwrap();
    let machine = TestVm::open(&scenario.bus, "odd").await;
    machine.acquire_files(&[(&disk, "exclusive")]).await.unwrap();
    scenario.before = Listed::by(&scenario.bus).await;
    scenario.descriptors = scenario.daemon.open_fds();
    scenario.replace(false).await;
    scenario.compare().await;
    ForeignHolder::try_once(&path, LockType::Ofd, true).unwrap_err();
    drop(machine);
    scenario.end().await;
}
