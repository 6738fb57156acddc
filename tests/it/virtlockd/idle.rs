//! `--timeout`: a user's instance that was started on demand ends when it is idle.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::time::timeout;

use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::rpc::{Answer, Owner, Rpc};
use crate::fixture::user::{Account, NOBODY};
use crate::fixture::{Connector, Fixture, Process, within};

/// How long it waits before it ends, with what a busy machine adds: who is there longer keeps it.
const LONG: Duration = Duration::from_secs(4);

/// A user's instance that ends when it was not needed for a second. Its socket is where libvirt
/// looks for it.
async fn fixture() -> (Fixture, PathBuf) {
    let fixture = Fixture::builder().session_of(NOBODY).arg("--timeout=1").start().await;
    let socket = fixture.launch().runtime_dir.join("libvirt/virtlockd-sock");
    (fixture, socket)
}

/// Connects to it as its user, and starts it again if it has ended.
async fn come_in(fixture: &Fixture, socket: &Path) -> (Connector, Rpc) {
    loop {
        let log = fixture.dir().join("connector.log");
        let account = Some(Account::of(NOBODY));
        if let Ok((process, stream)) = Connector::try_start(&["env"], account, socket, &log) {
            let mut client = Rpc::on(stream);
            if client.ping() == Answer::Granted {
                return (process, client);
            }
        }
        fixture.daemon().ended().await;
        fixture.daemon().start_again().await;
    }
}

/// A process of the user's.
fn process(fixture: &Fixture) -> Process {
    let Account { uid, gid } = Account::of(NOBODY);
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}"));
    command.args(["--clear-groups", "--", "sleep", "infinity"]);
    Process::start("sleep", command, &fixture.dir().join("sleep.log"))
}

/// It does not end, however long it is waited for.
async fn stays(fixture: &Fixture) {
    // This is about time.
    let ended = timeout(LONG, fixture.daemon().ended()).await;
    assert!(ended.is_err(), "it has ended: {}", fixture.daemon().stderr());
}

/// It ends by itself, and orderly.
async fn ends(fixture: &Fixture, socket: &Path) {
    let status = within("it ends by itself", fixture.daemon().ended()).await;
    assert!(status.success(), "{status}: {}", fixture.daemon().stderr());
    assert!(!socket.exists());
    let last = fixture.daemon().stderr();
    assert!(last.contains("exiting: vmlockd is idle"), "{last}");
}

#[tokio::test]
async fn it_ends_without_a_client() {
    let (fixture, socket) = fixture().await;
    // Being on the bus with it is no need.
    let _bus = fixture.connection().await;
    ends(&fixture, &socket).await;
    fixture.daemon().start_again().await;
    ends(&fixture, &socket).await;
}

#[tokio::test]
async fn it_stays_for_a_client() {
    let (fixture, socket) = fixture().await;
    let (_process, mut client) = come_in(&fixture, &socket).await;
    let process = process(&fixture);
    client.register(&Owner::new("web1", 1, process.pid())).granted();
    client.restrict().granted();
    drop(process);
    stays(&fixture).await;
    client.ping().granted();
    drop(client);
    ends(&fixture, &socket).await;
}

#[tokio::test]
async fn it_stays_for_a_vm_without_a_client() {
    let (fixture, socket) = fixture().await;
    let disk = fixture.raw_of(NOBODY, "disk");
    let process = process(&fixture);
    let (_process, mut client) = come_in(&fixture, &socket).await;
    client.register(&Owner::new("web1", 1, process.pid())).granted();
    client.acquire("", disk.to_str().unwrap(), 0).granted();
    drop(client);
    stays(&fixture).await;
    drop(process);
    ends(&fixture, &socket).await;
}

#[tokio::test]
async fn it_stays_for_a_vm_from_the_bus() {
    let (fixture, socket) = fixture().await;
    let disk = fixture.raw_of(NOBODY, "disk");
    let (_process, client) = come_in(&fixture, &socket).await;
    let bus = fixture.connection().await;
    let machine = TestVm::open(&bus, "web1").await;
    machine.acquire(&[exclusive(&disk)]).await.unwrap();
    drop(client);
    stays(&fixture).await;
    drop(machine);
    ends(&fixture, &socket).await;
}

/// A machine that it finds again after a crash is one.
#[tokio::test]
async fn it_stays_for_a_vm_from_before_a_restart() {
    let (fixture, socket) = fixture().await;
    let disk = fixture.raw_of(NOBODY, "disk");
    let process = process(&fixture);
    let (_process, mut client) = come_in(&fixture, &socket).await;
    client.register(&Owner::new("web1", 1, process.pid())).granted();
    client.acquire("", disk.to_str().unwrap(), 0).granted();
    fixture.daemon().kill9().await;
    fixture.daemon().start_again().await;
    stays(&fixture).await;
    drop(process);
    ends(&fixture, &socket).await;
}
