//! Tests of reading state files of versions 3 to 7.

use super::super::contents::boot_id;
use super::super::entry::StateEntry;
use super::super::reader::FILE;
use super::super::record::{HighestNumbers, LockRecord, OwnerRecord, Record};
use super::super::tests::{lock, numbers, owner};
use super::super::{Contents, StateFile, VERSION, read};
use super::format::{MAGIC, NEWEST, OLDEST, checksum, decode, mode_byte, stage_byte};
use crate::lock::model::extent::Extent;
use crate::lock::model::identity::Identity;
use crate::lock::model::lock::Stage;
use crate::lock::{Front, Mode, Owner, OwnerId};
use std::fs;
use std::path::Path;
use uuid::Uuid;

/// Returns the line of an entry, as earlier programs wrote it.
fn encode(entry: &StateEntry) -> Vec<u8> {
    let record = serde_json::to_vec(&entry.record).unwrap();
    let mut bytes = vec![stage_byte(entry.stage), mode_byte(entry.mode), b' '];
    bytes.extend(checksum(&record));
    bytes.push(b' ');
    bytes.extend(record);
    bytes.push(b'\n');
    bytes
}

fn head(version: u64, boot: &str, length: usize) -> String {
    let sum = checksum(boot.as_bytes());
    format!("{MAGIC} {version} {boot} {} {length:016}\n", sum.escape_ascii())
}

/// Returns a state file of an earlier version.
pub(in crate::keep::state_file) fn file(version: u64, entries: &[StateEntry]) -> Vec<u8> {
    let boot = boot_id().unwrap();
    let lines: Vec<u8> = entries.iter().flat_map(encode).collect();
    let length = head(version, &boot, 0).len() + lines.len();
    [head(version, &boot, length).as_bytes(), &lines].concat()
}

fn read_bytes(directory: &Path, bytes: &[u8]) -> Contents {
    fs::write(directory.join(FILE), bytes).unwrap();
    read(directory).unwrap()
}

fn length_of_head() -> usize {
    head(NEWEST, &boot_id().unwrap(), 0).len()
}

#[test]
fn every_older_version_is_read_once_and_rewritten() {
    let entries = [owner(1), lock(2), lock(3)];
    for version in OLDEST..=NEWEST {
        let dir = tempfile::tempdir().unwrap();
        let contents = read_bytes(dir.path(), &file(version, &entries));
        assert_eq!((contents.version, contents.damaged()), (Some(version), 0));
        assert_eq!(contents.entries, entries);
        drop(StateFile::create(dir.path(), &contents.entries, contents.highest).unwrap());
        let rewritten = read(dir.path()).unwrap();
        assert_eq!((rewritten.version, rewritten.damaged()), (Some(VERSION), 0));
        assert_eq!(rewritten.entries, entries);
        assert_eq!(rewritten.highest, contents.highest);
    }
}

#[test]
fn damage_to_any_byte_of_a_line_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let whole = file(NEWEST, &[owner(1), lock(2), lock(3)]);
    for at in length_of_head()..whole.len() {
        let mut bytes = whole.clone();
        // A line feed within an entry makes two damaged ones; without its line feed, an entry is
        // joined with the next.
        bytes[at] ^= 0x20;
        let contents = read_bytes(dir.path(), &bytes);
        assert!(contents.damaged() > 0, "byte {at}, {:?}", char::from(whole[at]));
    }
}

#[test]
fn a_file_that_ends_too_early_is_damaged_wherever_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let whole = file(NEWEST, &[owner(1), lock(2), lock(3)]);
    for length in 0..whole.len() {
        let contents = read_bytes(dir.path(), &whole[..length]);
        assert!(contents.damaged() > 0, "{length} bytes");
    }
}

#[test]
fn an_entry_that_was_being_written_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = file(NEWEST, &[owner(1)]);
    let line = encode(&lock(2));
    for length in 0..line.len() {
        let torn = [&bytes, &line[..length]].concat();
        let contents = read_bytes(dir.path(), &torn);
        assert_eq!((contents.damaged(), numbers(&contents)), (0, vec![1]), "{length} bytes");
    }
    bytes.extend(line);
    assert_eq!(numbers(&read_bytes(dir.path(), &bytes)), [1, 2]);
}

