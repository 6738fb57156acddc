//! Names of locked disks that lead to storage that hangs: asking for them delays no other request.

use std::os::unix::fs::symlink;

use tokio::task::JoinSet;

use crate::dbus_client::{TestVm, exclusive, manager, option};
use crate::fixture::user::{GAMES, NOBODY, ROOT};
use crate::fixture::{Fixture, within};
use crate::methods::none;
use crate::virtlockd::host::hung_mount::HungMount;

use super::layers::Overlay;
use super::metric;

/// How often each user asks at once.
const MANY: usize = 40;

#[tokio::test]
async fn resolving_names_takes_few_threads_and_delays_no_list() {
    let fixture = Fixture::builder().start().await;
    let Some(far) = HungMount::mount(&fixture).await else { return };
    let link = fixture.dir().join("link");
    symlink(fixture.dir().join("far"), &link).unwrap();
    let overlay = Overlay::mount(&fixture, &link);
    let root = fixture.connection().await;
    let (disk, near) = (overlay.disk(), fixture.raw_of(ROOT, "near"));
    let (web1, web2) = (TestVm::open(&root, "web1").await, TestVm::open(&root, "web2").await);
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    web2.acquire(&[exclusive(&near)]).await.unwrap();
    far.stop();
    let mut all = JoinSet::new();
    for uid in [NOBODY, GAMES] {
        let bus = fixture.connection_as(uid).await;
        for n in 0..MANY {
            let (manager, disk) = (manager(&bus).await, disk.clone());
            all.spawn(async move {
                if n % 10 == 0 {
                    let rows = manager.list_locks(option("check-names", true)).await.unwrap();
                    assert_eq!(rows.len(), 2);
                } else {
                    let found = manager.find_holders(disk.to_str().unwrap(), none()).await;
                    assert_eq!(found.unwrap().len(), 1);
                }
            });
        }
    }
    // Each name is told as far as it can be.
    std::fs::rename(&near, fixture.dir().join("moved")).unwrap();
    let checked = manager(&root).await;
    let rows = within("names", checked.list_locks(option("check-names", true))).await.unwrap();
    let told: Vec<bool> = rows.iter().map(|row| row.contains_key("name-state")).collect();
    assert_eq!(told, [false, true]);
    within("a list", checked.list_owners(none())).await.unwrap();
    while let Some(answered) = within("an answer", all.join_next()).await {
        answered.unwrap();
    }
    assert!(metric(&root, "requests-hung").await <= 4);
    let other = fixture.raw_of(ROOT, "other");
    within("another disk is locked", web2.acquire(&[exclusive(&other)])).await.unwrap();
    far.go_on();
    within("nothing is stuck", async { while metric(&root, "requests-hung").await != 0 {} }).await;
}
