//! Each check finds what it is for in a small program, and accepts the rest.

use std::collections::BTreeMap;

use super::*;

const SOURCES: &[(&str, &str)] = &[
    ("lib.rs", "pub mod lock; pub mod service;"),
    ("lock/mod.rs", "mod model; mod table; pub use model::Mode;"),
    ("lock/model/mod.rs", "mod mode; pub use mode::Mode;"),
    ("lock/model/mode.rs", "pub struct Mode; use std::collections::BTreeMap;"),
    ("lock/table/mod.rs", "pub struct Table(crate::lock::Mode);"),
    ("service.rs", "use crate::lock::table::Table; use tokio::sync::Notify;"),
];

const FLOORS: &Table = &[("lock", &[]), ("service", &["lock"])];
const ORDER: &Table = &[("lock", &["model", "table"])];

/// The graph of [`SOURCES`], with `changes` in the place of files of the same names.
fn graph(changes: &[(&str, &str)]) -> Graph {
    let mut sources: BTreeMap<String, String> = BTreeMap::new();
    for (name, text) in SOURCES.iter().chain(changes) {
        sources.insert((*name).to_owned(), (*text).to_owned());
    }
    Graph::of(sources)
}

#[test]
fn an_import_of_a_higher_floor_is_found() {
    assert!(floors(&graph(&[]), FLOORS).is_empty());
    let upward =
        graph(&[("lock/model/mode.rs", "pub struct Mode(super::super::super::service::S);")]);
    assert_eq!(
        floors(&upward, FLOORS),
        ["src/lock/model/mode.rs:1 imports service::S (service.rs): service is not below lock"]
    );
    let unknown: &Table = &[("lock", &["text"])];
    assert_eq!(floors(&graph(&[]), unknown), ["service is on no floor", "there is no room text"]);
}

#[test]
fn a_foreign_crate_is_found() {
    let foreign: &Table = &[("service", &["tokio"]), ("lock", &["tokio"])];
    assert_eq!(crates(&graph(&[]), foreign), ["src/service.rs:1 uses tokio::sync::Notify"]);
}

#[test]
fn an_import_of_a_later_sub_room_is_found() {
    assert!(sub_rooms(&graph(&[]), ORDER).is_empty());
    let upward = graph(&[("lock/model/mode.rs", "pub struct Mode(crate::lock::table::Table);")]);
    let found = "src/lock/model/mode.rs:1 imports lock::table::Table (lock/table/mod.rs): table \
                 comes after model";
    assert_eq!(sub_rooms(&upward, ORDER), [found]);
    // A re-exported name leads to its sub-room, but the definitions of the room's own file come
    // last.
    let own = graph(&[
        ("lock/mod.rs", "mod model; mod table; pub use model::Mode; pub fn f() {}"),
        ("lock/table/mod.rs", "use crate::lock::f; pub struct Table;"),
    ]);
    assert_eq!(sub_rooms(&own, ORDER).len(), 1);
}

#[test]
fn an_order_names_the_sub_rooms_that_there_are() {
    assert_eq!(
        sub_rooms(&graph(&[]), &[]),
        [
            "src/lock has sub-rooms (model) and no order of them",
            "src/lock has sub-rooms (table) and no order of them"
        ]
    );
    let other: &Table = &[("lock", &["model", "disk"])];
    assert_eq!(
        sub_rooms(&graph(&[]), other),
        [
            "src/lock/table has no place in the order of src/lock",
            "there is no sub-room src/lock/disk"
        ]
    );
}

#[test]
fn a_circle_over_two_sub_rooms_is_found() {
    assert!(all_circles(&graph(&[])).is_empty());
    let upward = graph(&[("lock/model/mode.rs", "pub struct Mode(crate::lock::table::Table);")]);
    let found = circles(&upward, ORDER);
    assert_eq!(
        found,
        [
            "circle of 2 files in 2 sub-rooms (at most 5 files in one): lock/model/mode.rs \
             lock/table/mod.rs",
            "  src/lock/model/mode.rs:1 imports lock::table::Table (lock/table/mod.rs)",
            "  src/lock/table/mod.rs:1 imports lock::Mode (lock/model/mode.rs)",
        ]
    );
    assert!(circles(&graph(&[]), ORDER).is_empty());
}

#[test]
fn a_circle_within_a_sub_room_is_found_when_it_is_large() {
    let ring = |size: usize| {
        let mut sources = BTreeMap::new();
        for file in 0..size {
            let next = (file + 1) % size;
            sources.insert(
                format!("a/f{file}.rs"),
                format!("use super::f{next}::F as G; pub struct F;"),
            );
        }
        let root: Vec<String> = (0..size).map(|file| format!("mod f{file};")).collect();
        sources.insert("a/mod.rs".to_owned(), root.concat());
        sources.insert("lib.rs".to_owned(), "mod a;".to_owned());
        Graph::of(sources)
    };
    assert_eq!(all_circles(&ring(CIRCLE))[0].len(), CIRCLE);
    assert!(circles(&ring(CIRCLE), &[]).is_empty());
    assert_eq!(circles(&ring(CIRCLE + 1), &[]).len(), 1 + CIRCLE + 1);
}

#[test]
fn impure_code_is_found() {
    let files = ["lock/model/", "lock/table/mod.rs"];
    assert!(pure(&graph(&[]), &files, &[], &[]).is_empty());
    let found = |text: &str| pure(&graph(&[("lock/model/mode.rs", text)]), &files, &[], &[]);
    let file = "src/lock/model/mode.rs:1 must be pure (no I/O, no clock, no async) but uses";
    assert_eq!(
        found("pub struct Mode; use std::{fs::read, time::Duration};"),
        [format!("{file} 'std::fs::read'")]
    );
    assert_eq!(
        found("pub struct Mode; use std::io; fn f() -> io::Error { io::copy(a, b) }"),
        [format!("{file} 'std::io::copy'")]
    );
    assert_eq!(found("pub struct Mode; async fn f() {}"), [format!("{file} 'async'")]);
    assert_eq!(found("pub struct Mode; #[cfg(test)] use std::fs;"), Vec::<String>::new());
    let imports = pure(&graph(&[]), &["lock/table/mod.rs", "lock/gone.rs"], &[], &[]);
    assert_eq!(
        imports,
        [
            "there is no lock/gone.rs: adapt PURE or IMPURE_FILES_TO_MOVE",
            "src/lock/table/mod.rs:1 imports lock::Mode (lock/model/mode.rs): the first must be \
             pure, the second is not"
        ]
    );
    let to_move = ["lock/model/mode.rs"];
    let impure = graph(&[("lock/model/mode.rs", "pub struct Mode; use std::fs;")]);
    assert_eq!(pure(&impure, &files, &to_move, &[]).len(), 2, "two imports of it");
    assert_eq!(pure(&impure, &["lock/model/"], &to_move, &[]).len(), 1, "one is left");
    assert_eq!(
        pure(&graph(&[]), &to_move, &to_move, &[]),
        ["lock/model/mode.rs is pure now: remove it from IMPURE_FILES_TO_MOVE"]
    );
}

#[test]
fn methods_in_another_place_are_found() {
    let own = graph(&[("lock/facade.rs", "pub struct Lock; impl Lock {}")]);
    assert!(methods(&own, &[("Lock", "lock/facade.rs")]).is_empty());
    let found = methods(&own, &[("Lock", "lock/table/")]);
    assert_eq!(found.len(), 2);
    assert!(found[0].starts_with("src/lock/facade.rs has methods of Lock"), "{found:?}");
}
