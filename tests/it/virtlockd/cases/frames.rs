//! Messages that are none.

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::fixture::rpc::{
    Answer, Arguments, Frame, KEEPALIVE, LONGEST, Rpc, SHORTEST, arguments, kind, procedure,
};

use super::super::case::{Case, end, nothing_more, row, text_of, texts_of};
use super::super::environment::Environment;

const UNDECODABLE: &str = "39/7 Unable to decode message payload";
const NOT_FOUND: &str = "38/51 Unable to open resource @DIR@/x: No such file or directory";

/// A call that would be refused for another reason if it were understood.
fn call(place: &Environment, rpc: &mut Rpc) -> Frame {
    rpc.next(procedure::ACQUIRE, arguments::resource("", place.path("x"), 0))
}

/// Numbers that look random and are the same each time.
fn noise(seed: u32, count: usize) -> Vec<u8> {
    let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    let states = std::iter::successors(Some(seed), next);
    states.map(|state| state.to_be_bytes()[0]).take(count).collect()
}

pub(in super::super) fn all() -> Vec<Case> {
    let mut rows = lengths();
    rows.extend(headers());
    rows.extend(kinds());
    rows.extend(keepalive());
    rows
}

fn lengths() -> Vec<Case> {
    let mut rows = Vec::new();
    let wrong = [0, 3, 4, SHORTEST - 1, LONGEST + 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF];
    for length in wrong {
        for more in [0, 64] {
            // virtlockd waits for those that it would then find to be too few.
            if length == SHORTEST - 1 && more == 0 {
                continue;
            }
            rows.push(row(
                format!("a length of {length}, and {more} bytes"),
                move |place| {
                    let mut rpc = place.connect();
                    rpc.send(&[&u32::to_be_bytes(length)[..], &vec![0; more]].concat());
                    vec![end(&mut rpc)]
                },
                &["closed"],
            ));
        }
    }
    for seed in 1..=8 {
        rows.push(row(
            format!("noise {seed}"),
            move |place| {
                let mut rpc = place.vm();
                // A length that is too much, and what comes after is not looked at.
                rpc.send(&[&[0xA5][..], &noise(seed, 5000)].concat());
                vec![end(&mut rpc)]
            },
            &["closed"],
        ));
    }
    rows.push(row(
        "a request of another protocol",
        |place| {
            let mut rpc = place.connect();
            rpc.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
            vec![end(&mut rpc)]
        },
        &["closed"],
    ));
    rows
}

fn headers() -> Vec<Case> {
    let changed = |what: &str, change: fn(&mut Frame), answer: &'static str| {
        row(
            what,
            move |place| {
                let mut rpc = place.vm();
                let mut wrong = call(place, &mut rpc);
                change(&mut wrong);
                let answer = rpc.exchange(&wrong);
                let right = call(place, &mut rpc);
                texts_of([answer, rpc.exchange(&right)])
            },
            &[answer, NOT_FOUND],
        )
    };
    vec![
        changed(
            "an unknown program",
            |frame| frame.program += 1,
            "39/7 Cannot find program 245874416 version 1",
        ),
        changed(
            "version 2",
            |frame| frame.version = 2,
            "39/7 Cannot find program 245874415 version 2",
        ),
        changed("procedure 0", |frame| frame.procedure = 0, "39/7 unknown procedure: 0"),
        changed("procedure 9", |frame| frame.procedure = 9, "39/7 unknown procedure: 9"),
        changed("procedure -1", |frame| frame.procedure = -1, "39/7 unknown procedure: -1"),
        changed("status 1", |frame| frame.status = 1, "39/7 Unexpected message status 1"),
        changed("status -1", |frame| frame.status = -1, "39/7 Unexpected message status "),
        changed("serial 0", |frame| frame.serial = 0, NOT_FOUND),
        changed("the largest serial", |frame| frame.serial = u32::MAX, NOT_FOUND),
        changed("the serial of before", |frame| frame.serial = 1, NOT_FOUND),
        changed("a header alone", |frame| frame.payload.clear(), UNDECODABLE),
    ]
}

