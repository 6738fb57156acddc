//! A very large number of clients, or clients that are a burden, do not affect other clients.

use std::fs;
use std::io::{ErrorKind, Write as _};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::fixture::rpc::{Answer, Frame, Owner, Rpc, arguments, procedure};
use crate::fixture::{Fixture, Process};
use crate::refused_requests::Untouched;

use super::checker::{fixture_with, threads};

/// As many connections as virtlockd has places for, and some.
const IDLE: usize = 1100;
const MANY: usize = 5000;

/// Clients that come and go share disks here: a released disk is free at once.
async fn fixture() -> Fixture {
    fixture_with("release_grace = 0\n").await
}

/// Starts a process that acts as an owner.
pub(super) fn sleep(fixture: &Fixture) -> Process {
    let mut command = std::process::Command::new("sleep");
    command.arg("infinity");
    Process::start("sleep", command, &fixture.dir().join("sleep.log"))
}

fn connect(fixture: &Fixture) -> Rpc {
    Rpc::connect(&fixture.dir().join("virtlockd-sock")).unwrap()
}

/// Checks that a new client gets its lock.
fn is_served(fixture: &Fixture, owner: &Owner, disk: &str) {
    let mut rpc = connect(fixture);
    rpc.register(owner).granted();
    rpc.acquire("", disk, 0).granted();
    rpc.release("", disk, 0).granted();
}

/// Raises the limit of open files of this process to its maximum.
fn room_for_files() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    assert!(most > MANY as u64 + 500, "only {most} files may be open here");
}

/// The memory that the service has of its own, in KiB.
fn memory(fixture: &Fixture) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", fixture.daemon().pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[tokio::test]
async fn five_thousand_vms() {
    room_for_files();
    let fixture = fixture().await;
    let process = sleep(&fixture);
    let disk = fixture.raw_of(0, "disk");
    let disk = disk.to_str().unwrap();
    let before = (Untouched::so_far(&fixture).await, threads(&fixture));
    let machine = |number: usize| {
        let mut owner = Owner::new("web", 1, process.pid());
        owner.uuid[8..].copy_from_slice(&number.to_be_bytes());
        owner
    };
    let mut crowd: Vec<Rpc> = (0..MANY).map(|_| connect(&fixture)).collect();
    for (number, rpc) in crowd.iter_mut().enumerate() {
        rpc.register(&machine(number)).granted();
    }
    is_served(&fixture, &machine(MANY), disk);
    // All of them, and in any order.
    for rpc in crowd.iter_mut().rev() {
        rpc.ping().granted();
    }
    crowd[MANY / 2].acquire("", disk, 0).granted();
    let refused = crowd[MANY - 1].acquire("", disk, 0).refused();
    assert_eq!(refused.code, 87, "{}", refused.message);
    let now = threads(&fixture);
    assert!(now <= before.1 + 8, "{} threads have become {now}", before.1);
    drop(crowd);
    drop(process);
    before.0.again(fixture.dir()).await.unwrap();
}

#[tokio::test]
async fn idle_clients() {
    room_for_files();
    let fixture = fixture().await;
    let process = sleep(&fixture);
    let disk = fixture.raw_of(0, "disk");
    let before = Untouched::so_far(&fixture).await;
    let idle: Vec<Rpc> = (0..IDLE).map(|_| connect(&fixture)).collect();
    is_served(&fixture, &Owner::new("web1", 1, process.pid()), disk.to_str().unwrap());
    drop(idle);
    drop(process);
    before.again(fixture.dir()).await.unwrap();
}

