//! Compares the import graph with the tables of the rooms. Each check returns its problems, one
//! line each.

use std::collections::BTreeSet;

use super::circles;
use super::imports::{Graph, Import};

/// Names, each with the names that belong to it.
pub(super) type Table = [(&'static str, &'static [&'static str])];

/// The largest number of files in a circle of imports.
const CIRCLE: usize = 5;

/// Paths of other crates that pure code must not use, and all below them.
const IMPURE_PATHS: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os::fd",
    "std::os::unix::net",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "nix",
    "rustix",
    "tokio",
    "futures_util",
    "tracing",
    "zbus",
];

/// Exceptions from [`IMPURE_PATHS`]: types of values, and functions that only compute.
const PURE_PATHS: &[&str] = &[
    "std::io::Error",
    "std::io::ErrorKind",
    "nix::errno::Errno",
    "rustix::fs::major",
    "rustix::fs::makedev",
    "rustix::fs::minor",
    "rustix::io::Errno",
];

/// Keywords and names of types that pure code must not use, under any path.
const IMPURE_WORDS: &[&str] = &[
    "async",
    "await",
    "unsafe",
    "Instant",
    "SystemTime",
    "Mutex",
    "RwLock",
    "Condvar",
    "OnceLock",
    "LazyLock",
    "thread_local",
    "OwnedFd",
    "BorrowedFd",
];

/// The room of a file: the first part of its name.
fn room(file: &str) -> &str {
    file.split('/').next().unwrap_or(file).trim_end_matches(".rs")
}

/// The sub-room of a file within its room: the second part of its name; `mod` for the room's own
/// file.
fn sub_room(file: &str) -> &str {
    file.split('/').nth(1).map_or("mod", |part| part.trim_end_matches(".rs"))
}

fn entry(table: &Table, name: &str) -> Option<&'static [&'static str]> {
    table.iter().find(|(key, _)| *key == name).map(|(_, values)| *values)
}

fn line(import: &Import) -> String {
    format!("src/{}:{} imports {} ({})", import.from, import.line, import.path, import.to)
}

/// Imports of rooms that are not on a lower floor.
pub(super) fn floors(graph: &Graph, floors: &Table) -> Vec<String> {
    let rooms: BTreeSet<&str> = graph.modules().map(|(file, _)| room(file)).collect();
    let rooms: BTreeSet<&str> =
        rooms.into_iter().filter(|room| !["lib", "bin"].contains(room)).collect();
    let mut problems = Vec::new();
    for room in &rooms {
        if entry(floors, room).is_none() {
            problems.push(format!("{room} is on no floor"));
        }
    }
    for (name, below) in floors {
        for unknown in [name].into_iter().chain(*below).filter(|name| !rooms.contains(**name)) {
            problems.push(format!("there is no room {unknown}"));
        }
    }
    for import in &graph.imports {
        let from = room(&import.from);
        let Some(below) = entry(floors, from) else { continue };
        // A room may re-export what a lower one defines.
        let used = import.path.split("::").next().unwrap_or_default();
        if used != from && rooms.contains(used) && !below.contains(&used) {
            problems.push(format!("{}: {used} is not below {from}", line(import)));
        }
    }
    problems
}

/// Uses of crates that a floor must not depend on.
pub(super) fn crates(graph: &Graph, foreign: &Table) -> Vec<String> {
    let mut problems = Vec::new();
    for used in &graph.external {
        let name = used.path.split("::").next().unwrap_or_default();
        let foreign = entry(foreign, room(&used.from)).unwrap_or_default();
        if foreign.contains(&name) {
            problems.push(format!("src/{}:{} uses {}", used.from, used.line, used.path));
        }
    }
    problems
}

/// Imports of later sub-rooms.
pub(super) fn sub_rooms(graph: &Graph, order: &Table) -> Vec<String> {
    let mut problems = Vec::new();
    let place = |file: &str| -> Option<usize> {
        let subs = entry(order, room(file))?;
        let name = sub_room(file);
        // The room's own file re-exports what is in the sub-rooms, so it comes last.
        let last = (name == "mod").then_some(subs.len());
        subs.iter().position(|sub| *sub == name).or(last)
    };
    let mut unlisted = BTreeSet::new();
    let mut present = BTreeSet::new();
    for (file, _) in graph.modules() {
        let (room, sub) = (room(file), sub_room(file));
        let has_order = entry(order, room).is_some();
        if has_order && place(file).is_none() {
            unlisted.insert(format!("src/{room}/{sub} has no place in the order of src/{room}"));
        } else if !has_order && file.ends_with("/mod.rs") && file.matches('/').count() > 1 {
            unlisted.insert(format!("src/{room} has sub-rooms ({sub}) and no order of them"));
        }
        present.insert((room, sub));
    }
    problems.extend(unlisted);
    for (room, subs) in order {
        for sub in subs.iter().filter(|sub| !present.contains(&(*room, **sub))) {
            problems.push(format!("there is no sub-room src/{room}/{sub}"));
        }
    }
    for import in first_of_each_pair(graph) {
        if room(&import.from) != room(&import.to) {
            continue;
        }
        let (Some(from), Some(to)) = (place(&import.from), place(&import.to)) else { continue };
        if from < to {
            let (from, to) = (sub_room(&import.from), sub_room(&import.to));
            problems.push(format!("{}: {to} comes after {from}", line(import)));
        }
    }
    problems
}

/// The first import of each file by each other one.
fn first_of_each_pair(graph: &Graph) -> impl Iterator<Item = &Import> {
    let mut pairs = BTreeSet::new();
    graph.imports.iter().filter(move |import| pairs.insert((&import.from, &import.to)))
}

fn edges(graph: &Graph) -> impl Iterator<Item = (&str, &str)> {
    graph.imports.iter().map(|import| (import.from.as_str(), import.to.as_str()))
}

/// All circles of files, the largest first.
pub(super) fn all_circles(graph: &Graph) -> Vec<Vec<&str>> {
    circles::circles(edges(graph))
}

/// Circles that are too large or extend over more than one sub-room.
pub(super) fn circles(graph: &Graph, order: &Table) -> Vec<String> {
    let mut problems = Vec::new();
    for circle in all_circles(graph) {
        let places: BTreeSet<(&str, &str)> = circle
            .iter()
            .map(|file| {
                let has_order = entry(order, room(file)).is_some();
                (room(file), if has_order { sub_room(file) } else { "" })
            })
            .collect();
        if circle.len() <= CIRCLE && places.len() == 1 {
            continue;
        }
        problems.push(format!(
            "circle of {} files in {} sub-rooms (at most {CIRCLE} files in one): {}",
            circle.len(),
            places.len(),
            circle.join(" ")
        ));
        problems.extend(within(graph, &circle));
    }
    problems
}

/// Files that have methods of a type although they are not in its folder, or not its file. A type is
/// listed with the beginning of the names of the files that may have its methods.
pub(super) fn methods(graph: &Graph, types: &[(&str, &str)]) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, place) in types {
        let (mut there, mut elsewhere) = (0, Vec::new());
        for (file, module) in graph.modules() {
            if !module.impls.iter().any(|implemented| implemented == name) {
                continue;
            }
            if file.starts_with(place) { there += 1 } else { elsewhere.push(file) }
        }
        problems.extend(
            elsewhere.iter().map(|file| {
                format!("src/{file} has methods of {name}, which belong to src/{place}")
            }),
        );
        if there == 0 {
            problems.push(format!("no file in src/{place} has methods of {name}"));
        }
    }
    problems
}

