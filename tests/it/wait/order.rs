//! Many wait, and each gets its turn.

use std::sync::{Arc, Mutex};

use vmlockd::lock::Mode;
use vmlockd::lock::ofd;
use zbus::Connection;

use super::{LONG, until_waiting, wait};
use crate::dbus_client::{TestVm, exclusive, manager, option, shared};
use crate::fixture::{Fixture, within};
use crate::methods::none;
use crate::refused_requests::assert_free;

/// How many wait for one disk, and from how many connections.
const CROWD: (usize, usize) = (200, 8);

#[tokio::test]
async fn two_hundred_waiters_are_served_in_order_of_arrival() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "disk");
    let first = TestVm::open(&bus, "first").await;
    let held = first.acquire(&[exclusive(&disk)]).await.unwrap();
    let mut connections: Vec<Connection> = Vec::new();
    for _ in 0..CROWD.1 {
        connections.push(fixture.connection().await);
    }
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut crowd = Vec::new();
    for n in 0..CROWD.0 {
        let machine = TestVm::open(&connections[n % CROWD.1], &format!("web{n}")).await;
        let (served, disk) = (Arc::clone(&served), disk.clone());
        crowd.push(tokio::spawn(async move {
            let timeout = option("timeout-usec", LONG);
            let locks = machine.owner.acquire(&[exclusive(&disk)], timeout).await.unwrap();
            served.lock().unwrap().push((n, locks[0].to_string()));
            machine.release(&locks).await.unwrap();
        }));
        until_waiting(&bus, u32::try_from(n + 1).unwrap()).await;
    }
    let rows = manager(&bus).await.list_waiting(none()).await.unwrap();
    let names: Vec<String> = rows.iter().map(|row| crate::snapshot::text(row, "name")).collect();
    assert_eq!(names, (0..CROWD.0).map(|n| format!("web{n}")).collect::<Vec<_>>());
    first.release(&held).await.unwrap();
    for one in crowd {
        within("everybody's turn", one).await.unwrap();
    }
    // Answers over several connections may be read in another order; locks are numbered as they
    // are granted.
    let mut served = Arc::try_unwrap(served).unwrap().into_inner().unwrap();
    let number = |path: &str| path.rsplit('/').next().unwrap().parse::<u64>().unwrap();
    served.sort_by_key(|(_, path)| number(path));
    let order: Vec<usize> = served.iter().map(|(n, _)| *n).collect();
    assert_eq!(order, (0..CROWD.0).collect::<Vec<_>>());
    until_waiting(&bus, 0).await;
    assert_free(&disk);
}

#[tokio::test]
async fn two_requests_for_two_disks_in_opposite_order_cannot_deadlock() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (a, b) = (fixture.raw_of(0, "a"), fixture.raw_of(0, "b"));
    let [web1, web2, web3] = [
        TestVm::open(&bus, "web1").await,
        TestVm::open(&bus, "web2").await,
        TestVm::open(&bus, "web3").await,
    ];
    for _ in 0..20 {
        let held_a = web1.acquire(&[exclusive(&a)]).await.unwrap();
        let held_b = web1.acquire(&[exclusive(&b)]).await.unwrap();
        let there = wait(&bus, &web2, &[exclusive(&a), exclusive(&b)], LONG).await;
        let back = wait(&bus, &web3, &[exclusive(&b), exclusive(&a)], LONG).await;
        // The first of the one, and the first of the other, become free at one time.
        let (one, two) = tokio::join!(web1.release(&held_a), web1.release(&held_b));
        one.and(two).unwrap();
        let locks = within("the first's turn", there).await.unwrap().unwrap();
        assert!(!back.is_finished());
        web2.release(&locks).await.unwrap();
        let locks = within("the second's turn", back).await.unwrap().unwrap();
        web3.release(&locks).await.unwrap();
    }
    assert_free(&a);
    assert_free(&b);
}

#[tokio::test]
async fn a_disk_is_waited_for_under_any_name() {
    for config in ["", "file_lockspace_dir = \"@DIR@/locks\"\n"] {
        let fixture = Fixture::builder().folder("locks").config(config).start().await;
        let bus = fixture.connection().await;
        let disk = fixture.raw_of(0, "disk");
        let (link, hard) = (fixture.dir().join("link"), fixture.dir().join("hard"));
        std::os::unix::fs::symlink(&disk, &link).unwrap();
        std::fs::hard_link(&disk, &hard).unwrap();
        let [web1, web2, web3] = [
            TestVm::open(&bus, "web1").await,
            TestVm::open(&bus, "web2").await,
            TestVm::open(&bus, "web3").await,
        ];
        let held = web1.acquire(&[exclusive(&disk)]).await.unwrap();
        let by_link = wait(&bus, &web2, &[exclusive(&link)], LONG).await;
        let by_hard = wait(&bus, &web3, &[shared(&hard)], LONG).await;
        // No lock was acquired meanwhile: a waiter holds no lock file either.
        let files = std::fs::read_dir(fixture.dir().join("locks")).unwrap().count();
        assert_eq!(files, usize::from(!config.is_empty()));
        web1.release(&held).await.unwrap();
        let locks = within("by a symlink", by_link).await.unwrap().unwrap();
        assert!(!by_hard.is_finished());
        web2.release(&locks).await.unwrap();
        let locks = within("by a hard link", by_hard).await.unwrap().unwrap();
        let file = crate::dbus_client::lock(&bus, &locks[0]).await.lock_file().await.unwrap();
        let file = std::fs::File::options().read(true).write(true).open(file).unwrap();
        assert!(ofd::conflicting_lock(&file, Mode::Exclusive).unwrap().is_some());
        web3.release(&locks).await.unwrap();
        until_waiting(&bus, 0).await;
        assert_free(&disk);
        assert_eq!(std::fs::read_dir(fixture.dir().join("locks")).unwrap().count(), 0);
    }
}
