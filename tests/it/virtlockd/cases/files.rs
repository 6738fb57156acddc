//! Disks that are none, have more than one name, or are not there.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::fixture::rpc::{AUTOCREATE, Answer, SHARED};
use crate::fixture::{ForeignHolder, LockType, OpenWatch};

use super::super::case::{Case, row, text_of, texts_of};
use super::super::environment::{Environment, there};

const MISSING: &str = "38/51 Unable to open resource @DIR@/a: No such file or directory";

/// The error of virtlockd, also for a client that has requested the creation.
const NOT_MADE: &str = "38/51 Unable to open/create resource @DIR@/a: No such file or directory";

pub(in super::super) fn all() -> Vec<Case> {
    let mut rows = no_disks();
    rows.extend(names());
    rows.extend(aliases());
    rows.extend(created());
    rows.extend(foreign_holders());
    rows
}

/// Asks for what a name leads to, alone and shared.
fn asked_for(
    what: impl Into<String>,
    name: impl Fn(&Environment) -> String + 'static,
    theirs: &[&'static str],
) -> Case {
    let ask = move |place: &Environment| {
        let (name, mut vm) = (name(place), place.vm());
        let mut answers = Vec::new();
        for flags in [0, SHARED] {
            let answer = vm.acquire("", &name, flags);
            if answer == Answer::Granted {
                vm.release("", &name, 0).granted();
            }
            answers.push(text_of(answer));
        }
        answers
    };
    row(what, ask, theirs)
}

fn no_disks() -> Vec<Case> {
    let (granted, refused) = (["granted"; 2], ["38/51 Unable to open resource "; 2]);
    let mut rows = Vec::new();
    // virtlockd opens these for writing.
    for name in ["/dev/null", "/dev/fuse", "/proc/self/mem", "/proc/self/oom_score_adj"] {
        if Path::new(name).exists() {
            rows.push(asked_for(name, |_| name.to_owned(), &granted).ours(&refused));
            let through = move |place: &Environment| {
                let link = place.made("link");
                symlink(name, &link).unwrap();
                link
            };
            let what = format!("a symbolic link to {name}");
            rows.push(asked_for(what, through, &granted).ours(&refused));
        }
    }
    for name in ["/dev/tty", "/", "/dev", "/proc/self/fd/0/x"] {
        rows.push(asked_for(name, |_| name.to_owned(), &refused));
    }
    let here = |what: &str, make: fn(&str)| {
        asked_for(
            what,
            move |place| {
                let name = place.made("a");
                make(&name);
                name
            },
            &refused,
        )
    };
    rows.extend([
        here("a directory", |name| fs::create_dir(name).unwrap()),
        here("a socket", |name| drop(UnixListener::bind(name).unwrap())),
        here("a loop of links", |name| symlink("a", name).unwrap()),
        here("a link to nowhere", |name| symlink("b", name).unwrap()),
        row(
            "a FIFO, which is opened or not",
            |place| {
                let fifo = place.made("a");
                mkfifo(Path::new(&fifo), Mode::S_IRWXU).unwrap();
                let (opened, mut vm) = (OpenWatch::watch([Path::new(&fifo)]), place.vm());
                let mut answers =
                    texts_of([vm.acquire("", &fifo, 0), vm.acquire("", &fifo, SHARED)]);
                answers.push(if opened.any() { "opened" } else { "not opened" }.to_owned());
                answers
            },
            &["granted", "87/51 ", "opened"],
        )
        .ours(&[refused[0], refused[1], "not opened"]),
        asked_for("a secret", |_| "/etc/shadow".to_owned(), &granted),
        asked_for(
            "a symbolic link to a secret",
            |place| {
                let link = place.made("a");
                symlink("/etc/shadow", &link).unwrap();
                link
            },
            &granted,
        ),
    ]);
    rows
}

fn names() -> Vec<Case> {
    let missing = ["38/51 Unable to open resource "; 2];
    vec![
        asked_for("a missing file", |place| place.path("a"), &[MISSING; 2]),
        asked_for("a file in a missing directory", |place| place.path("b/a"), &missing),
        asked_for("a file below a file", |place| format!("{}/x", place.disk("a")), &missing),
        asked_for(
            "a file with a slash behind it",
            |place| format!("{}/", place.disk("a")),
            &missing,
        ),
        asked_for("a name that is too long", |place| place.path(&"a".repeat(300)), &missing),
        asked_for("a path that is too long", |place| place.path(&"a/".repeat(3000)), &missing)
            .ours(&["8/"; 2]),
        asked_for("no name at all", |_| String::new(), &missing).ours(&["8/"; 2]),
        asked_for("a relative name", |_| "Cargo.toml".to_owned(), &missing).ours(&["8/"; 2]),
        row(
            "a name with NUL in it",
            |place| {
                let (disk, mut vm) = (place.disk("a"), place.vm());
                let locked = vm.acquire("", format!("{disk}\0.bak"), 0);
                let by_others = ForeignHolder::try_once(&disk, LockType::Posix, true);
                vec![text_of(locked), by_others.map_or("locked", |()| "free").to_owned()]
            },
            &["granted", "locked"],
        )
        .ours(&["8/", "free"]),
        row(
            "RELEASE of names that nothing can have",
            |place| {
                let (disk, mut vm) = (place.disk("a"), place.vm());
                let long = "a/".repeat(3000);
                texts_of([
                    vm.release("", "", 0),
                    vm.release("", "Cargo.toml", 0),
                    vm.release("", format!("{disk}\0.bak"), 0),
                    vm.release("", place.path(&long), 0),
                    vm.release("", place.path("missing"), 0),
                ])
            },
            &["87/51 resource busy: Lockspace resource '"; 5],
        )
        .ours(&["8/", "8/", "8/", "8/", "87/51 resource busy: Lockspace resource '"]),
    ]
}

/// Makes another name for a disk.
type Alias = fn(&Environment, &str) -> String;

/// One disk has many names. virtlockd knows it by the name that was said.
fn aliases() -> Vec<Case> {
    let mut rows = Vec::new();
    let named: [(&str, Alias); 4] = [
        ("a hard link", |place, disk| {
            let link = place.made("alias");
            fs::hard_link(disk, &link).unwrap();
            link
        }),
        ("a symbolic link", |place, disk| {
            let link = place.made("alias");
            symlink(disk, &link).unwrap();
            link
        }),
        ("a detour", |place, _| place.path("./a")),
        ("a link to the directory", |place, disk| {
            let link = place.made("alias");
            symlink(Path::new(disk).parent().unwrap(), &link).unwrap();
            format!("{link}/a")
        }),
    ];
    for (what, name) in named {
        rows.push(
            row(
                format!("ACQUIRE of what another one holds, by {what}"),
                move |place| {
                    let (disk, mut vm, mut other) = (place.disk("a"), place.vm(), place.other());
                    let alias = name(place, &disk);
                    vm.acquire("", &disk, 0).granted();
                    texts_of([other.acquire("", &alias, 0), other.acquire("", &alias, SHARED)])
                },
                &["granted", "87/51 resource busy: Lockspace resource '"],
            )
            .ours(
                &["87/51 resource busy: Lockspace resource '@DIR@/*' is locked*web1*pid @WEB1@"; 2],
            ),
        );
        rows.push(row(
            format!("what one locked is given back by {what}"),
            move |place| {
                let (disk, mut vm) = (place.disk("a"), place.vm());
                let alias = name(place, &disk);
                vm.acquire("", &disk, 0).granted();
                texts_of([vm.release("", &alias, 0), vm.release("", &disk, 0)])
            },
            &["87/51 resource busy: Lockspace resource '@DIR@/*' is not locked", "granted"],
        ));
    }
    rows
}

/// Without a lockspace nothing is to be made, nor to be removed.
fn created() -> Vec<Case> {
    let gone = "87/51 resource busy: Lockspace resource '@DIR@/a' is not locked";
    let only_registered = "55/";
    vec![
        row(
            "a disk is made, and removed, if it is not there",
            |place| {
                let (disk, mut vm) = (place.path("a"), place.vm());
                let mut answers = vec![text_of(vm.acquire("", &disk, AUTOCREATE)), there(&disk)];
                answers.extend([text_of(vm.release("", &disk, 0)), there(&disk)]);
                answers
            },
            &["granted", "there", "granted", "not there"],
        )
        .ours(&[NOT_MADE, "not there", gone, "not there"]),
        row(
            "a disk that is there is removed when its lock is given back",
            |place| {
                let (disk, mut vm) = (place.disk("a"), place.vm());
                vm.acquire("", &disk, AUTOCREATE).granted();
                vm.release("", &disk, 0).granted();
                vec![there(&disk)]
            },
            &["not there"],
        )
        .ours(&["there"]),
        row(
            "a relative name is made in the server's folder",
            |place| {
                let answer = text_of(place.vm().acquire("", "made-here", AUTOCREATE));
                vec![answer, place.in_folder("made-here")]
            },
            &["granted", "there"],
        )
        .ours(&["8/", "not there"]),
        row(
            "CREATE_RESOURCE makes any file",
            |place| {
                let name = place.path("a");
                vec![text_of(place.vm().create_resource("", &name)), there(name)]
            },
            &["granted", "there"],
        )
        .ours(&[only_registered, "not there"]),
        row(
            "DELETE_RESOURCE removes any file",
            |place| {
                let name = place.disk("a");
                vec![text_of(place.vm().delete_resource("", &name)), there(name)]
            },
            &["granted", "not there"],
        )
        .ours(&[only_registered, "there"]),
    ]
}

/// Another process holds it: the kernel says no.
fn foreign_holders() -> Vec<Case> {
    let held = |what: &str, kind: LockType, exclusive: bool, answers: &[&'static str]| {
        row(
            what,
            move |place| {
                let (disk, mut vm) = (place.disk("a"), place.vm());
                let foreign_holder = ForeignHolder::hold(&disk, kind, exclusive).unwrap();
                let answers = [vm.acquire("", &disk, 0), vm.acquire("", &disk, SHARED)];
                drop(foreign_holder);
                texts_of(answers)
            },
            answers,
        )
    };
    let busy = "87/51 resource busy: Lockspace resource '@DIR@/a' is locked";
    vec![
        held("a stranger holds it", LockType::Posix, true, &[busy; 2]),
        held("a stranger's description holds it", LockType::Ofd, true, &[busy; 2]),
        held("a stranger shares it", LockType::Posix, false, &[busy, "granted"]),
    ]
}