#[tokio::test]
async fn clients_that_read_no_reply() {
    let fixture = fixture().await;
    let process = sleep(&fixture);
    let disk = fixture.raw_of(0, "disk");
    let before = Untouched::so_far(&fixture).await;
    let (owner, mut stalled_client) = (Owner::new("web1", 1, process.pid()), connect(&fixture));
    stalled_client.register(&owner).granted();
    let memory_before = memory(&fixture);
    // Refusals are longer than such calls, so that they must be buffered, or reading must stop.
    let calls: Vec<_> = (0..20_000)
        .map(|_| {
            stalled_client.next(procedure::RELEASE, arguments::resource("", "/nonexistent", 0))
        })
        .collect();
    let bytes: Vec<u8> = calls.iter().flat_map(Frame::bytes).collect();
    stalled_client.stream().set_nonblocking(true).unwrap();
    let (mut sent, mut timed_out) = (0, 0);
    while sent < bytes.len() && timed_out < 50 {
        match stalled_client.stream().write(&bytes[sent..]) {
            Ok(count) => (sent, timed_out) = (sent + count, 0),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                // The service had time to do something, and others were served meanwhile.
                timed_out += 1;
                is_served(&fixture, &owner, disk.to_str().unwrap());
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert!(sent < bytes.len(), "all {sent} bytes were taken");
    let grown = memory(&fixture).saturating_sub(memory_before);
    assert!(grown < 16 << 10, "{grown} KiB are kept for one who does not listen");

    // Once the client reads, it receives all replies in order.
    stalled_client.stream().set_nonblocking(false).unwrap();
    let mut rest = stalled_client.stream().try_clone().unwrap();
    let sender = std::thread::spawn(move || rest.write_all(&bytes[sent..]).unwrap());
    for call in &calls {
        assert_eq!(Answer::to(call, stalled_client.receive()).refused().code, 87);
    }
    sender.join().unwrap();
    drop(stalled_client);
    drop(process);
    before.again(fixture.dir()).await.unwrap();
}

/// Clients may wait for the service before it listens.
#[tokio::test]
async fn clients_before_the_service_is_ready() {
    let fixture = fixture().await;
    let socket = fixture.dir().join("virtlockd-sock");
    for _ in 0..20 {
        assert!(fixture.daemon().terminate().await.success());
        let socket = socket.clone();
        let early = std::thread::spawn(move || {
            loop {
                if let Ok(mut rpc) = Rpc::connect(&socket) {
                    break rpc.ping().granted();
                }
            }
        });
        fixture.daemon().start_again().await;
        connect(&fixture).ping().granted();
        early.join().unwrap();
    }
}

/// A client that disconnects in the middle of an operation leaves nothing behind.
#[tokio::test]
async fn clients_that_disconnect_at_once() {
    let fixture = fixture().await;
    let process = sleep(&fixture);
    let disk = fixture.raw_of(0, "disk");
    let disk = disk.to_str().unwrap();
    let before = Untouched::so_far(&fixture).await;
    let owner = Owner::new("web1", 1, process.pid());
    for round in 0..500 {
        let mut rpc = connect(&fixture);
        let register = rpc.next(procedure::REGISTER, arguments::register(&owner, 0)).bytes();
        let resource = || arguments::resource("", disk, 0);
        let acquire = rpc.next(procedure::ACQUIRE, resource()).bytes();
        let release = rpc.next(procedure::RELEASE, resource()).bytes();
        let all = [register, acquire, release].concat();
        rpc.send(&all[..all.len() * round / 499]);
    }
    drop(process);
    before.again(fixture.dir()).await.unwrap();
    before.and_it_goes_on().await;
}

/// Calls that are sent at once, many more than the service executes in one turn, are all answered
/// in order, and another client is served as well.
#[tokio::test]
async fn many_calls_that_are_sent_at_once() {
    const PAIRS: usize = 200;
    let fixture = fixture().await;
    let process = sleep(&fixture);
    let disk = fixture.raw_of(0, "disk");
    let disk = disk.to_str().unwrap();
    let mut rpc = connect(&fixture);
    rpc.register(&Owner::new("web1", 1, process.pid())).granted();
    let mut calls = Vec::new();
    for _ in 0..PAIRS {
        calls.push(rpc.next(procedure::ACQUIRE, arguments::resource("", disk, 0)));
        calls.push(rpc.next(procedure::RELEASE, arguments::resource("", disk, 0)));
    }
    let bytes: Vec<u8> = calls.iter().flat_map(Frame::bytes).collect();
    let (mut writer, mut other) = (rpc.stream().try_clone().unwrap(), connect(&fixture));
    let sender = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
    other.ping().granted();
    for call in &calls {
        Answer::to(call, rpc.receive()).granted();
    }
    sender.join().unwrap();
}
