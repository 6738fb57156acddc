//! Lockspaces, and the names in them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::fixture::rpc::{AUTOCREATE, Rpc};

use super::super::case::{Case, row, text_of, texts_of};
use super::super::environment::{Environment, there};

const NOT_THERE: &str = "1/7 internal error: Lockspace for path @DIR@/space does not exist";
const NO_DIRECTORY: &str =
    "1/51 internal error: Lockspace location @DIR@/space exists, but is not a directory";
const MADE: &str = "38/51 Unable to open/create resource @DIR@/space/";
const REMOVED: &str = "38/51 Unable to delete lockspace resource @DIR@/space/";
const BUSY: &str = "87/51 resource busy: Lockspace resource 'name' is locked";
const FREE: &str = "87/51 resource busy: Lockspace resource 'name' is not locked";

/// A lockspace, and a connection in the name of the first machine.
fn space(place: &Environment) -> (String, Rpc) {
    let (space, mut vm) = (place.folder("space"), place.vm());
    vm.create_lockspace(&space).granted();
    (space, vm)
}

pub(in super::super) fn all() -> Vec<Case> {
    let mut rows = made();
    rows.extend(not_there());
    rows.extend(names());
    rows.extend(resources());
    rows
}

fn made() -> Vec<Case> {
    vec![
        row(
            "a lockspace that nobody has made",
            |place| {
                let (space, mut vm) = (place.folder("space"), place.vm());
                texts_of([
                    vm.acquire(&space, "name", AUTOCREATE),
                    vm.release(&space, "name", 0),
                    vm.create_resource(&space, "name"),
                    vm.delete_resource(&space, "name"),
                ])
            },
            &[NOT_THERE; 4],
        ),
        row(
            "NEW of what is there",
            |place| {
                let (space, mut vm) = space(place);
                texts_of([vm.new_lockspace(&space), vm.create_lockspace(&space)])
            },
            &["1/7 internal error: Lockspace for path @DIR@/space already exists", "granted"],
        ),
        row(
            "NEW",
            |place| {
                let (space, mut vm) = (place.folder("space"), place.vm());
                texts_of([vm.new_lockspace(&space), vm.new_lockspace(&space)])
            },
            &["granted", "1/7 internal error: Lockspace for path @DIR@/space already exists"],
        ),
        row(
            "CREATE_LOCKSPACE and NEW of a relative path",
            |place| {
                let mut vm = place.vm();
                let made = [vm.create_lockspace("lockspace-1"), vm.new_lockspace("lockspace-2")];
                let mut answers = texts_of(made);
                answers.extend(["lockspace-1", "lockspace-2"].map(|name| place.in_folder(name)));
                answers
            },
            &["granted", "granted", "there", "there"],
        )
        .ours(&["8/", "8/", "not there", "not there"]),
        row(
            "CREATE_LOCKSPACE and NEW of nothing",
            |place| {
                let mut vm = place.vm();
                texts_of([vm.create_lockspace(""), vm.new_lockspace("")])
            },
            &[
                "granted",
                "55/7 Requested operation is not valid: the default lockspace already exists",
            ],
        )
        .ours(&["55/7 Requested operation is not valid: the default lockspace already exists"; 2]),
        row(
            "CREATE_LOCKSPACE of a path with NUL",
            |place| {
                let space = place.folder("space");
                let mut vm = place.vm();
                let made = vm.create_lockspace(format!("{space}\0/other"));
                texts_of([made, vm.acquire(&space, "name", 0)])
            },
            &["granted", "38/51 Unable to open resource @DIR@/space/name: No such file"],
        )
        .ours(&["8/", NOT_THERE]),
    ]
}

/// Paths that are not lockspaces, or not the same one as before.
fn not_there() -> Vec<Case> {
    vec![
        row(
            "a lockspace that is a file",
            |place| {
                let (file, mut vm) = (place.disk("space"), place.vm());
                let below = format!("{file}/below");
                texts_of([
                    vm.create_lockspace(&file),
                    vm.new_lockspace(&file),
                    vm.create_lockspace(below),
                ])
            },
            &[
                NO_DIRECTORY,
                // It has said otherwise in its log.
                "granted",
                "38/51 Unable to create lockspace @DIR@/space/below: Not a directory",
            ],
        )
        .ours(&[
            NO_DIRECTORY,
            NO_DIRECTORY,
            "38/51 Unable to create lockspace @DIR@/space/below: Not a directory",
        ]),
        row(
            "a lockspace that was removed",
            |place| {
                let (space, mut vm) = space(place);
                fs::remove_dir(&space).unwrap();
                let answer = text_of(vm.acquire(&space, "name", AUTOCREATE));
                fs::create_dir(space).unwrap();
                vec![answer]
            },
            &["38/51 Unable to open/create resource @DIR@/space/name: No such file"],
        ),
        row(
            "a lockspace in whose place there is another directory",
            |place| {
                let (space, mut vm) = space(place);
                // So it is, too, when shared storage is mounted after all.
                fs::rename(&space, place.made("aside")).unwrap();
                fs::create_dir(&space).unwrap();
                let mut answers = texts_of([vm.create_lockspace(&space)]);
                answers.push(text_of(vm.acquire(&space, "name", AUTOCREATE)));
                answers.extend(["space/name", "aside/name"].map(|name| there(place.path(name))));
                answers.push(text_of(vm.release(&space, "name", 0)));
                answers
            },
            &["granted", "granted", "there", "not there", "granted"],
        ),
    ]
}

