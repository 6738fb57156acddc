//! `--timeout`: a user's instance that was started on demand ends when nobody needs it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::time::timeout;

use crate::house::rpc::{Answer, Owner, Rpc};
use crate::house::user::{Account, NOBODY};
use crate::house::{Connector, House, Process, within};
use crate::machine::{Machine, exclusive};

/// How long it waits before it ends, with what a busy machine adds: who is there longer keeps it.
const LONG: Duration = Duration::from_secs(4);

/// A user's instance that ends when it was not needed for a second. Its socket is where libvirt
/// looks for it.
async fn house() -> (House, PathBuf) {
    let house = House::builder().session_of(NOBODY).arg("--timeout=1").start().await;
    let socket = house.launch().runtime_dir.join("libvirt/virtlockd-sock");
    (house, socket)
}

/// Connects to it as its user, and starts it again where nobody came in time.
async fn come_in(house: &House, socket: &Path) -> (Connector, Rpc) {
    loop {
        let log = house.dir().join("connector.log");
        let account = Some(Account::of(NOBODY));
        if let Ok((process, stream)) = Connector::try_start(&["env"], account, socket, &log) {
            let mut client = Rpc::on(stream);
            if client.ping() == Answer::Granted {
                return (process, client);
            }
        }
        house.daemon().ended().await;
        house.daemon().start_again().await;
    }
}

/// A process of the user's.
fn process(house: &House) -> Process {
    let Account { uid, gid } = Account::of(NOBODY);
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}"));
    command.args(["--clear-groups", "--", "sleep", "infinity"]);
    Process::start("sleep", command, &house.dir().join("sleep.log"))
}

/// It does not end, however long it is waited for.
async fn stays(house: &House) {
    // This is about time.
    let ended = timeout(LONG, house.daemon().ended()).await;
    assert!(ended.is_err(), "it has ended: {}", house.daemon().stderr());
}

/// It ends by itself, and orderly.
async fn ends(house: &House, socket: &Path) {
    let status = within("it ends by itself", house.daemon().ended()).await;
    assert!(status.success(), "{status}: {}", house.daemon().stderr());
    assert!(!socket.exists());
    let last = house.daemon().stderr();
    assert!(last.contains("exiting: vmlockd is idle"), "{last}");
}

#[tokio::test]
async fn it_ends_when_nobody_has_come() {
    let (house, socket) = house().await;
    // Being on the bus with it is no need.
    let _bus = house.connection().await;
    ends(&house, &socket).await;
    house.daemon().start_again().await;
    ends(&house, &socket).await;
}

#[tokio::test]
async fn it_stays_for_a_client() {
    let (house, socket) = house().await;
    let (_process, mut client) = come_in(&house, &socket).await;
    let process = process(&house);
    client.register(&Owner::new("web1", 1, process.pid())).granted();
    client.restrict().granted();
    drop(process);
    stays(&house).await;
    client.ping().granted();
    drop(client);
    ends(&house, &socket).await;
}

#[tokio::test]
async fn it_stays_for_a_machine_that_has_no_client_left() {
    let (house, socket) = house().await;
    let disk = house.raw_of(NOBODY, "disk");
    let process = process(&house);
    let (_process, mut client) = come_in(&house, &socket).await;
    client.register(&Owner::new("web1", 1, process.pid())).granted();
    client.acquire("", disk.to_str().unwrap(), 0).granted();
    drop(client);
    stays(&house).await;
    drop(process);
    ends(&house, &socket).await;
}

#[tokio::test]
async fn it_stays_for_a_machine_that_came_by_the_bus() {
    let (house, socket) = house().await;
    let disk = house.raw_of(NOBODY, "disk");
    let (_process, client) = come_in(&house, &socket).await;
    let bus = house.connection().await;
    let machine = Machine::open(&bus, "web1").await;
    machine.acquire(&[exclusive(&disk)]).await.unwrap();
    drop(client);
    stays(&house).await;
    drop(machine);
    ends(&house, &socket).await;
}

/// A machine that it finds again after a crash is one.
#[tokio::test]
async fn it_stays_for_a_machine_of_an_earlier_life() {
    let (house, socket) = house().await;
    let disk = house.raw_of(NOBODY, "disk");
    let process = process(&house);
    let (_process, mut client) = come_in(&house, &socket).await;
    client.register(&Owner::new("web1", 1, process.pid())).granted();
    client.acquire("", disk.to_str().unwrap(), 0).granted();
    house.daemon().kill9().await;
    house.daemon().start_again().await;
    stays(&house).await;
    drop(process);
    ends(&house, &socket).await;
}
