//! The service's use of self-test results.

use std::fs;
use std::path::Path;

use super::{FORWARDING, Served, names, of_service, on, private};
use crate::dbus_client::{TestVm, exclusive, lock, manager};
use crate::fixture::{Daemon, Fixture, TestMount, within};
use crate::methods::none;

/// Returns the result for a lockspace once there is one.
async fn result(fixture: &Fixture, name: &str) -> String {
    let bus = fixture.connection().await;
    let lockspace = vmlockd::client::LockspaceProxy::builder(&bus);
    let path = format!("/org/vmlockd1/lockspace/{name}");
    let lockspace = lockspace.path(path).cache_properties(zbus::proxy::CacheProperties::No);
    let lockspace = lockspace.build().await.unwrap();
    let looked = async {
        loop {
            let result = lockspace.self_test_result().await.unwrap();
            if !result.is_empty() {
                return result;
            }
        }
    };
    within("it is looked at", looked).await
}

fn hashed(at: &Path) -> String {
    format!("file_lockspace_dir = \"{}\"\n", at.display())
}

#[tokio::test]
async fn where_locks_do_not_work_nothing_is_locked() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let Some(served) = Served::mount(&fixture, &FORWARDING).await else { return };
    fixture.configure(&hashed(&served.at));
    let daemon = Daemon::start(fixture.bus(), fixture.launch()).await;
    let bus = fixture.connection().await;
    let (web1, disk) = (TestVm::open(&bus, "web1").await, fixture.raw_of(0, "disk"));
    let refused = web1.acquire(&[exclusive(&disk)]).await.unwrap_err();
    assert_eq!(refused.name, "NotLockable", "{refused:?}");
    let at = served.at.display().to_string();
    assert!(refused.message.contains(&at) && refused.message.contains("both acquired the lock"));
    assert_eq!(result(&fixture, "file").await, "unusable");
    assert_eq!(names(&served.behind), Vec::<std::path::PathBuf>::new());
    assert!(web1.locks().await.is_empty());
    let said = async || {
        let log = daemon.complete_log().await;
        log.matches("refusing new locks in lockspace").count()
    };
    assert_eq!(said().await, 1, "{}", daemon.stderr());
    web1.acquire(&[exclusive(&disk)]).await.unwrap_err();
    assert_eq!(said().await, 1);
    let (code, remarks) = of_service(&fixture).await;
    assert_eq!((code, &on(&remarks, "lockspace")["state"]), (1, &"danger".into()));

    // A lockspace that a client names is no better.
    let leases = served.at.join("leases");
    manager(&bus).await.create_lockspace(leases.to_str().unwrap(), none()).await.unwrap();
    let lease = format!("lease:{}/a", leases.display());
    manager(&bus).await.create_lease(&lease, none()).await.unwrap();
    let refused = web1.acquire(&[(lease.as_str(), "exclusive")]).await.unwrap_err();
    assert_eq!(refused.name, "NotLockable", "{refused:?}");
    drop(daemon);
}

/// Settings with this result do not affect held locks.
#[tokio::test]
async fn held_locks_stay_after_a_failed_self_test() {
    let fixture = Fixture::builder().folder("locks").start().await;
    let Some(served) = Served::mount(&fixture, &FORWARDING).await else { return };
    let bus = fixture.connection().await;
    let (web1, disk) = (TestVm::open(&bus, "web1").await, fixture.raw_of(0, "disk"));
    let held = web1.acquire(&[exclusive(&disk)]).await.unwrap();
    fixture.configure(&hashed(&served.at));
    manager(&bus).await.reload(none()).await.unwrap();
    let other = fixture.raw_of(0, "other");
    assert_eq!(web1.acquire(&[exclusive(&other)]).await.unwrap_err().name, "NotLockable");
    assert_eq!(web1.acquire(&[exclusive(&disk)]).await.unwrap(), held);
    fixture.daemon().kill9().await;
    fixture.daemon().start_again().await;
    assert_eq!(web1.acquire(&[exclusive(&other)]).await.unwrap_err().name, "NotLockable");
    let kept = lock(&bus, &held[0]).await;
    let verified = async { while !kept.verified().await.unwrap() {} };
    within("it is there", verified).await;
    assert_eq!(kept.mode().await.unwrap(), "exclusive");
}

/// Storage is mounted over a directory that was empty until then.
#[tokio::test]
async fn a_replaced_directory_is_tested_again() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let at = private(&fixture.dir().join("locks"));
    fixture.configure(&hashed(&at));
    let daemon = Daemon::start(fixture.bus(), fixture.launch()).await;
    let bus = fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    let disks = ["a", "b", "c"].map(|name| fixture.raw_of(0, name));
    web1.acquire(&[exclusive(&disks[0])]).await.unwrap();
    assert_eq!(names(&at).len(), 1);
    let mounted = TestMount::empty_over(&at);
    web1.acquire(&[exclusive(&disks[1])]).await.unwrap();
    assert_eq!(names(&at).len(), 1, "its lock file is on what is mounted");
    fs::remove_file(&names(&at)[0]).unwrap();
    drop(mounted);
    let mounted = TestMount::read_only_over(&at);
    let refused = web1.acquire(&[exclusive(&disks[2])]).await.unwrap_err();
    assert_eq!(refused.name, "NotLockable", "{refused:?}");
    assert!(refused.message.contains("read-only"), "{refused:?}");
    drop(mounted);
    web1.acquire(&[exclusive(&disks[2])]).await.unwrap();
    assert_eq!(names(&at).len(), 2);
    drop(daemon);
}

#[tokio::test]
async fn a_record_only_lockspace_is_reported() {
    let config = "auto_disk_leases = false\nrequire_lease_for_disks = false\n";
    let fixture = Fixture::builder().config(config).start().await;
    assert_eq!(result(&fixture, "direct").await, "recorded");
    let (code, remarks) = of_service(&fixture).await;
    assert_eq!((code, &on(&remarks, "lockspace")["state"]), (78, &"warning".into()));
}
