//! Who is refused on one host is told who holds the disk on the other.

use std::process::Command;

use super::pair::{Files, Half, Pair, until, until_got};
use crate::house::Process;
use crate::listed::Listed;
use crate::machine::{Machine, exclusive};
use crate::methods::none;

/// What a machine is told that wants a disk.
async fn told(machine: &Machine, disk: &std::path::Path) -> String {
    let refused = machine.acquire(&[exclusive(disk)]).await.unwrap_err();
    assert_eq!(refused.name, "LockHeldElsewhere", "{refused:?}");
    refused.message
}

fn process(pair: &Pair, name: &str) -> Process {
    let mut command = Command::new("sleep");
    command.arg("infinity");
    Process::start(name, command, &pair.shared.path().with_file_name("machines.log"))
}

#[tokio::test]
async fn the_holder_on_the_other_host_is_named() {
    let Some(pair) = Pair::start(Files::Hashed).await else { return };
    let disk = pair.shared.disk("disk");
    let hosts: [(&Half, &Half, &str); 2] =
        [(&pair.a, &pair.b, "host-a"), (&pair.b, &pair.a, "host-b")];
    for (first, second, name) in hosts {
        let (web1, web2) = (first.machine("web1").await, second.machine("web2").await);
        let qemu = process(&pair, "web1");
        web1.owner.bind_pid(qemu.pid(), none()).await.unwrap();
        web1.acquire(&[exclusive(&disk)]).await.unwrap();
        let message = told(&web2, &disk).await;
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

/// What a killed service has written stays, and is not believed of whoever comes after.
#[tokio::test]
async fn of_a_killed_service_nobody_is_told() {
    let Some(pair) = Pair::start(Files::Hashed).await else { return };
    let disk = pair.shared.disk("disk");
    let (web1, web2) = (pair.a.machine("web1").await, pair.b.machine("web2").await);
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    assert!(told(&web2, &disk).await.contains("on host host-a"));
    pair.a.daemon.kill9().await;
    until_got(&web2, &disk).await;
    drop(web1);
    pair.a.daemon.start_again().await;
    let gone = async || Listed::by(&pair.a.bus).await.owners.is_empty();
    until("the machine's end", gone).await;
    let message = told(&pair.a.machine("web3").await, &disk).await;
    assert!(message.contains("VM \"web2\"") && message.contains("on host host-b"), "{message}");
    assert!(!message.contains("web1"), "{message}");
}
