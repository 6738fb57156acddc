//! Leases conflict as disks do.

use std::fs;

use super::{Scenario, refused};
use crate::dbus_client::{TestVm, exclusive, lock, option};
use crate::fixture::{ForeignHolder, LockType};
use crate::methods::none;
use crate::refused_requests::{assert_free, assert_refused};
use crate::snapshot::{Listed, text};

#[tokio::test]
async fn one_of_two_owners_has_it() {
    let scenario = Scenario::set_up().await;
    let name = scenario.lease("web").await;
    let web1 = TestVm::open(&scenario.bus, "web1").await;
    let locks = web1.acquire(&[(&name, "exclusive")]).await.unwrap();
    let its = lock(&scenario.bus, &locks[0]).await;
    assert_eq!(its.resource().await.unwrap(), name);
    assert_eq!(its.lock_file().await.unwrap(), scenario.file("web").to_str().unwrap());
    assert_eq!(its.lockspace().await.unwrap().as_str(), "/org/vmlockd1/lockspace/lease_1");
    // Asked for once more it is the same one.
    assert_eq!(web1.acquire(&[(&name, "exclusive")]).await.unwrap(), locks);
    ForeignHolder::try_once(scenario.file("web"), LockType::Posix, false).unwrap_err();

    let web2 = TestVm::open(&scenario.bus, "web2").await;
    let spelt_otherwise = name.replace("/leases/", "//leases/./");
    for name in [&name, &spelt_otherwise] {
        for mode in ["shared", "exclusive"] {
            let refused = web2.acquire(&[(name, mode)]).await.unwrap_err();
            let words = format!("lease {} is locked exclusively by VM \"web1\"", &name[6..]);
            let words = words.replace("//leases/./", "/leases/");
            assert_refused(&refused, "LockHeld", &words);
        }
    }
    let holders = scenario.manager.find_holders(&spelt_otherwise, none()).await.unwrap();
    assert_eq!((holders.len(), text(&holders[0], "name")), (1, "web1".to_owned()));
    assert_eq!(text(&holders[0], "resource"), name);
    web1.release(&locks).await.unwrap();
    assert_free(&scenario.file("web"));
    assert_eq!(scenario.manager.find_holders(&name, none()).await.unwrap().len(), 0);
    web2.acquire(&[(&name, "exclusive")]).await.unwrap();
    // Only an explicit request of its holder removes the file.
    web2.owner.close(none()).await.unwrap();
    assert_eq!(fs::metadata(scenario.file("web")).unwrap().len(), 0);
}

#[tokio::test]
async fn it_is_shared_and_converted_as_a_disk_is() {
    let scenario = Scenario::set_up().await;
    let (name, disk) = (scenario.lease("web").await, scenario.fixture.raw_of(0, "disk"));
    let (web1, web2) =
        (TestVm::open(&scenario.bus, "web1").await, TestVm::open(&scenario.bus, "web2").await);
    // With a disk in the middle, the locks come in the order of the request.
    let other = scenario.lease("50%25").await;
    let disk_request = [(name.as_str(), "shared"), exclusive(&disk), (other.as_str(), "exclusive")];
    let mut resources = Vec::new();
    let locks = web1.acquire(&disk_request).await.unwrap();
    for path in &locks {
        resources.push(lock(&scenario.bus, path).await.resource().await.unwrap());
    }
    assert_eq!(resources, disk_request.map(|(name, _)| name.to_owned()));
    assert!(scenario.file("50%").exists());

    let theirs = web2.acquire(&[(&name, "shared")]).await.unwrap();
    let its = lock(&scenario.bus, &locks[0]).await;
    assert_refused(&refused(its.convert("exclusive", none()).await), "LockHeld", "web2");
    web2.release(&theirs).await.unwrap();
    its.convert("exclusive", none()).await.unwrap();
    let asked = web2.acquire(&[(&name, "shared")]).await.unwrap_err();
    assert_refused(&asked, "LockHeld", "exclusively by VM \"web1\"");
    its.convert("shared", none()).await.unwrap();
    web2.acquire(&[(&name, "shared")]).await.unwrap();
    let both = web2.acquire(&[(&other, "shared"), (&other, "exclusive")]).await.unwrap_err();
    assert_refused(&both, "DBus.Error.InvalidArgs", "is requested twice in one call");
    assert!(both.message.starts_with("lease "), "{}", both.message);
}

