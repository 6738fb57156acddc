//! `--virtlockd-socket`: a socket that only the command line of the service names.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::fixture::rpc::{Owner, Rpc};
use crate::fixture::user::ROOT;
use crate::fixture::{CommandOutput, Fixture, NotifySocket, Process, run, within};
use crate::snapshot::Listed;

use super::many_clients::sleep;

/// A service that a test has started itself, and what it tells.
struct Service {
    process: Process,
    news: NotifySocket,
}

/// Starts it; it serves when this returns. A bus need not be there.
async fn start(fixture: &Fixture, socket: &Path) -> Service {
    let launch = fixture.launch();
    let mut command = launch.command(fixture.bus());
    command.arg("--virtlockd-socket").arg(socket);
    let news = NotifySocket::of(&mut command, fixture.dir(), ROOT);
    let process = Process::start("vmlockd", command, &launch.log);
    tokio::select! {
        () = news.wait_for("READY=1") => {}
        status = process.ended() => panic!("it does not start: {status}"),
    }
    Service { process, news }
}

impl Service {
    async fn reload(&self) {
        self.process.signal(Signal::SIGHUP);
        self.news.wait_for("RELOADING=1").await;
        self.news.wait_for("READY=1").await;
    }

    /// Makes the service re-execute the same program.
    async fn reexec(&self) {
        self.process.signal(Signal::SIGUSR1);
        self.news.wait_for("READY=1").await;
    }

    async fn end(self, by: Signal) {
        self.process.signal(by);
        let status = within("an orderly end", self.process.ended()).await;
        assert!(status.success(), "{status}");
    }
}

/// A fixture in which nothing serves yet, and where the socket shall be.
async fn fixture() -> (Fixture, PathBuf) {
    let fixture = Fixture::builder().without_daemon().start().await;
    let socket = fixture.dir().join("by-hand.sock");
    (fixture, socket)
}

/// It ends instead of serving this socket, and says why.
async fn refuses(fixture: &Fixture, socket: &str, why: &str) {
    let mut command = fixture.command("vmlockd");
    command.args(fixture.launch().words()).args(["--virtlockd-socket", socket]);
    let CommandOutput { status, stderr, .. } = run(command).await;
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().last(), Some(format!("vmlockd: {why}").as_str()), "{stderr}");
}

#[tokio::test]
async fn it_works_without_a_bus_and_with_one_that_appears() {
    let (fixture, socket) = fixture().await;
    fixture.bus().stop();
    let service = start(&fixture, &socket).await;
    let machine = sleep(&fixture);
    let owner = Owner::new("web1", 1, machine.pid());
    let disk = fixture.raw_of(ROOT, "disk");
    let disk = disk.to_str().unwrap();
    let mut libvirtd = Rpc::connect(&socket).unwrap();
    libvirtd.register(&owner).granted();
    libvirtd.acquire("", disk, 0).granted();

    service.reload().await;
    service.process.logs("reloaded the configuration").await;
    libvirtd.ping().granted();
    service.reexec().await;
    service.process.logs("is re-executing the installed program").await;
    let mut foreign_holder = Rpc::connect(&socket).unwrap();
    foreign_holder.register(&Owner::new("web2", 2, machine.pid())).granted();
    assert_eq!(foreign_holder.acquire("", disk, 0).refused().code, 87);
    service.reload().await;

    fixture.bus().start().await;
    fixture.bus().watch().await.owned_by(service.process.pid()).await;
    let listed = Listed::by(&fixture.connection().await).await;
    assert_eq!(listed.on(disk).count(), 1);
    // And without it again.
    fixture.bus().stop();
    foreign_holder.ping().granted();
    service.reload().await;
    service.end(Signal::SIGTERM).await;
}

#[tokio::test]
async fn a_relative_path_is_refused() {
    let (fixture, _) = fixture().await;
    for path in ["by-hand.sock", "./by-hand.sock"] {
        let why = format!("--virtlockd-socket: {path} is not an absolute path");
        refuses(&fixture, path, &why).await;
    }
}

#[tokio::test]
async fn a_socket_that_is_served_is_not_replaced() {
    let (fixture, socket) = fixture().await;
    let other = UnixListener::bind(&socket).unwrap();
    let path = socket.to_str().unwrap();
    let why = format!("cannot serve socket {path}: another program serves it, perhaps virtlockd");
    refuses(&fixture, path, &why).await;
    // It is asked in passing.
    other.set_nonblocking(true).unwrap();
    while other.accept().is_ok() {}
    let _client = Rpc::connect(&socket).unwrap();
    other.accept().unwrap();
}

#[tokio::test]
async fn a_file_at_its_path_is_not_replaced() {
    let (fixture, socket) = fixture().await;
    fs::write(&socket, "dear").unwrap();
    let path = socket.to_str().unwrap();
    let why = format!("cannot serve socket {path}: a file that is not a socket has this name");
    refuses(&fixture, path, &why).await;
    assert_eq!(fs::read_to_string(&socket).unwrap(), "dear");
    // Nor is what a link leads to touched, or the link.
    let link = fixture.dir().join("link.sock");
    std::os::unix::fs::symlink(&socket, &link).unwrap();
    let path = link.to_str().unwrap();
    let why = format!("cannot serve socket {path}: a file that is not a socket has this name");
    refuses(&fixture, path, &why).await;
    assert_eq!(fs::read_link(&link).unwrap(), socket);
    File::open(&socket).unwrap();
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let (fixture, socket) = fixture().await;
    drop(UnixListener::bind(&socket).unwrap());
    let error = Rpc::connect(&socket).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    for _ in 0..2 {
        let service = start(&fixture, &socket).await;
        let mode = fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "mode {mode:o}");
        Rpc::connect(&socket).unwrap().ping().granted();
        service.process.signal(Signal::SIGKILL);
        within("its end", service.process.ended()).await;
        // A kill leaves the socket, too.
        assert!(socket.exists());
    }
}

#[tokio::test]
async fn it_is_removed_at_an_orderly_end() {
    let (fixture, socket) = fixture().await;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let service = start(&fixture, &socket).await;
        assert!(socket.exists());
        service.end(signal).await;
        assert!(!socket.exists(), "{signal}");
    }
}

/// It is still its own after it has replaced itself.
#[tokio::test]
async fn it_is_removed_after_a_reexec() {
    let (fixture, socket) = fixture().await;
    let service = start(&fixture, &socket).await;
    service.reexec().await;
    service.reexec().await;
    Rpc::connect(&socket).unwrap().ping().granted();
    service.end(Signal::SIGTERM).await;
    assert!(!socket.exists());
    let left = fs::read_dir(fixture.dir()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with("by-hand")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// At its end the service removes its socket's file, and no other program's.
#[tokio::test]
async fn a_socket_that_another_program_put_in_its_place_stays() {
    let (fixture, socket) = fixture().await;
    for reexecs in 0..=1 {
        for replaced_at in [None, Some(0), Some(1)] {
            let service = start(&fixture, &socket).await;
            let mut theirs = None;
            for at in 0..=1 {
                if replaced_at == Some(at) {
                    fs::remove_file(&socket).unwrap();
                    theirs = Some(UnixListener::bind(&socket).unwrap());
                }
                if at < reexecs {
                    service.reexec().await;
                }
            }
            service.end(Signal::SIGTERM).await;
            match theirs {
                Some(_) => {
                    UnixStream::connect(&socket).unwrap();
                    fs::remove_file(&socket).unwrap();
                }
                None => assert!(!socket.exists()),
            }
        }
    }
}
