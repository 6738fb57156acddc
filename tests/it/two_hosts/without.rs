//! Where a file system has no attributes, locks are locks, and nobody is named.

use super::{Hosts, Shared};
use crate::house::Mounted;
use crate::machine::exclusive;

#[tokio::test]
async fn locks_need_no_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("locks");
    let mounted = Mounted::without_attributes(&place);
    let shared = Shared { places: vec![place; 2], _kept: vec![Box::new(mounted), Box::new(dir)] };
    let hosts = Hosts::sharing(shared).await;
    let other = hosts.houses[0].raw_of(0, "b.img");
    let web1 = hosts.machine(0, "web1").await;
    for disk in [&hosts.disk, &other] {
        web1.acquire(&[exclusive(disk)]).await.unwrap();
    }
    let web2 = hosts.machine(1, "web2").await;
    let refused = web2.acquire(&[exclusive(&hosts.disk)]).await.unwrap_err();
    assert_eq!(refused.name, "LockHeldElsewhere");
    // On this host it is the service that has the lock.
    assert!(refused.message.contains("another program (vmlockd, pid "), "{refused:?}");
    let log = hosts.houses[0].daemon().stderr();
    assert_eq!(log.matches("can't be recorded for other hosts").count(), 1, "{log}");
}
