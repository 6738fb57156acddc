//! The unit of the system's service, which has a mount namespace of its own.

use std::fs::File;

use super::super::assert_foreign;
use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::{ForeignHolder, LockType};
use crate::nspawn::{Host, Tree};

#[tokio::test]
async fn callers_on_the_host_name_disks_and_callers_outside_do_not() {
    let Some(host) = Host::boot(Tree::Own).await else { return };
    host.enable().await;
    let disk = host.image("a.img");
    let is_free = || ForeignHolder::try_once(host.at(&disk), LockType::Ofd, true).is_ok();
    let web1 = TestVm::open(&host.bus().await, "web1").await;
    let locks = web1.acquire(&[exclusive(&disk)]).await.unwrap();
    assert!(!is_free());
    web1.release(&locks).await.unwrap();
    // The service can't see the process of such a caller, as that of a container's host.
    let outside = TestVm::open(&host.bus_from_outside().await, "outside").await;
    let refused = outside.acquire(&[exclusive(&disk)]).await.unwrap_err();
    assert_foreign(&refused, "not visible from here");
    assert!(is_free());
    let file = File::options().read(true).write(true).open(host.at(&disk)).unwrap();
    outside.acquire_files(&[(&file, "exclusive")]).await.unwrap();
    assert!(!is_free());
    drop(outside);
    // A unit with another view of the directory.
    let path = disk.to_str().unwrap();
    host.run(&["mkdir", "/srv/other"]).await.ok();
    host.run(&["truncate", "--size=1M", "/srv/other/a.img"]).await.ok();
    let unit = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect"];
    let bind = ["--property=BindPaths=/srv/other:/srv/images", "--"];
    let run = ["vmlockctl", "lock", "--name", "inner", path];
    host.run(&[&unit[..], &bind, &run].concat()).await.ok();
    assert!(ForeignHolder::try_once(host.at("/srv/other/a.img"), LockType::Ofd, true).is_err());
    let call = "busctl call org.vmlockd1 /org/vmlockd1 org.vmlockd1.Manager Resolve sa{sv}";
    let resolve: Vec<&str> = call.split(' ').chain([path, "0"]).collect();
    let said = host.run(&[&unit[..], &bind, &resolve].concat()).await.refused();
    assert!(said.contains("leads to another file"), "{said}");
}