#[test]
fn fields_that_older_versions_lack_may_be_missing() {
    let Record::Lock(record) = lock(2).record else { panic!("no lock") };
    let line = |record: serde_json::Value| {
        let record = serde_json::json!({ "lock": record }).to_string();
        let sum = checksum(record.as_bytes());
        format!("hx {} {record}", sum.escape_ascii())
    };
    let below = |record: serde_json::Value| {
        let entry = decode(line(record).as_bytes()).unwrap();
        let Record::Lock(record) = entry.record else { panic!("no lock") };
        // The present version keeps it.
        let dir = tempfile::tempdir().unwrap();
        let entry = StateEntry { record: Record::Lock(record.clone()), ..entry };
        drop(StateFile::create(dir.path(), &[entry], HighestNumbers::default()).unwrap());
        let rewritten = read(dir.path()).unwrap().entries.remove(0).record;
        assert_eq!(rewritten, Record::Lock(record.clone()));
        LockRecord::lock(*record, Mode::Exclusive, Stage::Held).unwrap().want.below
    };
    // Version 3 does not have what a disk lies on.
    let mut old = serde_json::to_value(&record).unwrap();
    old.as_object_mut().unwrap().remove("occupies").unwrap();
    assert_eq!(below(old.clone()), []);
    // Versions 4 and 5 do not have which part of that the disk occupies.
    let lower = serde_json::json!([{"inode": {"dev": 3, "ino": 0}}]);
    old.as_object_mut().unwrap().insert("below".to_owned(), lower);
    assert_eq!(below(old), [Extent::partial(Identity::Inode { dev: 3, ino: 0 })]);
}

#[test]
fn the_purpose_of_locks_is_read_and_may_be_missing() {
    let (id, name) = (OwnerId::new(1000, Uuid::from_u128(1)), "web1".to_owned());
    let why = "nightly backup".to_owned();
    let owner = Owner { why, ..Owner::new(id, name, Front::Dbus, 5) };
    let written = serde_json::to_value(OwnerRecord::new(1, &owner, false)).unwrap();
    let read = |value| serde_json::from_value::<OwnerRecord>(value).unwrap().owner().unwrap();
    assert_eq!(read(written.clone()).why, owner.why);
    // Version 6 did not have it.
    let mut old = written;
    old.as_object_mut().unwrap().remove("why").unwrap();
    assert_eq!(read(old).why, "");
}

#[test]
fn another_boot_is_distinguished_from_damage() {
    const OTHER: &str = "00000000-0000-4000-8000-000000000000";
    let dir = tempfile::tempdir().unwrap();
    let bytes = file(NEWEST, &[owner(1), lock(2)]);
    let (boot, rest) = (boot_id().unwrap(), &bytes[length_of_head()..]);
    let here = head(NEWEST, &boot, bytes.len());
    let with = |head: &str| {
        let contents = read_bytes(dir.path(), &[head.as_bytes(), rest].concat());
        (contents.entries.len(), contents.damaged(), contents.outlived)
    };
    assert_eq!(with(&here), (2, 0, false));
    assert_eq!(with(&head(NEWEST, OTHER, bytes.len())), (2, 0, true));
    assert_eq!(with(&here.replace(&boot, OTHER)), (2, 1, false));
}

#[test]
fn a_damaged_version_does_not_hide_the_lines() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = file(NEWEST, &[owner(1), lock(2)]);
    for version in [b'x', b' ', b'8'] {
        bytes[MAGIC.len() + 1] = version;
        assert_eq!(numbers(&read_bytes(dir.path(), &bytes)), [1, 2], "{}", char::from(version));
    }
}

/// Entries of all kinds, as earlier programs wrote them.
const ENTRIES: &str = include_str!("tests/entries.txt");

#[test]
fn entries_of_earlier_programs_are_read() {
    let dir = tempfile::tempdir().unwrap();
    for line in ENTRIES.lines() {
        let entry = decode(line.as_bytes()).unwrap_or_else(|| panic!("{line}"));
        assert_eq!(encode(&entry), format!("{line}\n").into_bytes());
        // The present version has all of it.
        let highest = HighestNumbers::default();
        drop(StateFile::create(dir.path(), std::slice::from_ref(&entry), highest).unwrap());
        let contents = read(dir.path()).unwrap();
        assert_eq!(contents.damaged(), 0);
        let is_listed = entry.record.id().is_some() && line.as_bytes()[0] != b'-';
        let expected = if is_listed { vec![entry] } else { Vec::new() };
        assert_eq!(contents.entries, expected, "{line}");
    }
    assert_eq!(ENTRIES.lines().count(), 24);
}