/// A name is a name in the lockspace, and no path out of it.
fn names() -> Vec<Case> {
    let asked_for = |what: &str, name: &'static str, theirs: &[&'static str]| {
        row(
            what,
            move |place| {
                let (space, mut vm) = space(place);
                let made = Path::new(&space).join(name.trim_start_matches('/'));
                let mut answers = texts_of([
                    vm.acquire(&space, name, AUTOCREATE),
                    vm.create_resource(&space, name),
                    vm.delete_resource(&space, name),
                ]);
                // Entries that exist in any case do not count.
                let new = ["", ".", ".."].contains(&name);
                answers.push(if new { "not there".to_owned() } else { there(made) });
                answers
            },
            theirs,
        )
        .ours(&["8/", "8/", "8/", "not there"])
    };
    vec![
        asked_for(
            "a name that leads out of the lockspace",
            "../escaped",
            &["granted", "87/51 ", "87/51 ", "there"],
        ),
        asked_for("an absolute name", "/absolute", &["granted", "87/51 ", "87/51 ", "there"]),
        asked_for(
            "a path",
            "below/name",
            &[MADE, "38/0 cannot create file ", "granted", "not there"],
        ),
        asked_for("no name", "", &[MADE, "38/0 cannot create file ", REMOVED, "not there"]),
        asked_for(
            "the lockspace itself",
            ".",
            &[MADE, "38/0 cannot create file ", REMOVED, "not there"],
        ),
        asked_for(
            "what is above the lockspace",
            "..",
            &[MADE, "38/0 cannot create file ", REMOVED, "not there"],
        ),
        row(
            "a name with NUL in it",
            |place| {
                let (space, mut vm) = space(place);
                vec![
                    text_of(vm.acquire(&space, "name\0d", AUTOCREATE)),
                    there(format!("{space}/name")),
                ]
            },
            &["granted", "there"],
        )
        .ours(&["8/", "not there"]),
        row(
            "a name that is too long",
            |place| {
                let (space, mut vm) = space(place);
                texts_of([vm.acquire(&space, "a".repeat(300), AUTOCREATE)])
            },
            &["38/51 Unable to open/create resource @DIR@/space/aaa"],
        )
        .ours(&["8/"]),
        row(
            "a symbolic link in the lockspace",
            |place| {
                let (space, mut vm) = space(place);
                symlink("../out", place.made("space/name")).unwrap();
                let answer = text_of(vm.acquire(&space, "name", AUTOCREATE));
                vec![answer, there(place.path("out"))]
            },
            &["granted", "there"],
        )
        .ours(&["38/51 Unable to open/create resource @DIR@/space/name", "not there"]),
        row(
            "a directory in the lockspace",
            |place| {
                let (space, mut vm) = space(place);
                place.folder("space/name");
                texts_of([vm.acquire(&space, "name", AUTOCREATE)])
            },
            &["38/51 Unable to open/create resource @DIR@/space/name: Is a directory"],
        ),
    ]
}

fn resources() -> Vec<Case> {
    vec![
        row(
            "a lock file is made with the lock, and removed with it",
            |place| {
                let (space, mut vm) = space(place);
                let file = format!("{space}/name");
                let mut answers = vec![text_of(vm.acquire(&space, "name", 0)), there(&file)];
                answers.extend([text_of(vm.acquire(&space, "name", AUTOCREATE)), there(&file)]);
                answers.push(text_of(vm.acquire(&space, "name", AUTOCREATE)));
                answers.extend([text_of(vm.release(&space, "name", 0)), there(&file)]);
                answers.push(text_of(vm.release(&space, "name", 0)));
                answers
            },
            &[
                "38/51 Unable to open resource @DIR@/space/name: No such file or directory",
                "not there",
                "granted",
                "there",
                BUSY,
                "granted",
                "not there",
                FREE,
            ],
        ),
        row(
            "a lock file that is there stays",
            |place| {
                let (space, mut vm) = space(place);
                let file = place.disk("space/name");
                texts_of([vm.acquire(&space, "name", 0), vm.release(&space, "name", 0)])
                    .into_iter()
                    .chain([there(file)])
                    .collect()
            },
            &["granted", "granted", "there"],
        ),
        row(
            "CREATE_RESOURCE and DELETE_RESOURCE, and both once more",
            |place| {
                let (space, mut vm) = space(place);
                let file = format!("{space}/name");
                let mut answers = texts_of([
                    vm.create_resource(&space, "name"),
                    vm.create_resource(&space, "name"),
                ]);
                answers.push(there(&file));
                answers.extend(texts_of([
                    vm.delete_resource(&space, "name"),
                    vm.delete_resource(&space, "name"),
                ]));
                answers.push(there(&file));
                answers
            },
            &["granted", "granted", "there", "granted", "granted", "not there"],
        ),
        row(
            "CREATE_RESOURCE and DELETE_RESOURCE of what is locked",
            |place| {
                let ((space, mut vm), mut other) = (space(place), place.other());
                vm.acquire(&space, "name", AUTOCREATE).granted();
                texts_of([
                    other.create_resource(&space, "name"),
                    other.delete_resource(&space, "name"),
                    other.acquire(&space, "name", AUTOCREATE),
                    other.release(&space, "name", 0),
                    vm.release(&space, "name", 0),
                ])
            },
            &[
                BUSY,
                BUSY,
                BUSY,
                "1/51 internal error: owner @WEB2@ does not hold the resource lock",
                "granted",
            ],
        )
        .ours(&[
            BUSY,
            BUSY,
            "87/51 resource busy: Lockspace resource 'name' is locked*web1*pid @WEB1@",
            "1/51 internal error: owner @WEB2@ does not hold the resource lock",
            "granted",
        ]),
    ]
}
