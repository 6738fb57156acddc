//! Calls whose arguments are not what they should be.

use std::collections::BTreeSet;

use crate::fixture::rpc::{Answer, Arguments, Frame, Owner, Rpc, arguments, procedure};

use super::super::case::{Case, row, text_of, texts_of};
use super::super::environment::Environment;

const UNDECODABLE: &str = "39/7 Unable to decode message payload";
const UNREGISTERED: &str =
    "55/7 Requested operation is not valid: lock owner details have not been registered";
const RESTRICTED: &str = "29/7 operation forbidden: lock manager connection has been restricted";

/// Every procedure with arguments that can be read.
fn every(place: &Environment, flags: u32) -> [(i32, Arguments); 8] {
    let new = arguments::lockspace(place.path("space"), flags);
    let resource = || arguments::resource("", place.path("x"), flags);
    [
        (procedure::REGISTER, arguments::register(&place.web1(), flags)),
        (procedure::RESTRICT, arguments::restrict(flags)),
        (procedure::NEW, new),
        (procedure::CREATE_RESOURCE, resource()),
        (procedure::DELETE_RESOURCE, resource()),
        (procedure::ACQUIRE, resource()),
        (procedure::RELEASE, resource()),
        (procedure::CREATE_LOCKSPACE, arguments::path(place.path("space"))),
    ]
}

/// Calls some of them on one connection.
fn call_all(rpc: &mut Rpc, calls: impl IntoIterator<Item = (i32, Arguments)>) -> Vec<String> {
    calls
        .into_iter()
        .map(|(procedure, arguments)| text_of(rpc.call(procedure, arguments)))
        .collect()
}

pub(in super::super) fn all() -> Vec<Case> {
    let mut rows = cut();
    rows.extend(too_much());
    rows.extend(flags());
    rows.extend(states());
    rows
}

/// Whatever is missing at the end, the call is not understood and the connection goes on.
fn cut() -> Vec<Case> {
    (0..8)
        .map(|which| {
            row(
                format!("procedure {} with less and less in it", which + 1),
                move |place| {
                    let (mut rpc, mut answers) = (place.connect(), BTreeSet::new());
                    let (procedure, whole) = every(place, 0)[which].clone();
                    for length in 0..whole.0.len() {
                        let part = Arguments::default().raw(&whole.0[..length]);
                        answers.insert(text_of(rpc.call(procedure, part)));
                    }
                    answers.into_iter().collect()
                },
                &[UNDECODABLE],
            )
        })
        .collect()
}

fn too_much() -> Vec<Case> {
    let string_of = |what: &str, length: u32, there: usize| {
        row(
            what,
            move |place| {
                let text = Arguments::default().text("").number(length);
                let text = text.raw(&vec![b'/'; there]).number(0);
                texts_of([place.vm().call(procedure::ACQUIRE, text)])
            },
            &[UNDECODABLE],
        )
    };
    vec![
        string_of("a string that is longer than the message", 1000, 100),
        string_of("a string of the largest length", u32::MAX, 100),
        string_of("a string of a length that wraps around", u32::MAX - 2, 100),
        string_of("a string of 65,537 bytes", 65_537, 65_540),
        // The whole message exceeds the maximum length of the protocol, and is not read.
        string_of("a string of a megabyte", 1 << 20, 1 << 20).ours(&["closed"]),
        row(
            "a string of 65,536 bytes",
            |place| {
                let path = format!("/{}", "a".repeat(65_535));
                texts_of([place.vm().acquire("", path, 0)])
            },
            &["38/51 Unable to open resource /aaaaaaaa"],
        )
        .ours(&["8/"]),
        row(
            "something after the arguments",
            |place| {
                let (disk, mut vm) = (place.disk("a"), place.vm());
                let more = arguments::resource("", &disk, 0).raw(b"and so on");
                let acquired = vm.call(procedure::ACQUIRE, more);
                texts_of([acquired, vm.release("", &disk, 0)])
            },
            &["granted", "granted"],
        ),
        row(
            "padding that is not zero",
            |place| {
                let mut vm = place.vm();
                // One of the two has a length that needs padding.
                let disks = ["a", "aa"].map(|name| place.disk(name));
                let answers = disks.map(|disk| {
                    let mut padded = Arguments::default().text("").text(&disk);
                    let end = padded.0.len();
                    let from = end - (disk.len().next_multiple_of(4) - disk.len());
                    padded.0[from..].fill(0xFF);
                    vm.call(procedure::ACQUIRE, padded.number(0))
                });
                texts_of(answers)
            },
            &["granted", "granted"],
        ),
    ]
}

