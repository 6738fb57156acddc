//! The message catalog explains every kind of event, with fields that each of its messages has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use vmlockd::catalog::LogEvent;

use crate::sources::{root, sources};

fn file() -> PathBuf {
    root().join("systemd/vmlockd.catalog")
}

/// An entry of the catalog: its header fields, and its text.
type Entry = (BTreeMap<String, String>, String);

/// The entries of the catalog by id.
fn entries() -> BTreeMap<String, Entry> {
    let text = fs::read_to_string(file()).unwrap();
    let entry = |entry: &str| {
        let (id, rest) = entry.split_once('\n').unwrap();
        let (header, body) = rest.split_once("\n\n").unwrap();
        let header = header.lines().map(|line| {
            let (key, value) = line.split_once(": ").unwrap();
            (key.to_owned(), value.to_owned())
        });
        (id.to_owned(), (header.collect(), body.to_owned()))
    };
    text.split("\n-- ").skip(1).map(entry).collect()
}

/// The texts of the sources, without their tests.
fn texts() -> Vec<String> {
    let text = |path| fs::read_to_string(path).unwrap();
    let sources = sources(&root().join("src")).into_iter().map(text);
    sources.map(|text| text.split("#[cfg(test)]").next().unwrap().to_owned()).collect()
}

/// The names in the journal of the fields that every message of a kind has.
fn fields(kind: LogEvent, sources: &[String]) -> BTreeSet<String> {
    let begin = format!("event = LogEvent::{kind:?}.as_str(),\n");
    let calls = sources.iter().flat_map(|text| text.split(begin.as_str()).skip(1));
    let of_call = |call: &str| {
        let fields = call.lines().map(str::trim).take_while(|line| !line.starts_with('"'));
        let named = fields.map(|line| {
            let name = line.split(" =").next().unwrap().trim_end_matches(',');
            let name = name.strip_suffix(".each").unwrap_or(name);
            format!("VMLOCKD_{}", name.to_ascii_uppercase().replace('.', "_"))
        });
        named.collect::<BTreeSet<_>>()
    };
    let common = calls.map(of_call).reduce(|all, of_this| &all & &of_this);
    common.unwrap_or_else(|| panic!("{kind:?} is not logged"))
}

/// The names between two `@` in a text.
fn placeholders(text: &str) -> Vec<&str> {
    let parts: Vec<_> = text.split('@').collect();
    assert!(parts.len() % 2 == 1, "an @ without its pair: {text}");
    parts.into_iter().skip(1).step_by(2).collect()
}

#[test]
fn the_catalog_has_every_kind_and_nothing_else() {
    let ids: BTreeSet<String> = entries().into_keys().collect();
    assert_eq!(ids, LogEvent::ALL.map(|kind| kind.message_id().to_owned()).into());
}

#[test]
fn an_entry_names_only_fields_that_each_message_of_its_kind_has() {
    let (entries, sources) = (entries(), texts());
    for kind in LogEvent::ALL {
        let (header, body) = &entries[kind.message_id()];
        assert_eq!(header["Defined-By"], "vmlockd");
        assert!(header["Documentation"].starts_with("man:vmlockd(8)"), "{header:?}");
        let fields = fields(kind, &sources);
        for text in [&header["Subject"], body] {
            for name in placeholders(text) {
                assert!(fields.contains(name), "{kind:?}: @{name}@ is not one of {fields:?}");
            }
        }
    }
    // A denied client of virtlockd's socket has no bus name, and no resource.
    assert!(!fields(LogEvent::Denied, &sources).contains("VMLOCKD_RESOURCE"));
}

#[test]
fn journalctl_reads_the_catalog() {
    let journalctl = |root: &Path, words: &[&str]| {
        let mut command = Command::new("journalctl");
        command.arg(format!("--root={}", root.display())).args(words).output()
    };
    let dir = tempfile::tempdir().unwrap();
    let catalogs = dir.path().join("usr/lib/systemd/catalog");
    fs::create_dir_all(&catalogs).unwrap();
    fs::create_dir_all(dir.path().join("var/lib/systemd/catalog")).unwrap();
    fs::copy(file(), catalogs.join("vmlockd.catalog")).unwrap();
    let Ok(updated) = journalctl(dir.path(), &["--update-catalog"]) else {
        return; // this host has no systemd
    };
    let said = String::from_utf8_lossy(&updated.stderr).into_owned();
    assert!(updated.status.success() && said.is_empty(), "{said}");
    let listed = journalctl(dir.path(), &["--list-catalog"]).unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for kind in LogEvent::ALL {
        let subject = &entries()[kind.message_id()].0["Subject"];
        let line = format!("{} vmlockd: {subject}", kind.message_id());
        assert!(listed.lines().any(|listed| listed == line), "no {line} in {listed}");
    }
    let dumped = journalctl(dir.path(), &["--dump-catalog", LogEvent::Lost.message_id()]).unwrap();
    let dumped = String::from_utf8(dumped.stdout).unwrap();
    assert!(dumped.contains("Another host may be able to lock the disk."), "{dumped}");
}
