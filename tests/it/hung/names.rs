//! Names of locked disks that lead to storage that hangs: asking for them delays no other request.

use std::os::unix::fs::symlink;

use tokio::task::JoinSet;

use crate::house::user::{GAMES, NOBODY, ROOT};
use crate::house::{House, within};
use crate::machine::{Machine, exclusive, manager, option};
use crate::methods::none;
use crate::virtlockd::hang::Far;

use super::layers::Overlay;
use super::metric;

/// How often each user asks at once.
const MANY: usize = 40;

#[tokio::test]
async fn asking_where_names_lead_takes_few_threads_and_delays_no_list() {
    let house = House::builder().start().await;
    let Some(far) = Far::mount(&house).await else { return };
    let link = house.dir().join("link");
    symlink(house.dir().join("far"), &link).unwrap();
    let overlay = Overlay::mount(&house, &link);
    let root = house.connection().await;
    let (disk, near) = (overlay.disk(), house.raw_of(ROOT, "near"));
    let (web1, web2) = (Machine::open(&root, "web1").await, Machine::open(&root, "web2").await);
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    web2.acquire(&[exclusive(&near)]).await.unwrap();
    far.stop();
    let mut all = JoinSet::new();
    for uid in [NOBODY, GAMES] {
        let bus = house.connection_as(uid).await;
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
    std::fs::rename(&near, house.dir().join("moved")).unwrap();
    let checked = manager(&root).await;
    let rows = within("names", checked.list_locks(option("check-names", true))).await.unwrap();
    let told: Vec<bool> = rows.iter().map(|row| row.contains_key("name-state")).collect();
    assert_eq!(told, [false, true]);
    within("a list", checked.list_owners(none())).await.unwrap();
    while let Some(answered) = within("an answer", all.join_next()).await {
        answered.unwrap();
    }
    assert!(metric(&root, "requests-hung").await <= 4);
    let other = house.raw_of(ROOT, "other");
    within("another disk is locked", web2.acquire(&[exclusive(&other)])).await.unwrap();
    far.go_on();
    within("nothing is stuck", async { while metric(&root, "requests-hung").await != 0 {} }).await;
}