/// Messages that are not calls, and calls that announce descriptors.
fn kinds() -> Vec<Case> {
    let mut rows = Vec::new();
    for kind in [kind::REPLY, kind::MESSAGE, kind::STREAM, 99, -1] {
        rows.push(row(
            format!("a message of type {kind}"),
            move |place| {
                let mut rpc = place.vm();
                let wrong = Frame { kind, ..call(place, &mut rpc) };
                rpc.send(&wrong.bytes());
                let more = nothing_more(&mut rpc);
                let right = call(place, &mut rpc);
                vec![more, text_of(rpc.exchange(&right))]
            },
            &["nothing", NOT_FOUND],
        ));
    }
    let with_fds = |what: &str, count: Option<u32>, answer: &'static str| {
        row(
            what,
            move |place| {
                let mut rpc = place.vm();
                let mut wrong = call(place, &mut rpc);
                wrong.kind = kind::CALL_WITH_FDS;
                if let Some(count) = count {
                    wrong.payload.splice(0..0, count.to_be_bytes());
                }
                texts_of([rpc.exchange(&wrong)])
            },
            &[answer],
        )
    };
    rows.extend([
        with_fds("descriptors are promised, and not how many", None, UNDECODABLE),
        with_fds("no descriptors are promised", Some(0), NOT_FOUND),
        with_fds("33 descriptors are promised", Some(33), "closed"),
        with_fds("very many descriptors are promised", Some(u32::MAX), "closed"),
    ]);
    rows.push(row(
        "descriptors that were not announced",
        |place| {
            let mut rpc = place.vm();
            let call = call(place, &mut rpc);
            send_with_descriptors(&rpc, &call.bytes(), 10);
            vec![text_of(Answer::to(&call, rpc.receive()))]
        },
        &[NOT_FOUND],
    ));
    rows
}

/// Sends bytes, and descriptors with them.
fn send_with_descriptors(rpc: &Rpc, bytes: &[u8], count: usize) {
    let files: Vec<File> = (0..count).map(|_| File::open("/dev/zero").unwrap()).collect();
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(&files).size()];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    let sent = sendmsg(rpc.stream(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
    assert_eq!(sent, Ok(bytes.len()));
}

fn keepalive() -> Vec<Case> {
    let pinged = |what: &str, change: fn(&mut Frame), answer: &'static str| {
        row(
            what,
            move |place| {
                let mut rpc = place.connect();
                let mut ping = Frame::ping();
                change(&mut ping);
                rpc.send(&ping.bytes());
                let answer = match rpc.receive() {
                    Some(frame) if frame == Frame::pong() => "pong".to_owned(),
                    other => format!("{other:?}"),
                };
                vec![answer]
            },
            &[answer],
        )
    };
    let ignored = |what: &str, change: fn(&mut Frame)| {
        row(
            what,
            move |place| {
                let mut rpc = place.connect();
                let mut ping = Frame::ping();
                change(&mut ping);
                rpc.send(&ping.bytes());
                vec![nothing_more(&mut rpc)]
            },
            &["nothing"],
        )
    };
    vec![
        pinged("a ping before REGISTER", |_| {}, "pong"),
        pinged("a ping with something in it", |ping| ping.payload = vec![1; 8], "pong"),
        pinged("a ping with a serial", |ping| ping.serial = 7, "pong"),
        ignored("a pong", |ping| ping.procedure = 2),
        ignored("an unknown keepalive", |ping| ping.procedure = 3),
        ignored("a ping of version 2", |ping| ping.version = 2),
        row(
            "a ping as a call",
            |place| {
                let mut rpc = place.connect();
                let mut ping = rpc.next(1, Arguments::default());
                ping.program = KEEPALIVE;
                texts_of([rpc.exchange(&ping), rpc.ping()])
            },
            &["39/7 Cannot find program 1801807216 version 1", "granted"],
        ),
    ]
}
