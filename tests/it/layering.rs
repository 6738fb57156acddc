//! The floors are obeyed, and the rooms are small.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::source::{root, sources};

/// A module uses those listed, itself, and nothing else of this crate.
const MAY_USE: &[(&str, &[&str])] = &[
    ("lock", &[]),
    ("life", &["lock", "registration"]),
    ("inspector", &["lock"]),
    // `step` marks places, for tests, and does nothing.
    ("step", &[]),
    // It asks an inspector whether the service manager has what it was given.
    ("keep", &["lock", "inspector", "step"]),
    // What the log tells of, for whoever tells it and for whoever writes it.
    ("catalog", &[]),
    ("service", &["lock", "life", "keep", "inspector", "step", "catalog"]),
    ("privacy", &["lock", "service", "paths"]),
    ("admission", &["lock", "service", "bus", "privacy", "registration"]),
    ("auth", &["lock", "life", "service", "catalog", "admission", "privacy"]),
    // `logging` stands beside the floors; the log's D-Bus object turns its knob.
    (
        "dbus",
        &[
            "lock",
            "life",
            "keep",
            "inspector",
            "service",
            "admission",
            "auth",
            "privacy",
            "bus",
            "logging",
            "nearest",
            "paths",
        ],
    ),
    ("virtlockd", &["lock", "life", "service", "keep", "step", "catalog"]),
    ("logging", &["lock", "catalog"]),
    ("notify", &[]),
    ("nearest", &[]),
    ("registration", &[]),
    ("instance", &["lock"]),
    ("config", &["lock", "service", "logging", "nearest"]),
    ("reexec", &["lock", "keep", "service"]),
    (
        "daemon",
        &[
            "lock",
            "life",
            "keep",
            "service",
            "dbus",
            "virtlockd",
            "bus",
            "config",
            "inspector",
            "instance",
            "logging",
            "notify",
            "reexec",
            "step",
        ],
    ),
    // The names of objects are the same on both ends of the bus.
    ("paths", &["lock"]),
    ("bus", &[]),
    ("rlimit", &[]),
    ("client", &["bus"]),
    ("cli", &["client", "lock", "paths", "rlimit"]),
];

/// Crates that a floor must not know.
const NEVER: &[(&str, &[&str])] = &[
    ("lock", &["zbus", "tokio", "tracing", "sd_notify", "toml", "clap"]),
    ("inspector", &["zbus", "tokio", "sd_notify", "toml", "clap"]),
    ("life", &["zbus", "tracing", "sd_notify", "toml", "clap"]),
    ("keep", &["zbus", "tokio", "tracing", "toml", "clap"]),
    ("service", &["zbus", "sd_notify", "toml", "clap"]),
    ("cli", &["zbus_polkit"]),
];

/// What decides: no file, no clock, no system call.
const PURE: &[&str] = &[
    "lock/table.rs",
    "lock/table/grant.rs",
    "lock/table/lockspace.rs",
    "lock/table/restored.rs",
    "lock/record.rs",
    "lock/extent.rs",
    "lock/mode.rs",
    "lock/event.rs",
    "virtlockd/xdr.rs",
    "virtlockd/frame.rs",
    "virtlockd/call.rs",
];

/// The longest file, in lines.
const LINES: usize = 400;

/// The code of a file: without comments, and without the tests at its end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The first path parts after a prefix: the modules of this crate that a file names.
fn named_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for rest in code.split(prefix).skip(1) {
        let heads: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => group.split(['}', ';']).next().unwrap_or_default().split(',').collect(),
            None => vec![rest],
        };
        for head in heads {
            let word = |c: char| !(c.is_alphanumeric() || c == '_');
            let name = head.trim().split(word).next().unwrap_or_default();
            if !name.is_empty() {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

/// The room that a file of `src/` belongs to.
fn room(path: &Path) -> String {
    let first = path.strip_prefix(root().join("src")).unwrap().components().next().unwrap();
    Path::new(first.as_os_str()).file_stem().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_room_uses_its_own_floor_and_those_below() {
    for path in sources(&root().join("src")) {
        let room = room(&path);
        if ["lib", "bin"].contains(&room.as_str()) {
            continue;
        }
        let (_, allowed) = MAY_USE.iter().find(|(name, _)| *name == room).unwrap_or_else(|| {
            panic!("{room} is on no floor: give it one in this list and in ARCHITECTURE.md")
        });
        for used in named_after(&code(&path), "crate::") {
            let fine = used == room || allowed.contains(&used.as_str());
            assert!(fine, "{} uses {used}, which is not below {room}", path.display());
        }
    }
}

#[test]
fn a_floor_does_not_know_what_is_not_its_matter() {
    for (room_name, crates) in NEVER {
        for path in sources(&root().join("src")).into_iter().filter(|path| room(path) == *room_name)
        {
            let code = code(&path);
            for name in *crates {
                let used =
                    code.contains(&format!("{name}::")) || code.contains(&format!("use {name}"));
                assert!(!used, "{} knows {name}", path.display());
            }
        }
    }
    for path in PURE {
        let code = code(&root().join("src").join(path));
        for word in ["std::fs", "std::time", "fs::", "nix::", "Instant", "SystemTime", "async"] {
            assert!(!code.contains(word), "{path} has '{word}' in it, and decides");
        }
    }
}

#[test]
fn no_room_is_too_large_and_none_is_a_lumber_room() {
    let root = root();
    let mut files = sources(&root.join("src"));
    files.extend(sources(&root.join("tests")));
    files.extend(sources(&root.join("benches")));
    for path in files {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= LINES, "{} has {lines} lines, {LINES} are the most", path.display());
        let name = path.file_stem().unwrap().to_str().unwrap();
        for word in ["util", "utils", "helper", "helpers", "common", "misc"] {
            assert_ne!(name, word, "{}", path.display());
        }
    }
}

#[test]
fn unsafe_code_is_in_few_justified_places() {
    let places = [
        "admission/stall.rs",
        "cli/terminal/signals.rs",
        "keep/inherited.rs",
        "keep/pair.rs",
        "lock/file_tables.rs",
        "lock/loop_device.rs",
        "registration.rs",
    ];
    let source = root().join("src");
    let count = |path: &Path| code(path).matches("unsafe {").count();
    let files = sources(&source).into_iter().filter(|path| count(path) > 0);
    let found: BTreeSet<PathBuf> = files
        .inspect(|path| assert_eq!(count(path), 1, "{}", path.display()))
        .map(|path| path.strip_prefix(&source).unwrap().to_owned())
        .collect();
    assert_eq!(found, places.map(PathBuf::from).into());
}

/// A message stream has whatever any program sends to its connection. Only these compare the sender.
#[test]
fn signals_are_read_only_where_their_sender_is_checked() {
    let places = ["auth/caller.rs", "client/subscription.rs"];
    let source = root().join("src");
    let files = sources(&source).into_iter().filter(|path| code(path).contains("MessageStream"));
    let found: BTreeSet<PathBuf> =
        files.map(|path| path.strip_prefix(&source).unwrap().to_owned()).collect();
    assert_eq!(found, places.map(PathBuf::from).into());
}
