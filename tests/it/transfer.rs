//! VMs that are paused or migrate: their locks are released and acquired again, or pass from one
//! owner to the other without ever being free.

use std::os::fd::AsRawFd as _;
use std::path::Path;

use zbus::{Connection, OwnedObjectPath};

use crate::dbus_client::{TestVm, exclusive, lock, manager, option, shared};
use crate::fixture::{Fixture, ForeignHolder, LockType, within};
use crate::methods::none;
use crate::refused_requests::{assert_free, assert_refused};

fn assert_taken(disk: &Path) {
    ForeignHolder::try_once(disk, LockType::Ofd, true).unwrap_err();
}

async fn until_locks(machine: &TestVm, wanted: usize) -> Vec<OwnedObjectPath> {
    let there = async {
        loop {
            let locks = machine.locks().await;
            if locks.len() == wanted {
                return locks;
            }
        }
    };
    within("its locks", there).await
}

async fn two(fixture: &Fixture, bus: &Connection) -> (TestVm, TestVm) {
    let _ = fixture;
    (TestVm::open(bus, "source").await, TestVm::open(bus, "target").await)
}

#[tokio::test]
async fn a_suspended_owner_holds_nothing_and_gets_all_back() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (a, b) = (fixture.raw_of(0, "a"), fixture.raw_of(0, "b"));
    let (web1, web2) = two(&fixture, &bus).await;
    let before = web1.acquire(&[exclusive(&a), shared(&b)]).await.unwrap();
    web1.owner.suspend(none()).await.unwrap();
    assert_free(&a);
    assert_free(&b);
    assert_eq!(web1.owner.state().await.unwrap(), "suspended");
    let remembered = web1.owner.suspended().await.unwrap();
    let spelt = |disk: &Path, mode: &str| (disk.to_str().unwrap().to_owned(), mode.to_owned());
    assert_eq!(remembered, [spelt(&a, "exclusive"), spelt(&b, "shared")]);
    web1.owner.suspend(none()).await.unwrap();
    let more = web1.acquire(&[exclusive(&fixture.raw_of(0, "c"))]).await.unwrap_err();
    assert_refused(&more, "DBus.Error.InvalidArgs", "suspended");

    let taken = web2.acquire(&[exclusive(&b)]).await.unwrap();
    let refused = web1.owner.resume(none()).await.unwrap_err();
    assert_refused(&refused.into(), "LockHeld", "target");
    assert_free(&a);
    assert_eq!(web1.owner.state().await.unwrap(), "suspended");
    let resuming = {
        let owner = web1.owner.clone();
        tokio::spawn(async move { owner.resume(option("timeout-usec", u64::MAX)).await })
    };
    crate::wait::until_waiting(&bus, 1).await;
    web2.release(&taken).await.unwrap();
    let after = within("it resumes", resuming).await.unwrap().unwrap();
    assert_eq!(after.len(), 2);
    assert!(after.iter().all(|lock| !before.contains(lock)));
    assert_eq!(web1.owner.state().await.unwrap(), "running");
    assert!(web1.owner.suspended().await.unwrap().is_empty());
    assert!(web1.owner.resume(none()).await.unwrap().is_empty());
    assert_taken(&a);
}

#[tokio::test]
async fn suspended_locks_are_remembered_across_restarts() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "disk");
    let (web1, _) = two(&fixture, &bus).await;
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    web1.owner.suspend(none()).await.unwrap();
    manager(&bus).await.reexecute(none()).await.unwrap();
    let suspended =
        async { while web1.owner.state().await.ok().as_deref() != Some("suspended") {} };
    within("it is back", suspended).await;
    assert_free(&disk);
    assert_eq!(web1.owner.resume(none()).await.unwrap().len(), 1);
    assert_taken(&disk);
    web1.owner.suspend(none()).await.unwrap();
    web1.owner.close(none()).await.unwrap();
    assert_free(&disk);
}

#[tokio::test]
async fn offered_locks_pass_to_the_target_and_are_never_free() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (a, b) = (fixture.raw_of(0, "a"), fixture.raw_of(0, "b"));
    let (source, target) = two(&fixture, &bus).await;
    let empty = source.owner.offer(none()).await.unwrap_err();
    assert_refused(&empty.into(), "DBus.Error.InvalidArgs", "has no locks to hand over");
    let old = source.acquire(&[exclusive(&a), shared(&b)]).await.unwrap();
    let token = source.owner.offer(none()).await.unwrap();
    let again = source.owner.offer(none()).await.unwrap_err();
    assert_refused(&again.into(), "DBus.Error.InvalidArgs", "already");
    for wrong in ["", "x", "4dea22b31d52d8f32516782e98ab3fa0"] {
        let refused = target.owner.adopt(wrong, none()).await.unwrap_err();
        assert_refused(&refused.into(), "NoSuchOffer", "the offer does not exist");
    }
    let own = source.owner.adopt(&token, none()).await.unwrap_err();
    assert_refused(&own.into(), "DBus.Error.InvalidArgs", "its own locks");
    let mine = target.acquire(&[shared(&b)]).await.unwrap();
    let twice = target.owner.adopt(&token, none()).await.unwrap_err();
    assert_refused(&twice.into(), "DBus.Error.InvalidArgs", "itself");
    target.release(&mine).await.unwrap();
    assert_eq!(source.locks().await, old);

    let new = target.owner.adopt(&token, none()).await.unwrap();
    assert_taken(&a);
    assert_eq!(target.locks().await, new);
    assert_eq!(lock(&bus, &new[0]).await.mode().await.unwrap(), "exclusive");
    assert_eq!(lock(&bus, &new[1]).await.mode().await.unwrap(), "shared");
    assert!(source.locks().await.is_empty());
    assert_eq!(source.owner.state().await.unwrap(), "suspended");
    let used = target.owner.adopt(&token, none()).await.unwrap_err();
    assert_refused(&used.into(), "NoSuchOffer", "the offer does not exist");
    source.owner.close(none()).await.unwrap();
    assert_taken(&a);
    target.owner.close(none()).await.unwrap();
    assert_free(&a);
    assert_free(&b);
}

