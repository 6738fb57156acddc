//! Waiting for what others hold: in order, without holding anything, and not for ever.

mod concurrent_commands;
mod disconnect;
mod foreign_holders;
mod limit;
mod names;
mod order;
mod quotas;
mod restart;

use zbus::{Connection, OwnedObjectPath};

use crate::dbus_client::{Answer, TestVm, exclusive, lock, manager, option, shared};
use crate::fixture::{Fixture, ForeignHolder, LockType, within};
use crate::refused_requests::assert_refused;

/// Longer than any test lives.
pub(crate) const LONG: u64 = u64::MAX;

/// Returns once so many wait.
pub(crate) async fn until_waiting(bus: &Connection, wanted: u32) {
    let manager = manager(bus).await;
    let waiting = async {
        while manager.n_waiting().await.unwrap() != wanted {
            // With a pause, as the task that begins to wait needs the processor, too.
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    within(&format!("{wanted} waiting"), waiting).await;
}

/// Starts a task in which a VM waits, and returns once it waits.
pub(crate) async fn wait(
    bus: &Connection,
    machine: &TestVm,
    disks: &[(&str, &str)],
    timeout: u64,
) -> tokio::task::JoinHandle<Answer<Vec<OwnedObjectPath>>> {
    let before = manager(bus).await.n_waiting().await.unwrap();
    let owner = machine.owner.clone();
    let disks: Vec<(String, String)> =
        disks.iter().map(|(disk, mode)| ((*disk).to_owned(), (*mode).to_owned())).collect();
    let task = tokio::spawn(async move {
        let disks: Vec<(&str, &str)> =
            disks.iter().map(|(disk, mode)| (disk.as_str(), mode.as_str())).collect();
        Ok(owner.acquire(&disks, option("timeout-usec", timeout)).await?)
    });
    until_waiting(bus, before + 1).await;
    task
}

#[tokio::test]
async fn waiters_are_served_in_order_and_no_reader_overtakes_a_writer() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "disk");
    let (web1, web2, web3) = (
        TestVm::open(&bus, "web1").await,
        TestVm::open(&bus, "web2").await,
        TestVm::open(&bus, "web3").await,
    );
    let first = web1.acquire(&[shared(&disk)]).await.unwrap();
    let writer = wait(&bus, &web2, &[exclusive(&disk)], LONG).await;
    let refused = web3.acquire(&[shared(&disk)]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", "web2");
    assert!(refused.message.contains("web1"), "{}", refused.message);
    let reader = wait(&bus, &web3, &[shared(&disk)], LONG).await;
    let rows = manager(&bus).await.list_waiting(crate::methods::none()).await.unwrap();
    let names: Vec<String> = rows.iter().map(|row| crate::snapshot::text(row, "name")).collect();
    assert_eq!(names, ["web2", "web3"]);
    assert_eq!(lock(&bus, &first[0]).await.n_waiting().await.unwrap(), 2);
    web1.release(&first).await.unwrap();
    let second = within("the writer's turn", writer).await.unwrap().unwrap();
    assert!(!reader.is_finished());
    web2.release(&second).await.unwrap();
    within("the reader's turn", reader).await.unwrap().unwrap();
    until_waiting(&bus, 0).await;
}

#[tokio::test]
async fn a_request_for_two_disks_holds_neither_while_it_waits() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (held, free) = (fixture.raw_of(0, "held"), fixture.raw_of(0, "free"));
    let web1 = TestVm::open(&bus, "web1").await;
    let web2 = TestVm::open(&bus, "web2").await;
    let web3 = TestVm::open(&bus, "web3").await;
    let first = web1.acquire(&[exclusive(&held)]).await.unwrap();
    let both = wait(&bus, &web2, &[exclusive(&free), exclusive(&held)], LONG).await;
    let taken = web3.acquire(&[exclusive(&free)]).await.unwrap();
    web1.release(&first).await.unwrap();
    crate::refused_requests::assert_free(&held);
    web3.release(&taken).await.unwrap();
    assert_eq!(within("both", both).await.unwrap().unwrap().len(), 2);
}

