//! A waiter on one host gets the disks that are released on the other.

use tokio::task::JoinHandle;
use zbus::OwnedObjectPath;

use super::pair::{Files, Half, Pair, until};
use crate::dbus_client::{Answer, TestVm, exclusive, manager, option, shared};
use crate::fixture::within;
use crate::methods::none;
use crate::refused_requests::assert_refused;
use crate::wait::LONG;

/// Starts a task in which a VM waits, and returns once it waits.
async fn wait(
    host: &Half,
    machine: &TestVm,
    disks: &[(&str, &str)],
) -> JoinHandle<Answer<Vec<OwnedObjectPath>>> {
    let owner = machine.owner.clone();
    let own = |(disk, mode): &(&str, &str)| ((*disk).to_owned(), (*mode).to_owned());
    let disks: Vec<(String, String)> = disks.iter().map(own).collect();
    let task = tokio::spawn(async move {
        let disks: Vec<_> =
            disks.iter().map(|(disk, mode)| (disk.as_str(), mode.as_str())).collect();
        Ok(owner.acquire(&disks, option("timeout-usec", LONG)).await?)
    });
    let manager = manager(&host.bus).await;
    until("it waits", async || manager.n_waiting().await.unwrap() == 1).await;
    task
}

async fn a_waiter_gets_the_disk_that_the_other_host_unlocks(files: Files) {
    let Some(pair) = Pair::start(files).await else { return };
    let disk = pair.shared.disk("disk");
    for (first, second) in pair.both_ways() {
        let (web1, web2) = (first.machine("web1").await, second.machine("web2").await);
        let lock = web1.acquire(&[exclusive(&disk)]).await.unwrap();
        let reader = wait(second, &web2, &[shared(&disk)]).await;
        web1.release(&lock).await.unwrap();
        let lock = within("the reader's turn", reader).await.unwrap().unwrap();

        let writer = wait(first, &web1, &[exclusive(&disk)]).await;
        web2.release(&lock).await.unwrap();
        within("the writer's turn", writer).await.unwrap().unwrap();

        let after_its_end = wait(second, &web2, &[exclusive(&disk)]).await;
        drop(web1);
        within("the turn after its end", after_its_end).await.unwrap().unwrap();
        web2.owner.close(none()).await.unwrap();
    }
}

#[tokio::test]
async fn a_waiter_gets_the_disk_itself() {
    a_waiter_gets_the_disk_that_the_other_host_unlocks(Files::Direct).await;
}

#[tokio::test]
async fn a_waiter_gets_a_hashed_lock_file() {
    a_waiter_gets_the_disk_that_the_other_host_unlocks(Files::Hashed).await;
}

#[tokio::test]
async fn a_waiter_gets_the_disk_of_a_killed_service() {
    let Some(pair) = Pair::start(Files::Hashed).await else { return };
    let disk = pair.shared.disk("disk");
    let (web1, web2) = (pair.a.machine("web1").await, pair.b.machine("web2").await);
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let waiting = wait(&pair.b, &web2, &[exclusive(&disk)]).await;
    pair.a.daemon.kill9().await;
    within("its turn", waiting).await.unwrap().unwrap();
}

/// A waiter for two disks holds neither on any host; and does not wait forever.
#[tokio::test]
async fn a_waiter_does_not_conflict_on_the_other_host() {
    let Some(pair) = Pair::start(Files::Hashed).await else { return };
    let [held, free] = ["held", "free"].map(|name| pair.shared.disk(name));
    let (web1, web2) = (pair.a.machine("web1").await, pair.b.machine("web2").await);
    let first = web1.acquire(&[exclusive(&held)]).await.unwrap();
    let short = option("timeout-usec", 20_000_u64);
    let late = web2.owner.acquire(&[exclusive(&held)], short).await.unwrap_err();
    assert_refused(&late.into(), "WaitTimedOut", held.to_str().unwrap());

    let both = wait(&pair.b, &web2, &[exclusive(&free), exclusive(&held)]).await;
    // Between two tries nothing is locked; at the moment of one it may be.
    let taken = async {
        loop {
            match web1.acquire(&[exclusive(&free)]).await {
                Ok(locks) => return locks,
                Err(refused) => assert_eq!(refused.name, "LockHeldElsewhere", "{refused:?}"),
            }
        }
    };
    let second = within("the free one", taken).await;
    web1.release(&first).await.unwrap();
    web1.release(&second).await.unwrap();
    assert_eq!(within("both", both).await.unwrap().unwrap().len(), 2);
}