/// The imports between the files of a circle, one line for each two files.
fn within(graph: &Graph, circle: &[&str]) -> Vec<String> {
    let inside = |file: &str| circle.contains(&file);
    first_of_each_pair(graph)
        .filter(|import| inside(&import.from) && inside(&import.to))
        .map(|import| format!("  {}", line(import)))
        .collect()
}

/// Uses of I/O, clocks, threads and asynchronous code in files that must be pure, and their imports
/// of files that are not. `files` has names of files, and of folders with a slash at the end, except
/// those of `to_move`. `to_cut` lists known imports.
pub(super) fn pure(
    graph: &Graph,
    files: &[&str],
    to_move: &[&str],
    to_cut: &[(&'static str, &'static str)],
) -> Vec<String> {
    let is_in = |entry: &str, file: &str| {
        file == entry || (entry.ends_with('/') && file.starts_with(entry))
    };
    let is_listed = |file: &str| files.iter().any(|entry| is_in(entry, file));
    let is_pure = |file: &str| is_listed(file) && !to_move.contains(&file);
    let mut problems = Vec::new();
    for entry in files.iter().chain(to_move) {
        if !graph.modules().any(|(file, _)| is_in(entry, file)) {
            problems.push(format!("there is no {entry}: adapt PURE or IMPURE_FILES_TO_MOVE"));
        }
    }
    let mut impure = BTreeSet::new();
    for (file, line, word) in impure_words(graph).filter(|(file, ..)| is_listed(file)) {
        impure.insert(file);
        if is_pure(file) {
            problems.push(format!(
                "src/{file}:{line} must be pure (no I/O, no clock, no async) but uses '{word}'"
            ));
        }
    }
    for file in to_move.iter().filter(|file| !impure.contains(**file)) {
        problems.push(format!("{file} is pure now: remove it from IMPURE_FILES_TO_MOVE"));
    }
    let mut unused: BTreeSet<(&str, &str)> = to_cut.iter().copied().collect();
    for import in first_of_each_pair(graph).filter(|import| is_pure(&import.from)) {
        let pair = (import.from.as_str(), import.to.as_str());
        if is_pure(&import.to) {
            continue;
        }
        if to_cut.contains(&pair) {
            unused.remove(&pair);
        } else {
            problems.push(format!("{}: the first must be pure, the second is not", line(import)));
        }
    }
    problems.extend(unused.into_iter().map(|(from, to)| {
        format!("{from} no longer imports {to}: remove them from IMPURE_IMPORTS_TO_CUT")
    }));
    problems
}

/// The uses of [`IMPURE_PATHS`] and [`IMPURE_WORDS`]: the file, the line, and the path or word.
fn impure_words(graph: &Graph) -> impl Iterator<Item = (&str, usize, &str)> {
    let begins = |path: &str, beginnings: &[&str]| {
        beginnings.iter().any(|beginning| {
            let rest = path.strip_prefix(beginning);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        })
    };
    let is_impure = move |path: &str| {
        // `std::io` alone brings in the name, and is judged by what is used of it.
        path != "std::io" && begins(path, IMPURE_PATHS) && !begins(path, PURE_PATHS)
    };
    let paths = graph.external.iter().filter(move |used| is_impure(&used.path));
    let words = graph.modules().flat_map(|(file, module)| {
        let words = module.words.iter().filter(|(word, _)| IMPURE_WORDS.contains(&word.as_str()));
        words.map(move |(word, line)| (file, *line, word.as_str()))
    });
    paths.map(|used| (used.from.as_str(), used.line, used.path.as_str())).chain(words)
}

#[cfg(test)]
mod tests;
