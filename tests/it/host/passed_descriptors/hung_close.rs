//! A request that hangs in the kernel keeps neither a new service from starting nor the bus from
//! being served.

use std::process::Stdio;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use tokio::process::Command;

use crate::dbus_client::{TestVm, exclusive, manager};
use crate::fixture::{Daemon, Fixture, LoopDevice, run, within};
use crate::host::doctor::{hung_request::Frozen, private};
use crate::methods::none;

#[tokio::test]
async fn a_hung_killed_service_is_replaced_and_a_living_one_is_not() {
    let device = LoopDevice::new();
    let fixture = Fixture::builder().without_daemon().start().await;
    let mut make = Command::new("mkfs.ext4");
    make.args(["-q", "-F"]).arg(device.node()).stdout(Stdio::null());
    run(make).await.ok();
    let storage = private(&fixture.dir().join("storage"));
    mount(Some(device.node()), &storage, Some("ext4"), MsFlags::empty(), None::<&str>).unwrap();
    fixture.configure("file_lockspace_dir = \"@DIR@/storage\"\n");
    let first = Daemon::start(fixture.bus(), fixture.launch()).await;
    let bus = fixture.connection().await;
    let (web1, disk) = (TestVm::open(&bus, "web1").await, fixture.raw_of(0, "disk"));
    let locks = web1.acquire(&[exclusive(&disk)]).await.unwrap();
    web1.release(&locks).await.unwrap();

    let frozen = Frozen::new(&storage).await;
    let hangs = {
        let (owner, disk) = (web1.owner.clone(), disk.clone());
        tokio::spawn(async move { owner.acquire(&[exclusive(&disk)], none()).await })
    };
    let manager = manager(&bus).await;
    let stuck = async || {
        let metrics = manager.get_metrics(none()).await.unwrap();
        u64::try_from(&metrics["requests-hung"]).unwrap()
    };
    within("a request hangs", async { while stuck().await != 1 {} }).await;

    let refused = within("an answer", manager.reexecute(none())).await.unwrap_err().to_string();
    assert!(refused.contains("a file system request hangs"), "{refused}");
    // No caller was disconnected, and the request that hangs still does.
    assert_eq!(manager.list_owners(none()).await.unwrap().len(), 1);
    assert!(!hangs.is_finished());

    let refused = Daemon::try_start(fixture.bus(), fixture.launch()).await.err().unwrap();
    let words = format!("already running, pid {} ", first.pid());
    assert!(refused.stderr.contains(&words), "{}", refused.stderr);
    first.signal(Signal::SIGKILL);
    // Its socket stays open, so nothing but its threads tells that it is dead.
    within("all its threads are killed", async { while !is_killed(first.pid()) {} }).await;
    let second = Daemon::start(fixture.bus(), fixture.launch()).await;
    assert!(first.lives(), "the request does not hang");
    let words = format!("replacing process {}: it was killed", first.pid());
    second.logs(&words).await;
    let running = format!("already running, pid {} ", second.pid());
    let refused = Daemon::try_start(fixture.bus(), fixture.launch()).await.err().unwrap();
    assert!(refused.stderr.contains(&running), "{}", refused.stderr);

    drop(frozen);
    within("the killed one is gone", first.ended()).await;
    let refused = Daemon::try_start(fixture.bus(), fixture.launch()).await.err().unwrap();
    assert!(refused.stderr.contains(&running), "{}", refused.stderr);
    let metrics = manager.get_metrics(none()).await.unwrap();
    assert_eq!(u64::try_from(&metrics["requests-hung"]).unwrap(), 0);
    within("an answer to nobody", hangs).await.unwrap().unwrap_err();
    drop((first, second, web1));
    drop(fixture);
    umount2(&storage, MntFlags::MNT_DETACH).unwrap();
}

/// Whether SIGKILL is pending for a thread of a process, or it has ended.
fn is_killed(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.contains("SigPnd:\t0000000000000100") || status.contains("State:\tZ")
}
