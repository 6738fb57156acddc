//! A hung path affects only the client that named it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use crate::dbus_client::manager;
use crate::fixture::rpc::{Owner, Rpc, arguments, procedure};
use crate::fixture::{Fixture, Process, within};
use crate::methods::none;
use crate::nspawn::skip;
use crate::refused_requests::Untouched;

use super::super::checker::fixture;
use super::super::many_clients::sleep;

/// A file system whose server is a process that can be stopped.
pub(crate) struct HungMount {
    at: PathBuf,
    server: Process,
}

impl HungMount {
    /// Shows what is in one directory of the fixture in another one.
    pub(crate) async fn mount(fixture: &Fixture) -> Option<HungMount> {
        if !Path::new("/dev/fuse").exists() {
            return skip("there is no /dev/fuse here");
        }
        let (behind, at) = (fixture.dir().join("behind"), fixture.dir().join("far"));
        fs::create_dir(&behind).unwrap();
        fs::create_dir(&at).unwrap();
        fs::write(behind.join("disk"), "").unwrap();
        let mut command = Command::new("bindfs");
        command.args(["-f", "-o", "attr_timeout=0,entry_timeout=0"]).args([&behind, &at]);
        let server = Process::start("bindfs", command, &fixture.dir().join("bindfs.log"));
        let far = HungMount { at, server };
        let there = async {
            while !far.disk().exists() {
                assert!(far.server.lives(), "bindfs: {}", far.server.stderr());
                tokio::task::yield_now().await;
            }
        };
        within("the file system is mounted", there).await;
        Some(far)
    }

    /// Makes the service access the mount for the first time: from then on, a mount probe watches
    /// it.
    pub(crate) async fn is_known(&self, fixture: &Fixture) {
        let (bus, disk) = (fixture.connection().await, self.disk());
        manager(&bus).await.resolve(disk.to_str().unwrap(), none()).await.unwrap();
    }

    pub(crate) fn disk(&self) -> PathBuf {
        self.at.join("disk")
    }

    pub(crate) fn stop(&self) {
        self.server.signal(Signal::SIGSTOP);
    }

    pub(crate) fn go_on(&self) {
        self.server.signal(Signal::SIGCONT);
    }
}

impl Drop for HungMount {
    fn drop(&mut self) {
        // Pending requests fail.
        self.server.signal(Signal::SIGKILL);
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn no_other_client_waits() {
    let fixture = fixture().await;
    let Some(far) = HungMount::mount(&fixture).await else { return };
    far.is_known(&fixture).await;
    let (one, two) = (sleep(&fixture), sleep(&fixture));
    let (web1, web2) = (Owner::new("web1", 1, one.pid()), Owner::new("web2", 2, two.pid()));
    let near = fixture.raw_of(0, "near");
    let near = near.to_str().unwrap();
    let before = Untouched::so_far(&fixture).await;
    let connect = |owner: &Owner| {
        let mut rpc = Rpc::connect(&fixture.dir().join("virtlockd-sock")).unwrap();
        rpc.register(owner).granted();
        rpc
    };
    let (mut hanging, mut leaving, mut other) = (connect(&web1), connect(&web1), connect(&web2));

    far.stop();
    let disk = far.disk();
    let disk = disk.to_str().unwrap();
    let call = hanging.next(procedure::ACQUIRE, arguments::resource("", disk, 0));
    hanging.send(&call.bytes());
    // More of them than a few threads could take, some of which do not wait for their answers.
    let mut more: Vec<Rpc> = (0..20).map(|_| connect(&web1)).collect();
    for rpc in &mut more {
        rpc.send(&call.bytes());
    }
    leaving.send(&call.bytes());
    drop(leaving);
    for _ in 0..200 {
        other.acquire("", near, 0).granted();
        other.release("", near, 0).granted();
    }
    connect(&web2).ping().granted();
    let bus = fixture.connection().await;
    within("a list", manager(&bus).await.list_locks(none())).await.unwrap();
    assert!(hanging.has_no_input());

    far.go_on();
    let mut answers = vec![hanging.receive()];
    answers.extend(more.iter_mut().map(Rpc::receive));
    // All requests have the same owner, and one is granted: perhaps the one of the disconnected
    // client.
    let granted = answers.iter().filter(|answer| answer.as_ref().unwrap().status == 0).count();
    assert!(granted <= 1, "{granted} were granted");
    other.acquire("", disk, 0).refused();
    drop((hanging, more, one));
    let free = async {
        while other.acquire("", disk, 0) != crate::fixture::rpc::Answer::Granted {
            tokio::task::yield_now().await;
        }
    };
    within("the disk is free", free).await;
    drop((other, two));
    before.again(fixture.dir()).await.unwrap();
}

/// The client that named the path is killed, and the mount never responds.
#[tokio::test]
async fn a_vm_that_ends_meanwhile() {
    let fixture = fixture().await;
    let Some(far) = HungMount::mount(&fixture).await else { return };
    far.is_known(&fixture).await;
    let (one, two) = (sleep(&fixture), sleep(&fixture));
    let before = Untouched::so_far(&fixture).await;
    let connect = |owner: &Owner| {
        let mut rpc = Rpc::connect(&fixture.dir().join("virtlockd-sock")).unwrap();
        rpc.register(owner).granted();
        rpc
    };
    let mut hanging = connect(&Owner::new("web1", 1, one.pid()));
    far.stop();
    let disk = far.disk();
    let resource = arguments::resource("", disk.to_str().unwrap(), 0);
    let call = hanging.next(procedure::ACQUIRE, resource);
    hanging.send(&call.bytes());
    let web2 = Owner::new("web2", 2, two.pid());
    connect(&web2).ping().granted();
    drop((hanging, one));
    connect(&web2).ping().granted();
    far.go_on();
    let mut other = connect(&web2);
    let free = async {
        while other.acquire("", disk.to_str().unwrap(), 0) != crate::fixture::rpc::Answer::Granted {
            tokio::task::yield_now().await;
        }
    };
    within("the disk is free", free).await;
    drop((other, two));
    before.again(fixture.dir()).await.unwrap();
}
