//! Conflicts between the services of two hosts.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::pair::{Files, Half, Pair, until, until_got};
use crate::dbus_client::{TestVm, exclusive, manager, shared};
use crate::methods::none;
use crate::snapshot::Listed;

/// The other host's machine is not let in, and told of the disk.
async fn refused(machine: &TestVm, disk: (&str, &'static str)) {
    let refused = machine.acquire(&[disk]).await.unwrap_err();
    assert_eq!(refused.name, "LockHeldElsewhere", "{refused:?}");
    assert!(refused.message.contains(disk.0), "{refused:?}");
}

async fn hosts_exclude_each_other(files: Files) {
    let Some(pair) = Pair::start(files).await else { return };
    let disk = pair.shared.disk("disk");
    for (first, second) in pair.both_ways() {
        let (web1, web2) = (first.machine("web1").await, second.machine("web2").await);
        let lock = web1.acquire(&[exclusive(&disk)]).await.unwrap();
        refused(&web2, exclusive(&disk)).await;
        refused(&web2, shared(&disk)).await;
        web1.release(&lock).await.unwrap();
        let lock = web2.acquire(&[exclusive(&disk)]).await.unwrap();
        refused(&web1, exclusive(&disk)).await;
        web2.release(&lock).await.unwrap();

        // Readers are let in on both, and keep writers out on both.
        let one = web1.acquire(&[shared(&disk)]).await.unwrap();
        let other = web2.acquire(&[shared(&disk)]).await.unwrap();
        let writer = second.machine("writer").await;
        web1.release(&one).await.unwrap();
        let writer_of_first = first.machine("writer").await;
        refused(&writer_of_first, exclusive(&disk)).await;
        web2.release(&other).await.unwrap();
        let lock = writer.acquire(&[exclusive(&disk)]).await.unwrap();
        refused(&writer_of_first, exclusive(&disk)).await;
        writer.release(&lock).await.unwrap();
    }
}

#[tokio::test]
async fn hosts_exclude_each_other_by_the_disk_itself() {
    hosts_exclude_each_other(Files::Direct).await;
}

#[tokio::test]
async fn hosts_exclude_each_other_by_hashed_lock_files() {
    hosts_exclude_each_other(Files::Hashed).await;
}

/// A link is the disk that it leads to. Where lock files are hashed, hosts know a disk by its path,
/// and a second hard link has another.
async fn by_another_name(files: Files) {
    let Some(pair) = Pair::start(files).await else { return };
    let disk = pair.shared.disk("disk");
    let [soft, hard] = ["soft", "hard"].map(|name| pair.shared.path().join(name));
    let a = &pair.shared.hosts()[0];
    symlink(&disk, a.at(&soft)).unwrap();
    fs::hard_link(a.at(&disk), a.at(&hard)).unwrap();
    let mut names = vec![&disk, &soft];
    if files == Files::Direct {
        names.push(&hard);
    }
    let pairs = names.iter().flat_map(|has| names.iter().map(move |wants| (has, wants)));
    for (first, second) in pair.both_ways() {
        let (web1, web2) = (first.machine("web1").await, second.machine("web2").await);
        for (has, wants) in pairs.clone() {
            let lock = web1.acquire(&[exclusive(has)]).await.unwrap();
            refused(&web2, exclusive(wants)).await;
            web1.release(&lock).await.unwrap();
        }
    }
}

#[tokio::test]
async fn by_another_name_is_the_disk_itself() {
    by_another_name(Files::Direct).await;
}

#[tokio::test]
async fn by_another_name_is_the_same_where_lock_files_are_hashed() {
    by_another_name(Files::Hashed).await;
}

/// Several disks are locked or none, whichever host holds one of them.
#[tokio::test]
async fn all_or_nothing() {
    let Some(pair) = Pair::start(Files::Hashed).await else { return };
    let [first, second, third] = ["first", "second", "third"].map(|name| pair.shared.disk(name));
    let (web1, web2) = (pair.a.machine("web1").await, pair.b.machine("web2").await);
    let lock = web1.acquire(&[exclusive(&second)]).await.unwrap();
    let all = [exclusive(&first), exclusive(&second), exclusive(&third)];
    let refusal = web2.acquire(&all).await.unwrap_err();
    assert_eq!(refusal.name, "LockHeldElsewhere", "{refusal:?}");
    let rest = web1.acquire(&[exclusive(&first), exclusive(&third)]).await.unwrap();
    web1.release(&rest).await.unwrap();
    web1.release(&lock).await.unwrap();
    web2.acquire(&all).await.unwrap();
}

async fn a_vm_that_ends_unlocks_its_disk(files: Files) {
    let Some(pair) = Pair::start(files).await else { return };
    let disk = pair.shared.disk("disk");
    for (first, second) in pair.both_ways() {
        let (web1, web2) = (first.machine("web1").await, second.machine("web2").await);
        web1.acquire(&[exclusive(&disk)]).await.unwrap();
        refused(&web2, exclusive(&disk)).await;
        drop(web1);
        until_got(&web2, &disk).await;
        let gone = async || Listed::by(&first.bus).await.owners.is_empty();
        until("the machine's end", gone).await;
        web2.owner.close(none()).await.unwrap();
    }
}

#[tokio::test]
async fn a_vm_that_ends_unlocks_the_disk_itself() {
    a_vm_that_ends_unlocks_its_disk(Files::Direct).await;
}

#[tokio::test]
async fn a_vm_that_ends_unlocks_its_hashed_lock_file() {
    a_vm_that_ends_unlocks_its_disk(Files::Hashed).await;
}

/// If its descriptors are not stored, a killed service loses all its locks to the other host. When
/// it comes back it locks none of these disks, and reports the lost locks.
async fn a_killed_service_unlocks_its_disk(files: Files) -> Option<Left> {
    let pair = Pair::start(files).await?;
    let disk = pair.shared.disk("disk");
    let (web1, web2) = (pair.a.machine("web1").await, pair.b.machine("web2").await);
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    refused(&web2, exclusive(&disk)).await;
    pair.a.daemon.kill9().await;
    until_got(&web2, &disk).await;
    pair.a.daemon.start_again().await;
    until_said(&pair.a, (false, true)).await;
    until_said(&pair.b, (true, false)).await;
    Some(Left { web1, web2, pair, disk })
}

/// The machine that has lost its disk, and the one that has it.
struct Left {
    web1: TestVm,
    web2: TestVm,
    pair: Pair,
    disk: PathBuf,
}

/// Waits until the only lock on a host is said to be verified, and lost, or not.
async fn until_said(host: &Half, wanted: (bool, bool)) {
    let manager = manager(&host.bus).await;
    let said = async || {
        let rows = manager.list_locks(none()).await.unwrap();
        let word = |key: &str| bool::try_from(&rows[0][key]).unwrap();
        (word("verified"), word("lost")) == wanted
    };
    until(&format!("verified and lost: {wanted:?}"), said).await;
}

#[tokio::test]
async fn a_killed_service_unlocks_the_disk_itself() {
    a_killed_service_unlocks_its_disk(Files::Direct).await;
}

/// A lost lock is retried, as the VM may still be writing: until the lock of the other host has
/// ended.
#[tokio::test]
async fn a_lock_lost_to_the_other_host_is_reacquired() {
    let Some(left) = a_killed_service_unlocks_its_disk(Files::Hashed).await else { return };
    let Left { web1, web2, pair, disk } = left;
    drop(web2);
    until_said(&pair.a, (true, false)).await;
    let web4 = pair.b.machine("web4").await;
    refused(&web4, exclusive(&disk)).await;
    drop(web1);
    until_got(&web4, &disk).await;
}
