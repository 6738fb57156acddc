//! Remote storage that is not responding: only requests for it are delayed, and fail with an error
//! that says so.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::dbus_client::{Refused, TestVm, exclusive, lock, manager, shared};
use crate::fixture::{Fixture, within};
use crate::methods::none;
use crate::refused_requests::assert_free;
use crate::snapshot::Listed;
use crate::virtlockd::host::hung_mount::HungMount;

const TIMEOUT: &str = "org.freedesktop.DBus.Error.Timeout";

fn assert_silent(refused: &Refused, far: &HungMount) {
    let point = far.disk().parent().unwrap().display().to_string();
    let said = format!("mount {point} has not responded for ");
    assert!(TIMEOUT.ends_with(&refused.name) && refused.message.starts_with(&said), "{refused:?}");
}

/// How many threads the service has.
fn threads(fixture: &Fixture) -> usize {
    let tasks = format!("/proc/{}/task", fixture.daemon().pid());
    std::fs::read_dir(tasks).unwrap().count()
}

#[tokio::test]
async fn requests_for_a_hung_mount_fail_and_cost_little() {
    let fixture = Fixture::builder().start().await;
    let Some(far) = HungMount::mount(&fixture).await else { return };
    let (bus, other) = (fixture.connection().await, fixture.connection().await);
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&other, "web2").await);
    let held = web1.acquire(&[exclusive(&far.disk())]).await.unwrap();
    web1.release(&held).await.unwrap();
    let before = threads(&fixture);
    far.stop();
    let (disk, near) = (far.disk(), fixture.raw_of(0, "near"));
    let machines = async {
        let mut machines = Vec::new();
        for n in 0..50 {
            machines.push(TestVm::open(&bus, &format!("db{n}")).await);
        }
        machines
    };
    let machines = machines.await;
    let asked = async {
        let mut asked = JoinSet::new();
        for machine in &machines {
            let (owner, disk) = (machine.owner.clone(), disk.clone());
            asked.spawn(async move {
                owner.acquire(&[shared(&disk)], none()).await.map(drop).unwrap_err().into()
            });
            let (manager, disk) = (manager(&bus).await, far.disk());
            asked.spawn(async move {
                let resolved = manager.resolve(disk.to_str().unwrap(), none()).await;
                resolved.map(drop).unwrap_err().into()
            });
        }
        assert_eq!(asked.len(), 100);
        while let Some(refused) = asked.join_next().await {
            assert_silent(&refused.unwrap(), &far);
        }
    };
    let meanwhile = async {
        let mut most = 0;
        for _ in 0..300 {
            let held = web2.acquire(&[exclusive(&near)]).await.unwrap();
            most = most.max(threads(&fixture));
            assert_eq!(manager(&other).await.list_locks(none()).await.unwrap().len(), 1);
            web2.release(&held).await.unwrap();
        }
        most
    };
    let (most, ()) = within("answers", async { tokio::join!(meanwhile, asked) }).await;
    println!("threads: {before} before, {most} at most");
    assert!(most <= before + 110, "{most}");
    // By now the mount is known to hang, and requests fail at once: a hundred times within the time
    // limit of one.
    for _ in 0..100 {
        assert_silent(&web1.acquire(&[exclusive(&disk)]).await.unwrap_err(), &far);
    }
    far.go_on();
    let again = async {
        loop {
            match web1.acquire(&[exclusive(&disk)]).await {
                Ok(_) => return,
                Err(refused) => assert_silent(&refused, &far),
            }
        }
    };
    within("the storage answers again", again).await;
    fixture.daemon().logs("is responding again, after").await;
}

#[tokio::test]
async fn locks_on_a_hung_mount_stay_and_are_released_later() {
    let fixture = Fixture::builder().start().await;
    let Some(far) = HungMount::mount(&fixture).await else { return };
    let bus = fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    let held = web1.acquire(&[exclusive(&far.disk())]).await.unwrap();
    far.stop();
    let silent = lock(&bus, &held[0]).await.convert("shared", none()).await.unwrap_err();
    assert_silent(&silent.into(), &far);
    assert_eq!(lock(&bus, &held[0]).await.mode().await.unwrap(), "exclusive");
    let web2 = TestVm::open(&bus, "web2").await;
    // The table knows who holds it, but not that this name leads there.
    assert_silent(&web2.acquire(&[exclusive(&far.disk())]).await.unwrap_err(), &far);
    let released = {
        let (owner, held) = (web1.owner.clone(), held.clone());
        tokio::spawn(async move { owner.release(&held, none()).await })
    };
    let gone = async { while !Listed::by(&bus).await.locks.is_empty() {} };
    within("nobody is shown it any more", gone).await;
    assert!(!released.is_finished());
    far.go_on();
    within("its release", released).await.unwrap().unwrap();
    assert_free(&far.disk());
}

/// More machines end than the service has threads.
#[tokio::test]
async fn vms_that_end_meanwhile_delay_no_request() {
    let fixture = Fixture::builder().start().await;
    let Some(far) = HungMount::mount(&fixture).await else { return };
    let bus = fixture.connection().await;
    let mut machines = Vec::new();
    for n in 0..100 {
        let machine = TestVm::open(&bus, &format!("db{n}")).await;
        machine.acquire(&[shared(&far.disk())]).await.unwrap();
        machines.push(machine);
    }
    far.stop();
    drop(machines);
    let (web1, near) = (TestVm::open(&bus, "web1").await, fixture.raw_of(0, "near"));
    for _ in 0..100 {
        let held = within("another disk", web1.acquire(&[exclusive(&near)])).await.unwrap();
        web1.release(&held).await.unwrap();
    }
    far.go_on();
    let gone = async { while Listed::by(&bus).await.owners.len() > 1 {} };
    within("their ends", gone).await;
    assert_free(&far.disk());
}

#[tokio::test]
async fn the_service_ends_and_is_replaced_meanwhile() {
    let fixture = Fixture::builder().start().await;
    let Some(far) = HungMount::mount(&fixture).await else { return };
    let bus = fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    web1.acquire(&[exclusive(&far.disk())]).await.unwrap();
    far.stop();
    let web2 = TestVm::open(&bus, "web2").await;
    let hangs = {
        let (owner, disk) = (web2.owner.clone(), far.disk());
        tokio::spawn(async move { owner.acquire(&[shared(&disk)], none()).await })
    };
    web1.locks().await;
    let ended = fixture.daemon().terminate();
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it ends");
    drop(hangs);
    fixture.daemon().start_again().await;
    far.go_on();
}