#[tokio::test]
async fn a_foreign_holder_of_the_same_file_conflicts() {
    let scenario = Scenario::set_up().await;
    let (name, file) = (scenario.lease("web").await, scenario.file("web"));
    let web1 = TestVm::open(&scenario.bus, "web1").await;
    for (kind, alone) in [(LockType::Posix, true), (LockType::Ofd, true), (LockType::Posix, false)]
    {
        let foreign_holder = ForeignHolder::hold(&file, kind, alone).unwrap();
        let refused = web1.acquire(&[(&name, "exclusive")]).await.unwrap_err();
        let how = if alone { "exclusively" } else { "in shared mode" };
        let words = format!("lease {} is locked {how} by another program", &name[6..]);
        assert_refused(&refused, "LockHeldElsewhere", &words);
        assert!(
            refused.message.contains(&format!("pid {}", foreign_holder.pid())),
            "{}",
            refused.message
        );
        let holders = scenario.manager.find_holders(&name, none()).await.unwrap();
        assert_eq!((holders.len(), text(&holders[0], "kind")), (1, "process".to_owned()));
        if !alone {
            let shared = web1.acquire(&[(&name, "shared")]).await.unwrap();
            web1.release(&shared).await.unwrap();
        }
        foreign_holder.release();
        let locks = web1.acquire(&[(&name, "exclusive")]).await.unwrap();
        ForeignHolder::try_once(&file, kind, alone).unwrap_err();
        web1.release(&locks).await.unwrap();
    }
}

#[tokio::test]
async fn a_waiter_gets_it() {
    let scenario = Scenario::set_up().await;
    let name = scenario.lease("web").await;
    let (web1, web2) =
        (TestVm::open(&scenario.bus, "web1").await, TestVm::open(&scenario.bus, "web2").await);
    let locks = web1.acquire(&[(&name, "exclusive")]).await.unwrap();
    let waits = async {
        let disk_request = [(name.as_str(), "exclusive")];
        web2.owner.acquire(&disk_request, option("timeout-usec", u64::MAX)).await.unwrap()
    };
    let releases = async {
        while scenario.manager.n_waiting().await.unwrap() == 0 {}
        web1.release(&locks).await.unwrap();
    };
    let (given, ()) =
        crate::fixture::within("the lease", async { tokio::join!(waits, releases) }).await;
    assert_eq!(web2.locks().await, given);
}

#[tokio::test]
async fn it_survives_the_service_and_a_suspension() {
    let scenario = Scenario::set_up().await;
    let (name, file) = (scenario.lease("50%25").await, scenario.file("50%"));
    let web1 = TestVm::open(&scenario.bus, "web1").await;
    web1.acquire(&[(&name, "exclusive")]).await.unwrap();
    let before = Listed::by(&scenario.bus).await;
    scenario.fixture.daemon().kill9().await;
    scenario.fixture.daemon().start_again().await;
    assert_eq!(Listed::by(&scenario.bus).await, before);
    ForeignHolder::try_once(&file, LockType::Posix, true).unwrap_err();

    web1.owner.suspend(none()).await.unwrap();
    assert_free(&file);
    assert_eq!(web1.owner.suspended().await.unwrap(), [(name.clone(), "exclusive".to_owned())]);
    scenario.fixture.daemon().kill9().await;
    scenario.fixture.daemon().start_again().await;
    web1.owner.resume(none()).await.unwrap();
    assert_eq!(Listed::by(&scenario.bus).await.on(&name).count(), 1);
    ForeignHolder::try_once(&file, LockType::Ofd, false).unwrap_err();
    // The lockspace was kept too.
    let other = scenario.lease("other").await;
    web1.acquire(&[(&other, "shared")]).await.unwrap();
}

#[tokio::test]
async fn it_is_transferred_with_the_disks() {
    let scenario = Scenario::set_up().await;
    let name = scenario.lease("web").await;
    let (source, target) =
        (TestVm::open(&scenario.bus, "web1").await, TestVm::open(&scenario.bus, "web1").await);
    source.acquire(&[(&name, "exclusive")]).await.unwrap();
    let token = source.owner.offer(none()).await.unwrap();
    let locks = target.owner.adopt(&token, none()).await.unwrap();
    assert_eq!(lock(&scenario.bus, &locks[0]).await.resource().await.unwrap(), name);
    ForeignHolder::try_once(scenario.file("web"), LockType::Ofd, true).unwrap_err();
    target.owner.close(none()).await.unwrap();
    assert_eq!(source.locks().await.len(), 1);
    source.owner.close(none()).await.unwrap();
    assert_free(&scenario.file("web"));
}
