//! Waiting for locks of foreign holders, and for locks that clients of another frontend request.

use std::path::Path;

use super::{LONG, until_waiting, wait};
use crate::dbus_client::{TestVm, exclusive, lock, manager, option, shared};
use crate::fixture::rpc::{Owner, Rpc, SHARED};
use crate::fixture::{Fixture, ForeignHolder, LockType, Process, within};
use crate::methods::none;
use crate::refused_requests::{assert_free, assert_refused};

fn sleep(fixture: &Fixture) -> Process {
    let mut command = std::process::Command::new("sleep");
    command.arg("infinity");
    Process::start("sleep", command, &fixture.dir().join("sleep.log"))
}

#[tokio::test]
async fn any_foreign_holder_is_waited_for_and_named() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "disk");
    for (kind, alone) in [
        (LockType::Posix, true),
        (LockType::Posix, false),
        (LockType::Ofd, true),
        (LockType::Ofd, false),
    ] {
        let foreign_holder = ForeignHolder::hold(&disk, kind, alone).unwrap();
        let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
        let timeout = option("timeout-usec", 120_000_u64);
        let late = web1.owner.acquire(&[exclusive(&disk)], timeout).await.unwrap_err();
        let late = late.into();
        assert_refused(&late, "WaitTimedOut", "another program");
        assert!(
            late.message.contains(&format!("pid {}", foreign_holder.pid())),
            "{}",
            late.message
        );
        let first = wait(&bus, &web1, &[exclusive(&disk)], LONG).await;
        let second = wait(&bus, &web2, &[shared(&disk)], LONG).await;
        drop(foreign_holder);
        let locks = within("the first's turn", first).await.unwrap().unwrap();
        assert!(!second.is_finished());
        web1.release(&locks).await.unwrap();
        within("the second's turn", second).await.unwrap().unwrap();
        web2.owner.close(none()).await.unwrap();
        assert_free(&disk);
    }
}

#[tokio::test]
async fn an_upgrade_waits_for_a_foreign_reader() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "disk");
    let web1 = TestVm::open(&bus, "web1").await;
    let locks = web1.acquire(&[shared(&disk)]).await.unwrap();
    let foreign_holder = ForeignHolder::hold(&disk, LockType::Ofd, false).unwrap();
    let ours = lock(&bus, &locks[0]).await;
    let timeout = option("timeout-usec", 80_000_u64);
    let late = ours.convert("exclusive", timeout).await.unwrap_err();
    assert_refused(&late.into(), "WaitTimedOut", "another program");
    assert_eq!(ours.mode().await.unwrap(), "shared");
    let strong = ours.clone();
    let waits =
        tokio::spawn(
            async move { strong.convert("exclusive", option("timeout-usec", LONG)).await },
        );
    until_waiting(&bus, 1).await;
    let rows = manager(&bus).await.list_waiting(none()).await.unwrap();
    assert_eq!(crate::snapshot::text(&rows[0], "kind"), "convert");
    assert_eq!(crate::snapshot::text(&rows[0], "lock"), locks[0].as_str());
    drop(foreign_holder);
    within("it is strengthened", waits).await.unwrap().unwrap();
    assert_eq!(ours.mode().await.unwrap(), "exclusive");
    ForeignHolder::try_once(&disk, LockType::Ofd, false).unwrap_err();
}

#[tokio::test]
async fn a_real_virtlockd_is_waited_for() {
    let fixture = Fixture::builder().start().await;
    let Some(virtlockd) = crate::virtlockd::virtlockd(&fixture.dir().join("virtlockd")) else {
        return;
    };
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "disk");
    let guest = sleep(&fixture);
    let mut rpc = Rpc::connect(virtlockd.socket()).unwrap();
    rpc.register(&Owner::new("guest", 1, guest.pid())).granted();
    rpc.acquire("", disk.to_str().unwrap(), 0).granted();
    let web1 = TestVm::open(&bus, "web1").await;
    let waits = wait(&bus, &web1, &[exclusive(&disk)], LONG).await;
    rpc.release("", disk.to_str().unwrap(), 0).granted();
    let locks = within("its turn", waits).await.unwrap().unwrap();
    rpc.acquire("", disk.to_str().unwrap(), 0).refused();
    web1.release(&locks).await.unwrap();
    rpc.acquire("", disk.to_str().unwrap(), 0).granted();
}

/// libvirt does not wait; but it does not overtake either.
#[tokio::test]
async fn a_reader_of_libvirt_does_not_overtake_a_waiting_writer() {
    let config = "virtlockd_socket = \"@DIR@/virtlockd-sock\"\nrelease_grace = 0\n";
    let fixture = Fixture::builder().config(config).start().await;
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "disk");
    let name = disk.to_str().unwrap();
    let guest = sleep(&fixture);
    let connect = |socket: &Path| {
        let mut rpc = Rpc::connect(socket).unwrap();
        rpc.register(&Owner::new("guest", 1, guest.pid())).granted();
        rpc
    };
    let mut rpc = connect(&fixture.dir().join("virtlockd-sock"));
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let read = web1.acquire(&[shared(&disk)]).await.unwrap();
    rpc.acquire("", name, SHARED).granted();
    rpc.release("", name, 0).granted();
    let writer = wait(&bus, &web2, &[exclusive(&disk)], LONG).await;
    let refusal = rpc.acquire("", name, SHARED).refused();
    assert_eq!(refusal.code, 87, "{}", refusal.message);
    for word in ["web1", "web2", "waited for"] {
        assert!(refusal.message.contains(word), "no {word}: {}", refusal.message);
    }
    web1.release(&read).await.unwrap();
    let locks = within("the writer's turn", writer).await.unwrap().unwrap();
    let refusal = rpc.acquire("", name, SHARED).refused();
    assert!(refusal.message.contains("web2"), "{}", refusal.message);

    // And what libvirt holds is waited for.
    web2.release(&locks).await.unwrap();
    rpc.acquire("", name, SHARED).granted();
    let writer = wait(&bus, &web2, &[exclusive(&disk)], LONG).await;
    rpc.release("", name, 0).granted();
    within("the writer's turn", writer).await.unwrap().unwrap();
}
