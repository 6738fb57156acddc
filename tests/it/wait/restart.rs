//! The service is replaced while many wait: they are told, and what is locked stays.

use nix::sys::signal::Signal;
use zbus::Connection;

use super::{LONG, until_waiting, wait};
use crate::dbus_client::{TestVm, exclusive, lock, manager, option, shared};
use crate::fixture::{Fixture, NAME, NameWatch, within};
use crate::methods::none;
use crate::refused_requests::{assert_free, assert_refused};
use crate::snapshot::Listed;

/// The number of waiters, of all kinds.
const CROWD: u32 = 50;

/// How the re-execution is triggered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trigger {
    Signal,
    Call,
}

async fn replace(fixture: &Fixture, bus: &Connection, way: Trigger) {
    let mut name = NameWatch::new(bus, NAME).await;
    let first = name.owned().await;
    match way {
        Trigger::Signal => fixture.daemon().signal(Signal::SIGUSR1),
        Trigger::Call => manager(bus).await.reexecute(none()).await.unwrap(),
    }
    name.owned_by_other_than(&first).await;
}

async fn all_are_told(way: Trigger) {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (disk, both) = (fixture.raw_of(0, "disk"), fixture.raw_of(0, "both"));
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let held = web1.acquire(&[exclusive(&disk), shared(&both)]).await.unwrap();
    let weak = web2.acquire(&[shared(&both)]).await.unwrap();
    let before = Listed::by(&bus).await;
    for round in 0..3 {
        let mut waits = Vec::new();
        for n in 0..CROWD - 2 {
            // Some for what is held, and some behind them only.
            let (machine, disk) = if n % 2 == 0 { (&web2, &disk) } else { (&web1, &both) };
            if n % 2 == 0 {
                waits.push(wait(&bus, machine, &[exclusive(disk)], LONG).await);
            } else {
                // It holds that in another mode, and may ask for a third disk instead.
                let connection = fixture.connection().await;
                let (path, manager) =
                    (disk.to_str().unwrap().to_owned(), manager(&connection).await);
                waits.push(tokio::spawn(async move {
                    let resources = vec![(path, "exclusive".to_owned())];
                    let mut options = option("resources", resources);
                    options.extend(option("timeout-usec", LONG));
                    let opened = manager.open_owner("", "late", options).await;
                    opened.map(|_| Vec::new()).map_err(Into::into)
                }));
                until_waiting(&bus, n + 1).await;
            }
        }
        let strong = lock(&bus, &weak[0]).await;
        waits.push(tokio::spawn(async move {
            let timeout = option("timeout-usec", LONG);
            strong.convert("exclusive", timeout).await.map(|()| Vec::new()).map_err(Into::into)
        }));
        until_waiting(&bus, CROWD - 1).await;
        waits.push(wait(&bus, &web2, &[exclusive(&disk)], LONG).await);
        replace(&fixture, &bus, way).await;
        for wait in waits {
            let told = within("its end", wait).await.unwrap().unwrap_err();
            assert_refused(&told, "ShuttingDown", "being re-executed");
        }
        assert_eq!(Listed::by(&bus).await, before, "round {round}");
        assert_eq!(manager(&bus).await.n_waiting().await.unwrap(), 0);
    }
    // The new one has waiters of its own.
    let again = wait(&bus, &web2, &[exclusive(&disk)], LONG).await;
    web1.release(&held).await.unwrap();
    let locks = within("its turn", again).await.unwrap().unwrap();
    web2.release(&[&locks[..], &weak[..]].concat()).await.unwrap();
    assert_free(&disk);
    assert_free(&both);
}

#[tokio::test]
async fn fifty_waiters_are_notified_at_sigusr1() {
    all_are_told(Trigger::Signal).await;
}

#[tokio::test]
async fn fifty_waiters_are_notified_at_a_reexec_call() {
    all_are_told(Trigger::Call).await;
}