#[tokio::test]
async fn a_wait_ends_by_timeout_owner_disconnect_or_cancellation() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "disk");
    let web1 = TestVm::open(&bus, "web1").await;
    let web2 = TestVm::open(&bus, "web2").await;
    let held = web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let timeout = option("timeout-usec", 20_000_u64);
    let late = web2.owner.acquire(&[exclusive(&disk)], timeout).await.unwrap_err();
    assert_refused(&late.into(), "WaitTimedOut", "web1");

    let cancelled = wait(&bus, &web2, &[exclusive(&disk)], LONG).await;
    web2.owner.cancel(crate::methods::none()).await.unwrap();
    let cancelled = within("the end", cancelled).await.unwrap().unwrap_err();
    assert_refused(&cancelled, "WaitCancelled", "cancelled");

    let other = fixture.connection().await;
    let task = wait(&other, &web2, &[exclusive(&disk)], LONG).await;
    let closed = wait(&bus, &web2, &[exclusive(&disk)], LONG).await;
    web2.owner.close(crate::methods::none()).await.unwrap();
    for task in [task, closed] {
        let ended = within("the end", task).await.unwrap().unwrap_err();
        assert_refused(&ended, "WaitCancelled", "ended");
    }
    let web3 = TestVm::open(&bus, "web3").await;
    let gone = fixture.connection().await;
    let theirs = crate::dbus_client::owner(&gone, web3.path()).await;
    let disks = [exclusive(&disk)].map(|(disk, mode)| (disk.to_owned(), mode.to_owned()));
    let task = tokio::spawn(async move {
        let disks = disks.each_ref().map(|(disk, mode)| (disk.as_str(), mode.as_str()));
        let _ = theirs.acquire(&disks, option("timeout-usec", LONG)).await;
    });
    until_waiting(&bus, 1).await;
    gone.close().await.unwrap();
    until_waiting(&bus, 0).await;
    task.abort();
    web1.release(&held).await.unwrap();
    assert!(web3.locks().await.is_empty());
    crate::refused_requests::assert_free(&disk);
}

#[tokio::test]
async fn the_first_waiter_waits_for_a_foreign_holder() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "disk");
    let foreign_holder = ForeignHolder::hold(&disk, LockType::Ofd, true).unwrap();
    let web1 = TestVm::open(&bus, "web1").await;
    let web2 = TestVm::open(&bus, "web2").await;
    let first = wait(&bus, &web1, &[exclusive(&disk)], LONG).await;
    let second = wait(&bus, &web2, &[exclusive(&disk)], LONG).await;
    let web3 = TestVm::open(&bus, "web3").await;
    let refused = web3.acquire(&[exclusive(&disk)]).await.unwrap_err();
    assert_refused(&refused, "LockHeldElsewhere", "another program");
    drop(foreign_holder);
    let locks = within("the first's turn", first).await.unwrap().unwrap();
    assert!(!second.is_finished());
    web1.release(&locks).await.unwrap();
    within("the second's turn", second).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_upgrade_waits_for_readers_and_a_second_upgrade_is_refused() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "disk");
    let web1 = TestVm::open(&bus, "web1").await;
    let web2 = TestVm::open(&bus, "web2").await;
    let web3 = TestVm::open(&bus, "web3").await;
    let first = web1.acquire(&[shared(&disk)]).await.unwrap();
    let second = web2.acquire(&[shared(&disk)]).await.unwrap();
    let writer = wait(&bus, &web3, &[exclusive(&disk)], LONG).await;
    let strong = lock(&bus, &first[0]).await;
    let task = {
        let strong = strong.clone();
        tokio::spawn(async move { strong.convert("exclusive", option("timeout-usec", LONG)).await })
    };
    until_waiting(&bus, 2).await;
    let other = lock(&bus, &second[0]).await;
    let refused = other.convert("exclusive", option("timeout-usec", LONG)).await.unwrap_err();
    assert_refused(&refused.into(), "LockHeld", "web1");
    web2.release(&second).await.unwrap();
    within("the conversion", task).await.unwrap().unwrap();
    assert_eq!(strong.mode().await.unwrap(), "exclusive");
    assert!(!writer.is_finished());
    web1.release(&first).await.unwrap();
    within("the writer's turn", writer).await.unwrap().unwrap();
}

#[tokio::test]
async fn opening_an_owner_waits_and_a_shutdown_is_reported() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "disk");
    let web1 = TestVm::open(&bus, "web1").await;
    let held = web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let path = disk.to_str().unwrap().to_owned();
    let open = |bus: Connection, timeout: u64| {
        let path = path.clone();
        tokio::spawn(async move {
            let resources = vec![(path, "exclusive".to_owned())];
            let mut options = option("resources", resources);
            options.extend(option("timeout-usec", timeout));
            TestVm::open_with(&bus, "", "web2", options).await
        })
    };
    let late = open(bus.clone(), 1).await.unwrap().unwrap_err();
    assert_refused(&late, "WaitTimedOut", "web1");
    let opened = open(bus.clone(), LONG);
    until_waiting(&bus, 1).await;
    web1.release(&held).await.unwrap();
    let web2 = within("it opens", opened).await.unwrap().unwrap();
    assert_eq!(web2.locks().await.len(), 1);
    let last = open(bus.clone(), LONG);
    until_waiting(&bus, 1).await;
    fixture.daemon().signal(nix::sys::signal::Signal::SIGTERM);
    let told = within("the end", last).await.unwrap().unwrap_err();
    assert_refused(&told, "ShuttingDown", "vmlockd is stopping");
}
