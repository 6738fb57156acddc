//! The parts of the program use each other in one direction only, and stay small.
//!
//! 1. [`reader`] reads the sources, [`imports`] makes the import graph of them: which file uses
//!    what another one defines. Test code is left out.
//! 2. [`rooms`] says what may use what: the floors, the order of the sub-rooms of each room, and
//!    the files that are pure.
//! 3. [`checks`] compares the two, with the help of [`circles`], and the tests below print what
//!    does not agree. `cargo test --test it layering:: -- --nocapture` prints the largest circle.

mod checks;
mod circles;
mod imports;
mod reader;
mod rooms;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::sources::{root, sources};
use imports::Graph;

/// The largest number of lines of a file.
const LINES: usize = 400;

/// Returns the import graph of `src`.
fn graph() -> &'static Graph {
    static GRAPH: LazyLock<Graph> = LazyLock::new(|| {
        let source = root().join("src");
        Graph::of(sources(&source).into_iter().map(|path| {
            let name = path.strip_prefix(&source).unwrap().display().to_string();
            (name, fs::read_to_string(path).unwrap())
        }))
    });
    &GRAPH
}

fn assert_none(problems: &[String], advice: &str) {
    assert!(problems.is_empty(), "{}\n\n{advice}", problems.join("\n"));
}

#[test]
fn a_room_uses_its_own_floor_and_those_below() {
    assert_none(
        &checks::floors(graph(), rooms::FLOORS),
        "A room uses itself and the rooms that FLOORS in layering/rooms.rs lists for it. Move what \
         is imported to a lower floor, or pass it as an argument. A new room gets its place in \
         FLOORS and in ARCHITECTURE.md.",
    );
}

#[test]
fn a_floor_does_not_use_foreign_crates() {
    assert_none(
        &checks::crates(graph(), rooms::FOREIGN_CRATES),
        "FOREIGN_CRATES in layering/rooms.rs lists what a floor must not depend on. Do this on the \
         floor that may.",
    );
}

#[test]
fn a_sub_room_uses_itself_and_those_before_it() {
    assert_none(
        &checks::sub_rooms(graph(), rooms::SUB_ROOMS),
        "SUB_ROOMS in layering/rooms.rs lists the sub-rooms of each room from the ground up. Move \
         what is imported to the earlier sub-room, pass it as an argument, or take the function \
         that needs it to the later one.",
    );
}

#[test]
fn import_circles_are_small_and_within_a_sub_room() {
    let graph = graph();
    match checks::all_circles(graph).first() {
        Some(circle) => println!("largest circle: {} files: {}", circle.len(), circle.join(" ")),
        None => println!("no circle"),
    }
    assert_none(
        &checks::circles(graph, rooms::SUB_ROOMS),
        "Files of a circle can only be understood together. Cut the import that points from what \
         is used to its user: move the type or function to a file of its own below both, or pass \
         it as an argument.",
    );
}

#[test]
fn deciding_and_decoding_code_is_pure() {
    assert_none(
        &checks::pure(
            graph(),
            rooms::PURE,
            rooms::IMPURE_FILES_TO_MOVE,
            rooms::IMPURE_IMPORTS_TO_CUT,
        ),
        "PURE in layering/rooms.rs lists the files that only compute. Pass in what they need to \
         know: the time, what a file contains, what a system call returned.",
    );
}

#[test]
fn methods_of_the_service_are_in_its_facade() {
    assert_none(
        &checks::methods(graph(), rooms::METHODS),
        "METHODS in layering/rooms.rs lists the types whose methods are in one place. Make it a \
         function that takes what it needs, or a method of a component, and call it from the \
         facade.",
    );
}

#[test]
fn no_file_is_too_large_or_named_after_nothing() {
    let root = root();
    let mut files = sources(&root.join("src"));
    files.extend(sources(&root.join("tests")));
    files.extend(sources(&root.join("benches")));
    for path in files {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= LINES, "{} has {lines} lines, the limit is {LINES}", path.display());
        let name = path.file_stem().unwrap().to_str().unwrap();
        for word in ["util", "utils", "helper", "helpers", "common", "misc"] {
            assert_ne!(name, word, "{}", path.display());
        }
    }
}

/// The code of a file: without comments, and without the tests at its end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn unsafe_code_is_in_few_justified_places() {
    let source = root().join("src");
    let count = |path: &Path| code(path).matches("unsafe {").count();
    let files = sources(&source).into_iter().filter(|path| count(path) > 0);
    let found: BTreeSet<PathBuf> = files
        .inspect(|path| assert_eq!(count(path), 1, "{}", path.display()))
        .map(|path| path.strip_prefix(&source).unwrap().to_owned())
        .collect();
    assert_eq!(found, rooms::UNSAFE.iter().map(PathBuf::from).collect());
}

/// Any program can send signals to any connection, so each receiver compares the sender.
#[test]
fn signals_are_read_only_where_their_sender_is_checked() {
    let source = root().join("src");
    let files = sources(&source).into_iter().filter(|path| code(path).contains("MessageStream"));
    let found: BTreeSet<PathBuf> =
        files.map(|path| path.strip_prefix(&source).unwrap().to_owned()).collect();
    assert_eq!(found, rooms::SIGNAL_STREAMS.iter().map(PathBuf::from).collect());
}