#[tokio::test]
async fn a_failed_target_returns_the_locks() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "disk");
    let (source, target) = two(&fixture, &bus).await;
    source.acquire(&[exclusive(&disk)]).await.unwrap();
    let token = source.owner.offer(none()).await.unwrap();
    target.owner.adopt(&token, none()).await.unwrap();
    let TestVm { lifeline, .. } = target;
    assert!(lifeline.as_raw_fd() >= 0);
    drop(lifeline);
    let back = until_locks(&source, 1).await;
    assert_taken(&disk);
    assert_eq!(source.owner.state().await.unwrap(), "running");
    source.release(&back).await.unwrap();
    assert_free(&disk);
}

/// An owner that is told of a lock that it holds already finds it on the bus, even without a
/// pending call for it.
#[tokio::test]
async fn returned_locks_are_held_when_they_are_reported() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let disks: Vec<_> = (0..64).map(|n| fixture.raw_of(0, &format!("disk{n}"))).collect();
    let disk_request: Vec<_> = disks.iter().map(|disk| exclusive(disk)).collect();
    let (source, target) = two(&fixture, &bus).await;
    source.acquire(&disk_request).await.unwrap();
    let token = source.owner.offer(none()).await.unwrap();
    target.owner.adopt(&token, none()).await.unwrap();
    drop(target);
    until_locks(&source, disk_request.len()).await;
    let told = source.acquire(&disk_request).await.unwrap();
    for path in told.iter().rev() {
        assert_eq!(lock(&bus, path).await.mode().await.unwrap(), "exclusive");
    }
}

#[tokio::test]
async fn a_failed_source_keeps_its_offer_until_it_expires() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "disk");
    let (source, target) = two(&fixture, &bus).await;
    source.acquire(&[exclusive(&disk)]).await.unwrap();
    let token = source.owner.offer(none()).await.unwrap();
    let TestVm { owner, lifeline } = source;
    drop(lifeline);
    let lost = async { while !owner.anchors().await.unwrap().is_empty() {} };
    within("the loss of its anchor", lost).await;
    assert_taken(&disk);
    let locks = target.owner.adopt(&token, none()).await.unwrap();
    let gone = async { while manager(&bus).await.list_owners(none()).await.unwrap().len() > 1 {} };
    within("the source's end", gone).await;
    assert_taken(&disk);
    // And now the former target, which is not adopted.
    let brief = option("timeout-usec", 1000_u64);
    let late = target.owner.offer(brief).await.unwrap();
    drop(target.lifeline);
    let gone =
        async { while !manager(&bus).await.list_owners(none()).await.unwrap().is_empty() {} };
    within("the end of the offer", gone).await;
    assert_free(&disk);
    let third = TestVm::open(&bus, "third").await;
    let refused = third.owner.adopt(&late, none()).await.unwrap_err();
    assert_refused(&refused.into(), "NoSuchOffer", "expired");
    let _ = locks;
}

#[tokio::test]
async fn a_transfer_survives_reexec_before_and_after_it() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "disk");
    let (source, target) = two(&fixture, &bus).await;
    source.acquire(&[exclusive(&disk)]).await.unwrap();
    let token = source.owner.offer(none()).await.unwrap();
    let reexecute = || async {
        manager(&bus).await.reexecute(none()).await.unwrap();
        let back = async { while source.owner.state().await.is_err() {} };
        within("it is back", back).await;
        assert_taken(&disk);
    };
    reexecute().await;
    assert_eq!(source.locks().await.len(), 1);
    target.owner.adopt(&token, none()).await.unwrap();
    reexecute().await;
    assert_eq!(source.owner.state().await.unwrap(), "suspended");
    assert_eq!(target.locks().await.len(), 1);
    reexecute().await;
    target.owner.close(none()).await.unwrap();
    until_locks(&source, 1).await;
    reexecute().await;
    assert_eq!(source.locks().await.len(), 1);
    source.owner.close(none()).await.unwrap();
    assert_free(&disk);
}