fn flags() -> Vec<Case> {
    let mut rows = Vec::new();
    for (flags, said) in
        [(4, "8/7 unsupported flags (0x4)"), (0x8000_0003, "8/7 unsupported flags (0x80000000)")]
    {
        rows.push(row(
            format!("ACQUIRE with flags {flags:#x}"),
            move |place| vec![text_of(place.vm().acquire("", place.disk("a"), flags))],
            &[said],
        ));
    }
    for (flags, said) in [(1, "8/7 unsupported flags (0x1)"), (2, "8/7 unsupported flags (0x2)")] {
        rows.push(row(
            format!("RELEASE with flags {flags:#x}"),
            move |place| {
                let (disk, mut vm) = (place.disk("a"), place.vm());
                vm.acquire("", &disk, 0).granted();
                let refused = vm.release("", &disk, flags);
                vec![text_of(refused), text_of(vm.release("", &disk, 0))]
            },
            &[said, "granted"],
        ));
    }
    rows.push(row(
        "all others with a flag",
        |place| {
            let mut rpc = place.vm();
            let with_flag = every(place, 0x80).into_iter();
            call_all(&mut rpc, with_flag.filter(|(procedure, _)| (1..=5).contains(procedure)))
        },
        &["8/7 unsupported flags (0x80)"; 5],
    ));
    rows.push(row(
        "REGISTER with a flag registers nobody",
        |place| {
            let (disk, mut rpc) = (place.disk("a"), place.connect());
            let register = arguments::register(&place.web1(), 1);
            texts_of([rpc.call(procedure::REGISTER, register), rpc.acquire("", disk, 0)])
        },
        &["8/7 unsupported flags (0x1)", UNREGISTERED],
    ));
    rows
}

/// The order in which procedures may be called.
fn states() -> Vec<Case> {
    vec![
        row(
            "anything before REGISTER",
            |place| {
                let mut rpc = place.connect();
                let early = every(place, 0).into_iter();
                call_all(&mut rpc, early.filter(|(procedure, _)| (2..=7).contains(procedure)))
            },
            &[UNREGISTERED; 6],
        ),
        row(
            "CREATE_LOCKSPACE before REGISTER, and what is there already",
            |place| {
                let (mut rpc, space) = (place.connect(), place.folder("space"));
                texts_of([rpc.create_lockspace(&space), rpc.create_lockspace(space)])
            },
            &["granted", "granted"],
        ),
        row(
            "anything after RESTRICT",
            |place| {
                let mut rpc = place.vm();
                rpc.restrict().granted();
                call_all(&mut rpc, every(place, 0))
            },
            &[RESTRICTED; 8],
        ),
        row(
            "what is no call after RESTRICT",
            |place| {
                let mut rpc = place.vm();
                rpc.restrict().granted();
                texts_of([
                    rpc.ping(),
                    rpc.call(9, Arguments::default()),
                    rpc.call(6, Arguments::default()),
                ])
            },
            &["granted", "39/7 unknown procedure: 9", UNDECODABLE],
        ),
        row(
            "RESTRICT restricts nobody else, nor what was locked before",
            |place| {
                let (disk, mut first, mut second) = (place.disk("a"), place.vm(), place.vm());
                first.acquire("", &disk, 0).granted();
                first.restrict().granted();
                let refused = first.release("", &disk, 0);
                texts_of([refused, second.release("", disk, 0)])
            },
            &[RESTRICTED, "granted"],
        ),
        row(
            "RESTRICT before REGISTER does not restrict",
            |place| {
                let mut rpc = place.connect();
                texts_of([rpc.restrict(), rpc.register(&place.web1())])
            },
            &[UNREGISTERED, "granted"],
        ),
        row(
            "calls in one piece are answered one after the other",
            |place| {
                let (disk, mut vm) = (place.disk("a"), place.vm());
                let resource = || arguments::resource("", &disk, 0);
                let calls = [6, 7, 7, 6, 6, 7].map(|procedure| vm.next(procedure, resource()));
                vm.send(&calls.each_ref().map(Frame::bytes).concat());
                let answer = |call| text_of(Answer::to(call, vm.receive()));
                calls.each_ref().map(answer).into()
            },
            &[
                "granted",
                "granted",
                "87/51 resource busy: Lockspace resource '@DIR@/a' is not locked",
                "granted",
                "87/51 resource busy: Lockspace resource '@DIR@/a' is locked",
                "granted",
            ],
        ),
        row(
            "calls byte by byte",
            |place| {
                let (disk, mut rpc) = (place.disk("a"), place.connect());
                let owner: Owner = place.web1();
                let register = rpc.next(procedure::REGISTER, arguments::register(&owner, 0));
                let resource = arguments::resource("", &disk, 0);
                let acquire = rpc.next(procedure::ACQUIRE, resource);
                for byte in [register.bytes(), acquire.bytes()].concat() {
                    rpc.send(&[byte]);
                }
                let answer = |call, rpc: &mut Rpc| Answer::to(call, rpc.receive());
                texts_of([answer(&register, &mut rpc), answer(&acquire, &mut rpc)])
            },
            &["granted", "granted"],
        ),
    ]
}
