//! A client must complete a message within ten seconds; virtlockd has no such limit.

use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::rpc::{
    Arguments, Frame, LONGEST, Owner, Rpc, SHORTEST, arguments, kind, procedure,
};

use super::checker::fixture;
use super::many_clients::sleep;

/// The service's ten seconds, and what a busy machine adds.
const PATIENCE: Duration = Duration::from_secs(15);

/// Beginnings of messages, each sent by a client of its own.
fn beginnings() -> Vec<(String, Vec<u8>)> {
    let whole = Frame::call(procedure::ACQUIRE, 1, arguments::resource("", "/nonexistent", 0));
    let bytes = whole.bytes();
    let mut list: Vec<_> = [0, 1, 3, 4, 5, 27, 28, 29, bytes.len() - 1]
        .map(|count| (format!("{count} bytes of a message"), bytes[..count].to_vec()))
        .into();
    let longest = whole.with_length(LONGEST);
    list.push(("the largest length".to_owned(), longest[..4].to_vec()));
    list.push(("a header of the largest length".to_owned(), longest[..28].to_vec()));
    let megabyte = Arguments::default().raw(&vec![0; 1 << 20]);
    let much = Frame::call(procedure::ACQUIRE, 1, megabyte).with_length(LONGEST);
    list.push(("a megabyte of the largest length".to_owned(), much));
    list
}

/// A call that promises to bring a descriptor, which does not come.
fn promise() -> Frame {
    let resource = arguments::resource("", "/nonexistent", 0);
    let call = Frame::call(procedure::ACQUIRE, 1, Arguments::default().number(1).raw(&resource.0));
    Frame { kind: kind::CALL_WITH_FDS, ..call }
}

#[test]
fn virtlockd_waits() {
    let dir = tempfile::tempdir().unwrap();
    let Some(virtlockd) = super::virtlockd(&dir.path().join("virtlockd")) else { return };
    let promise = ("a promise".to_owned(), promise().bytes());
    let waiting: Vec<_> = beginnings()
        .into_iter()
        .chain([promise])
        .map(|(what, bytes)| {
            let mut rpc = virtlockd.connect();
            rpc.send(&bytes);
            (what, rpc)
        })
        .collect();
    // It does one thing after the other: what came before these questions it has seen.
    virtlockd.connect().ping().granted();
    virtlockd.connect().ping().granted();
    for (what, mut rpc) in waiting {
        assert!(rpc.has_no_input(), "{what}: {:?}", rpc.receive());
    }
}

/// Sends a message byte by byte without completing it.
fn drip(mut rpc: Rpc) -> Duration {
    let (start, call) = (Instant::now(), Frame::call(1, 1, Arguments(vec![0; 4096])).bytes());
    for byte in call {
        rpc.send(&[byte]);
        if !rpc.has_no_input() {
            break;
        }
        // This is about time: a byte now and then.
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(rpc.receive(), None);
    start.elapsed()
}

#[tokio::test]
async fn ten_seconds() {
    let fixture = fixture().await;
    let socket = fixture.dir().join("virtlockd-sock");
    let connect = || Rpc::connect(&socket).unwrap();
    // A registered client may be idle for an unlimited time.
    let process = sleep(&fixture);
    let owner = Owner::new("patient", 1, process.pid());
    let (mut registered, mut restricted) = (connect(), connect());
    registered.register(&owner).granted();
    restricted.register(&owner).granted();
    restricted.restrict().granted();

    let start = Instant::now();
    let dripping = connect();
    let dripping = thread::spawn(move || drip(dripping));
    let mut waiting = Vec::new();
    for (what, bytes) in beginnings() {
        let (mut unregistered, mut registered) = (connect(), connect());
        registered.register(&owner).granted();
        unregistered.send(&bytes);
        registered.send(&bytes);
        waiting.push((format!("{what}, unregistered"), unregistered));
        if !bytes.is_empty() {
            waiting.push((what, registered));
        }
    }
    // A whole message, though it was slow, is a message.
    let slow = Frame::call(procedure::RELEASE, 1, arguments::resource("", "/nonexistent", 0));
    let slow = slow.bytes();
    let (first, second) = slow.split_at(SHORTEST as usize);
    registered.send(first);
    connect().ping().granted();
    registered.send(second);
    assert_eq!(registered.receive().unwrap().status, 1);

    // None of the procedures takes a descriptor, so there is nothing to wait for.
    let mut promising = connect();
    let refused = promising.exchange(&promise()).refused();
    assert_eq!(refused.code, 39, "{}", refused.message);
    promising.register(&owner).granted();

    for (what, mut rpc) in waiting {
        assert_eq!(rpc.receive(), None, "{what}");
        let took = start.elapsed();
        assert!(took < PATIENCE, "{what}: {took:?}");
    }
    let took = dripping.join().unwrap();
    assert!(took < PATIENCE, "byte after byte: {took:?}");
    registered.ping().granted();
    restricted.ping().granted();
}
