//! A refusal on one host names the holder of the disk on the other.

use std::path::Path;
use std::process::Command;

use rustix::fs::listxattr;

use super::pair::{Files, Half, Pair, until, until_got};
use crate::dbus_client::{TestVm, exclusive, manager};
use crate::fixture::{NAME, NameWatch, Process};
use crate::methods::none;
use crate::snapshot::Listed;

/// Returns the refusal for a VM that requests a disk.
async fn refusal_for(machine: &TestVm, disk: &Path) -> String {
    let refused = machine.acquire(&[exclusive(disk)]).await.unwrap_err();
    assert_eq!(refused.name, "LockHeldElsewhere", "{refused:?}");
    refused.message
}

fn process(pair: &Pair, name: &str) -> Process {
    let mut command = Command::new("sleep");
    command.arg("infinity");
    Process::start(name, command, &pair.shared.path().with_file_name("machines.log"))
}

async fn the_holder_on_the_other_host_is_named(files: Files) {
    let Some(pair) = Pair::start(files).await else { return };
    let disk = pair.shared.disk("disk");
    let hosts: [(&Half, &Half, &str); 2] =
        [(&pair.a, &pair.b, "host-a"), (&pair.b, &pair.a, "host-b")];
    for (first, second, name) in hosts {
        let (web1, web2) = (first.machine("web1").await, second.machine("web2").await);
        let qemu = process(&pair, "web1");
        web1.owner.bind_pid(qemu.pid(), none()).await.unwrap();
        web1.acquire(&[exclusive(&disk)]).await.unwrap();
        let message = refusal_for(&web2, &disk).await;
        let uuid = web1.owner.uuid().await.unwrap();
        let holder =
            format!("VM \"web1\" ({uuid}, pid {}, user root) on host {name} since ", qemu.pid());
        assert!(message.contains(&holder), "{message}");
        eprintln!("{message}");
        drop((web1, qemu));
        until_got(&web2, &disk).await;
        let gone = async || Listed::by(&first.bus).await.owners.is_empty();
        until("the machine's end", gone).await;
        web2.owner.close(none()).await.unwrap();
    }
}

#[tokio::test]
async fn the_holder_of_the_disk_itself_is_named() {
    the_holder_on_the_other_host_is_named(Files::Direct).await;
}

#[tokio::test]
async fn the_holder_is_named_where_lock_files_are_hashed() {
    the_holder_on_the_other_host_is_named(Files::Hashed).await;
}

/// The record of a killed service stays, and is not attributed to a later holder.
async fn a_killed_service_is_not_named(files: Files) {
    let Some(pair) = Pair::start(files).await else { return };
    let disk = pair.shared.disk("disk");
    let (web1, web2) = (pair.a.machine("web1").await, pair.b.machine("web2").await);
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    assert!(refusal_for(&web2, &disk).await.contains("on host host-a"));
    pair.a.daemon.kill9().await;
    until_got(&web2, &disk).await;
    drop(web1);
    pair.a.daemon.start_again().await;
    let gone = async || Listed::by(&pair.a.bus).await.owners.is_empty();
    until("the machine's end", gone).await;
    let message = refusal_for(&pair.a.machine("web3").await, &disk).await;
    assert!(message.contains("VM \"web2\"") && message.contains("on host host-b"), "{message}");
    assert!(!message.contains("web1"), "{message}");
}

#[tokio::test]
async fn a_killed_service_is_not_named_for_the_disk_itself() {
    a_killed_service_is_not_named(Files::Direct).await;
}

#[tokio::test]
async fn a_killed_service_is_not_named_for_a_hashed_lock_file() {
    a_killed_service_is_not_named(Files::Hashed).await;
}

/// The names of what is written beside a disk.
fn beside(disk: &Path) -> String {
    let mut names = [0; 1000];
    let length = listxattr(disk, &mut names).unwrap();
    names[..length].escape_ascii().to_string()
}

/// Also where the service that gives the disk up is not the one that took it.
#[tokio::test]
async fn no_holder_record_is_left_on_the_disk() {
    let Some(pair) = Pair::start(Files::Direct).await else { return };
    let disk = pair.shared.disk("disk");
    let there = pair.shared.hosts()[0].at(&disk);
    for again in [false, true] {
        let web1 = pair.a.machine("web1").await;
        let lock = web1.acquire(&[exclusive(&disk)]).await.unwrap();
        assert!(beside(&there).contains("user.vmlockd.holder."), "{}", beside(&there));
        if again {
            let mut name = NameWatch::new(&pair.a.bus, NAME).await;
            let first = name.owned().await;
            manager(&pair.a.bus).await.reexecute(none()).await.unwrap();
            name.owned_by_other_than(&first).await;
            assert_eq!(Listed::by(&pair.a.bus).await.locks.len(), 1);
        }
        web1.release(&lock).await.unwrap();
        assert_eq!(beside(&there), "");
        web1.owner.close(none()).await.unwrap();
    }
}
