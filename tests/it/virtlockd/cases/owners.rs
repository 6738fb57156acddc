//! Owners as they say they are, and what is whose.

use crate::fixture::rpc::{Owner, SHARED};

use super::super::case::{Case, row, texts_of};
use super::super::environment::Environment;

const UNREGISTERED: &str =
    "55/7 Requested operation is not valid: lock owner details have not been registered";
const BUSY: &str = "87/51 resource busy: Lockspace resource '@DIR@/a' is locked";
const BUSY_WITH_WEB1: &str =
    "87/51 resource busy: Lockspace resource '@DIR@/a' is locked*web1*pid @WEB1@";
const NOT_LOCKED: &str = "87/51 resource busy: Lockspace resource '@DIR@/a' is not locked";

pub(in super::super) fn all() -> Vec<Case> {
    let mut rows = registering();
    rows.extend(names());
    rows.extend(holding());
    rows.extend(sharing());
    rows
}

/// REGISTER as this owner, then lock a disk and give it back.
fn registered_as(what: &str, owner: fn(&Environment) -> Owner, answers: &[&'static str]) -> Case {
    row(
        what,
        move |place| {
            let (disk, mut rpc) = (place.disk("a"), place.connect());
            let registered = rpc.register(&owner(place));
            texts_of([registered, rpc.acquire("", &disk, 0), rpc.release("", &disk, 0)])
        },
        answers,
    )
}

fn registering() -> Vec<Case> {
    let fine = ["granted"; 3];
    vec![
        registered_as("REGISTER", Environment::web1, &fine),
        registered_as("id 0", |place| Owner { id: 0, ..place.web1() }, &[UNREGISTERED; 3]),
        registered_as("the largest id", |place| Owner { id: u32::MAX, ..place.web1() }, &fine),
        // There is no such process, so the locks would never be released.
        registered_as("pid 0", |place| Owner { pid: 0, ..place.web1() }, &fine).ours(&[
            "granted",
            "55/*process",
            NOT_LOCKED,
        ]),
        registered_as("pid -1", |place| Owner { pid: u32::MAX, ..place.web1() }, &fine).ours(&[
            "granted",
            "55/*process",
            NOT_LOCKED,
        ]),
        // The kernel gives no number as large as this.
        registered_as("pid of nobody", |place| Owner { pid: 1 << 30, ..place.web1() }, &fine)
            .ours(&["granted", "55/*process", NOT_LOCKED]),
        registered_as("no uuid", |place| Owner { uuid: [0; 16], ..place.web1() }, &fine).ours(&[
            "8/",
            UNREGISTERED,
            UNREGISTERED,
        ]),
        row(
            "REGISTER twice",
            |place| {
                let mut vm = place.vm();
                texts_of([vm.register(&place.web1()), vm.register(&place.web1())])
            },
            &["granted", "granted"],
        ),
        row(
            "who registers again is another one",
            |place| {
                let (disk, mut vm) = (place.disk("a"), place.vm());
                vm.acquire("", &disk, 0).granted();
                let again = vm.register(&place.web2());
                let not_owned = vm.release("", &disk, 0);
                let back = vm.register(&place.web1());
                texts_of([again, not_owned, back, vm.release("", &disk, 0)])
            },
            &[
                "granted",
                "1/51 internal error: owner @WEB2@ does not hold the resource lock",
                "granted",
                "granted",
            ],
        ),
    ]
}

fn names() -> Vec<Case> {
    let named = |what: &str, name: fn() -> Vec<u8>| {
        row(
            what,
            move |place| {
                let (disk, mut rpc) = (place.disk("a"), place.connect());
                let registered = rpc.register(&Owner { name: name(), ..place.web1() });
                texts_of([registered, rpc.acquire("", &disk, 0), rpc.release("", disk, 0)])
            },
            &["granted"; 3],
        )
    };
    vec![
        named("an empty name", Vec::new),
        named("a name that is not UTF-8", || vec![0xFF, 0xFE, b'x', 0xC3]),
        named("a name with NUL in it", || b"web1\0web2".to_vec()),
        named("a name of lines and marks", || "web1\n\u{1b}[2J\u{202e}1bew".into()),
        named("a name of 65,536 bytes", || vec![b'x'; 65_536]),
    ]
}

/// Held locks, their holders, and the clients that may release them.
fn holding() -> Vec<Case> {
    vec![
        row(
            "RELEASE of what nobody holds",
            |place| texts_of([place.vm().release("", place.disk("a"), 0)]),
            &[NOT_LOCKED],
        ),
        row(
            "RELEASE twice",
            |place| {
                let (disk, mut vm) = (place.disk("a"), place.vm());
                vm.acquire("", &disk, 0).granted();
                texts_of([vm.release("", &disk, 0), vm.release("", &disk, 0)])
            },
            &["granted", NOT_LOCKED],
        ),
        row(
            "RELEASE of another's",
            |place| {
                let (disk, mut vm, mut other) = (place.disk("a"), place.vm(), place.other());
                vm.acquire("", &disk, 0).granted();
                texts_of([other.release("", &disk, 0), other.acquire("", &disk, 0)])
            },
            &["1/51 internal error: owner @WEB2@ does not hold the resource lock", BUSY],
        )
        .ours(&[
            "1/51 internal error: owner @WEB2@ does not hold the resource lock",
            BUSY_WITH_WEB1,
        ]),
        row(
            "ACQUIRE of what another one holds",
            |place| {
                let (disk, mut vm, mut other) = (place.disk("a"), place.vm(), place.other());
                vm.acquire("", &disk, 0).granted();
                texts_of([other.acquire("", &disk, 0), other.acquire("", &disk, SHARED)])
            },
            &[BUSY, BUSY],
        )
        .ours(&[BUSY_WITH_WEB1, BUSY_WITH_WEB1]),
    ]
}

fn sharing() -> Vec<Case> {
    vec![
        row(
            "ACQUIRE alone of what others share",
            |place| {
                let (disk, mut vm, mut other) = (place.disk("a"), place.vm(), place.other());
                vm.acquire("", &disk, SHARED).granted();
                texts_of([other.acquire("", &disk, 0), other.acquire("", &disk, SHARED)])
            },
            &[BUSY, "granted"],
        )
        .ours(&[BUSY_WITH_WEB1, "granted"]),
        row(
            "ACQUIRE of what one has",
            |place| {
                let (disk, mut vm) = (place.disk("a"), place.vm());
                vm.acquire("", &disk, 0).granted();
                texts_of([vm.acquire("", &disk, 0), vm.acquire("", &disk, SHARED)])
            },
            &[BUSY, BUSY],
        ),
        row(
            "ACQUIRE alone of what one shares",
            |place| {
                let (disk, mut vm) = (place.disk("a"), place.vm());
                vm.acquire("", &disk, SHARED).granted();
                texts_of([vm.acquire("", &disk, 0), vm.release("", &disk, 0)])
            },
            &[BUSY, "granted"],
        ),
        row(
            "shared twice is given back twice",
            |place| {
                let (disk, mut vm, mut other) = (place.disk("a"), place.vm(), place.other());
                vm.acquire("", &disk, SHARED).granted();
                vm.acquire("", &disk, SHARED).granted();
                vm.release("", &disk, 0).granted();
                let held = other.acquire("", &disk, 0);
                vm.release("", &disk, 0).granted();
                texts_of([held, vm.release("", &disk, 0), other.acquire("", &disk, 0)])
            },
            &[BUSY, NOT_LOCKED, "granted"],
        )
        .ours(&[BUSY_WITH_WEB1, NOT_LOCKED, "granted"]),
        row(
            "shared is given back once too often",
            |place| {
                let (disk, mut vm, mut other) = (place.disk("a"), place.vm(), place.other());
                vm.acquire("", &disk, SHARED).granted();
                other.acquire("", &disk, SHARED).granted();
                let answers = [vm.release("", &disk, 0), vm.release("", &disk, 0)];
                other.release("", &disk, 0).granted();
                texts_of(answers)
            },
            &["granted", "1/51 internal error: owner @WEB1@ does not hold the resource lock"],
        ),
        row(
            "what one connection locked another one of the same machine gives back",
            |place| {
                let (disk, mut first) = (place.disk("a"), place.vm());
                first.acquire("", &disk, 0).granted();
                drop(first);
                texts_of([place.vm().release("", disk, 0)])
            },
            &["granted"],
        ),
    ]
}
