//! Storage that answers, and yet leaves a request without an answer.

use std::path::Path;
use std::process::Stdio;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::process::Command;

use super::{Served, of_service, private};
use crate::dbus_client::{TestVm, exclusive, manager};
use crate::fixture::{Fixture, LoopDevice, run, within};
use crate::methods::none;

/// A file system that nothing can be written to until it is dropped: who tries waits.
pub(crate) struct Frozen<'p>(&'p Path);

impl<'p> Frozen<'p> {
    pub(crate) async fn new(point: &'p Path) -> Frozen<'p> {
        let mut freeze = Command::new("fsfreeze");
        run_on(freeze.arg("--freeze"), point).await;
        Frozen(point)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("fsfreeze").arg("--unfreeze").arg(self.0).status();
    }
}

async fn run_on(command: &mut Command, path: &Path) {
    let done = command.arg(path).stdout(Stdio::null()).status().await.unwrap();
    assert!(done.success(), "{command:?}");
}

#[tokio::test]
async fn hung_requests_are_counted_and_delay_no_other() {
    let device = LoopDevice::new();
    let fixture = Fixture::builder().start().await;
    let mut make = Command::new("mkfs.ext4");
    make.args(["-q", "-F"]).arg(device.node()).stdout(Stdio::null());
    run(make).await.ok();
    let behind = private(&fixture.dir().join("behind"));
    mount(Some(device.node()), &behind, Some("ext4"), MsFlags::empty(), None::<&str>).unwrap();
    let options = ["--multithreaded", "-o", "attr_timeout=0,entry_timeout=0"];
    let Some(served) = Served::of(&fixture, behind.clone(), &options).await else { return };
    fixture.configure("file_lockspace_dir = \"@DIR@/served\"\n");
    let bus = fixture.connection().await;
    manager(&bus).await.reload(none()).await.unwrap();
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let (first, second) = (fixture.raw_of(0, "first"), fixture.raw_of(0, "second"));
    let held = web1.acquire(&[exclusive(&first)]).await.unwrap();

    let frozen = Frozen::new(&behind).await;
    let hangs = {
        let (owner, second) = (web2.owner.clone(), second.clone());
        tokio::spawn(async move { owner.acquire(&[exclusive(&second)], none()).await })
    };
    let stuck = async || {
        let metrics = manager(&bus).await.get_metrics(none()).await.unwrap();
        u64::try_from(&metrics["requests-hung"]).unwrap()
    };
    within("it is counted", async { while stuck().await != 1 {} }).await;
    assert!(!hangs.is_finished());
    let (code, remarks) = of_service(&fixture).await;
    let said = |remark: &serde_json::Value| {
        remark["message"].as_str().unwrap().starts_with("1 request hangs in a file system")
    };
    assert!(code != 0 && remarks.iter().any(said), "{remarks:#?}");
    // Existing locks can be listed.
    assert_eq!(manager(&bus).await.list_locks(none()).await.unwrap().len(), 1);

    drop(frozen);
    within("it goes on", hangs).await.unwrap().unwrap();
    within("nothing is stuck", async { while stuck().await != 0 {} }).await;
    web1.release(&held).await.unwrap();
    drop((web1, web2));
    drop(fixture);
    drop(served);
    umount2(&behind, MntFlags::MNT_DETACH).unwrap();
}
