//! Where a file system has no attributes, locks are locks, and who holds one stands in its file.

use super::{Hosts, SharedDirectory};
use crate::dbus_client::{exclusive, shared};
use crate::fixture::TestMount;
use crate::methods::none;

#[tokio::test]
async fn locks_need_no_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("locks");
    let mounted = TestMount::without_attributes(&place);
    let place =
        SharedDirectory { places: vec![place; 2], _kept: vec![Box::new(mounted), Box::new(dir)] };
    let hosts = Hosts::sharing(place).await;
    let other = hosts.fixtures[0].raw_of(0, "b.img");
    let web1 = hosts.machine(0, "web1").await;
    for disk in [&hosts.disk, &other] {
        web1.acquire(&[exclusive(disk)]).await.unwrap();
    }
    let web2 = hosts.machine(1, "web2").await;
    let refused = web2.acquire(&[exclusive(&hosts.disk)]).await.unwrap_err();
    assert_eq!(refused.name, "LockHeldElsewhere");
    let (named, host) = ("VM \"web1\"", "on host Node 0");
    assert!(refused.message.contains(named) && refused.message.contains(host), "{refused:?}");
    let sizes =
        || hosts.files().iter().map(|file| file.metadata().unwrap().len()).collect::<Vec<_>>();
    assert!(sizes().len() == 2 && sizes().iter().all(|size| *size > 0), "{:?}", sizes());
    // No disk is written to.
    assert_eq!(std::fs::read(&other).unwrap(), vec![0; 1 << 20]);
    let log = hosts.fixtures[0].daemon().complete_log().await;
    assert_eq!(log.matches("cannot write holder records").count(), 0, "{log}");
    web1.owner.close(none()).await.unwrap();
    assert!(sizes().is_empty());

    // All shared holders are named, on both hosts, and former ones are not.
    let (web1, web3) = (hosts.machine(0, "web1").await, hosts.machine(0, "web3").await);
    for machine in [&web1, &web2] {
        machine.acquire(&[shared(&hosts.disk)]).await.unwrap();
    }
    let alone = [exclusive(&hosts.disk)];
    let refused = web3.acquire(&alone).await.unwrap_err();
    assert!(refused.message.contains(named), "{refused:?}");
    web1.owner.close(none()).await.unwrap();
    let refused = web3.acquire(&alone).await.unwrap_err();
    assert!(refused.message.contains("VM \"web2\""), "{refused:?}");
    assert!(!refused.message.contains(named), "{refused:?}");
}
