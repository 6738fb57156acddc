//! Tests of writing and reading the state file.

use super::format::{FILE, MAGIC, boot_id, head};
use super::image::SLACK;
use super::*;
use crate::lock::Mode;
use crate::lock::lockspace::LockspaceKind;
use crate::lock::model::extent::{Extent, Span};
use crate::lock::model::identity::Identity;
use crate::lock::model::lock::{Lock, Proof, Stage, Want};
use crate::lock::{Front, Owner, OwnerId};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use uuid::Uuid;

pub(super) fn lock(number: u64) -> StateEntry {
    let path = PathBuf::from(OsStr::from_bytes(b"/srv/\xff/a"));
    let lock = Lock {
        id: number,
        owner: OwnerId::new(0, Uuid::from_u128(5)),
        since: 17,
        stage: Stage::Held,
        proof: Proof::Unverified,
        want: Want {
            resource: format!("/srv/{number} \"quoted\"\n.img"),
            canonical: Some("/srv/real".into()),
            path: Some(path.clone()),
            identity: Identity::Inode { dev: 3, ino: number },
            below: vec![
                Extent::partial(Identity::Block { dev: 7, seq: 8 }),
                Extent::exact(Identity::Inode { dev: 3, ino: 0 }, Span::new(512, 9)),
            ],
            copies: vec!["/upper/\u{e9}".into(), path.clone()],
            lockspace: LockspaceKind::File,
            lock_files: vec![path],
            fleeting: true,
            mode: Mode::Exclusive,
            write_shown: true,
        },
    };
    let record = LockRecord::from(&lock);
    assert_eq!(record.clone().lock(Mode::Exclusive, Stage::Held), Some(lock));
    let record = Record::Lock(Box::new(record));
    StateEntry { stage: EntryStage::Granting, mode: Some(Mode::Exclusive), record }
}

pub(super) fn owner(number: u64) -> StateEntry {
    let id = OwnerId::new(1000, Uuid::from_u128(9));
    let owner = Owner::new(id, "web1".into(), Front::Dbus, 4);
    let record = Record::Owner(OwnerRecord::new(number, &owner, false));
    StateEntry { stage: EntryStage::Held, mode: None, record }
}

fn create(dir: &Path, entries: &[StateEntry]) -> StateFile {
    StateFile::create(dir, entries, HighestNumbers::default()).unwrap()
}

fn numbers(contents: &Contents) -> Vec<u64> {
    let number = |entry: &StateEntry| match &entry.record {
        Record::Lock(lock) => lock.number(),
        Record::Owner(owner) => owner.number(),
        _ => 0,
    };
    contents.entries.iter().map(number).collect()
}

#[test]
fn appended_entries_are_read() {
    let dir = tempfile::tempdir().unwrap();
    assert!(read(dir.path()).unwrap().missing);
    let state = create(dir.path(), &[owner(1)]);
    state.append(&[lock(7), lock(8)]).unwrap();
    state.append(&[lock(9)]).unwrap();
    state.set_stage([RecordId::Lock(7), RecordId::Lock(9)], EntryStage::Held).unwrap();
    state.set_stage([RecordId::Lock(8)], EntryStage::Removed).unwrap();
    state.set_mode(RecordId::Lock(9), Mode::Shared).unwrap();
    let contents = read(dir.path()).unwrap();
    assert_eq!((contents.damaged, contents.missing), (0, false));
    assert_eq!(contents.highest, HighestNumbers { lock: 9, anchor: 1 });
    let held =
        |entry: StateEntry, mode| StateEntry { stage: EntryStage::Held, mode: Some(mode), ..entry };
    let expected = vec![owner(1), held(lock(7), Mode::Exclusive), held(lock(9), Mode::Shared)];
    assert_eq!(contents.entries, expected);
    // Setting the stage of a removed entry has no effect.
    state.set_stage([RecordId::Lock(8)], EntryStage::Held).unwrap();
    assert_eq!(numbers(&read(dir.path()).unwrap()), [1, 7, 9]);
}

#[test]
fn removed_entries_are_cleared_out_and_their_numbers_stay_used() {
    let dir = tempfile::tempdir().unwrap();
    let state = create(dir.path(), &[owner(1), lock(3)]);
    let size = || fs::metadata(dir.path().join(FILE)).unwrap().len();
    for number in 4..4_000 {
        state.append(&[lock(number)]).unwrap();
        state.set_stage([RecordId::Lock(number)], EntryStage::Removed).unwrap();
        assert!(size() < SLACK + 8_192, "{} at {number}", size());
    }
    state.set_stage([RecordId::Lock(3)], EntryStage::Releasing).unwrap();
    let contents = read(dir.path()).unwrap();
    assert_eq!(numbers(&contents), [1, 3]);
    assert_eq!(contents.entries[1].stage, EntryStage::Releasing);
    assert_eq!(contents.highest.lock, 3_999);
    assert_eq!(contents.damaged, 0);
}

#[test]
fn damage_to_any_byte_of_an_entry_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    drop(create(dir.path(), &[owner(1), lock(2), lock(3)]));
    let whole = fs::read(&path).unwrap();
    let head = head(&boot_id().unwrap(), 0).len();
    for at in head..whole.len() {
        let mut bytes = whole.clone();
        // A line feed within an entry makes two damaged ones; without its line feed, an entry is
        // joined with the next.
        bytes[at] ^= 0x20;
        fs::write(&path, &bytes).unwrap();
        let contents = read(dir.path()).unwrap();
        assert!(contents.damaged > 0, "byte {at}, {:?}", char::from(whole[at]));
    }
}

#[test]
fn a_file_that_ends_too_early_is_damaged_wherever_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    drop(create(dir.path(), &[owner(1), lock(2), lock(3)]));
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let contents = read(dir.path()).unwrap();
        assert!(contents.damaged > 0, "{length} bytes");
    }
}

#[test]
fn an_entry_that_was_being_written_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    drop(create(dir.path(), &[owner(1)]));
    let mut bytes = fs::read(&path).unwrap();
    let line = lock(2).encode().unwrap();
    for length in 0..line.len() {
        let mut torn = bytes.clone();
        torn.extend(&line[..length]);
        fs::write(&path, &torn).unwrap();
        let contents = read(dir.path()).unwrap();
        assert_eq!((contents.damaged, numbers(&contents)), (0, vec![1]), "{length} bytes");
    }
    bytes.extend(line);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(numbers(&read(dir.path()).unwrap()), [1, 2]);
}

#[test]
fn an_unsupported_version_is_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    for version in ["0", "1", "2", "8", "99"] {
        let text = format!("{MAGIC} {version} in a way that nobody knows yet\n\u{1}\u{2}");
        fs::write(&path, &text).unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("has version {version}")), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn older_versions_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    drop(create(dir.path(), &[owner(1), lock(2)]));
    let text = fs::read(&path).unwrap();
    let ours = format!("{MAGIC} {VERSION} ");
    let rest = text.strip_prefix(ours.as_bytes()).unwrap();
    fs::write(&path, [format!("{MAGIC} {OLDEST} ").as_bytes(), rest].concat()).unwrap();
    let contents = read(dir.path()).unwrap();
    assert_eq!((contents.damaged, numbers(&contents)), (0, vec![1, 2]));
    // Version 3 does not have what a disk lies on.
    let Record::Lock(record) = &contents.entries[1].record else { panic!("no lock") };
    let mut old = serde_json::to_value(record).unwrap();
    old.as_object_mut().unwrap().remove("occupies").unwrap();
    let old: LockRecord = serde_json::from_value(old).unwrap();
    let old = old.lock(Mode::Exclusive, Stage::Held).unwrap();
    assert_eq!((old.id, old.want.below), (2, Vec::new()));
    // Versions 4 and 5 do not have which part of that the disk occupies.
    let mut old = serde_json::to_value(record).unwrap();
    let members = old.as_object_mut().unwrap();
    members.remove("occupies").unwrap();
    members.insert("below".to_owned(), serde_json::json!([{"inode": {"dev": 3, "ino": 0}}]));
    let old: LockRecord = serde_json::from_value(old).unwrap();
    let old = old.lock(Mode::Exclusive, Stage::Held).unwrap();
    assert_eq!(old.want.below, [Extent::partial(Identity::Inode { dev: 3, ino: 0 })]);
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
    let path = dir.path().join(FILE);
    drop(create(dir.path(), &[owner(1), lock(2)]));
    let bytes = fs::read(&path).unwrap();
    let here = head(&boot_id().unwrap(), bytes.len() as u64);
    let rest = bytes.strip_prefix(here.as_bytes()).unwrap();
    let with = |head: &str| {
        fs::write(&path, [head.as_bytes(), rest].concat()).unwrap();
        let contents = read(dir.path()).unwrap();
        (contents.entries.len(), contents.damaged, contents.outlived)
    };
    assert_eq!(with(&here), (2, 0, false));
    assert_eq!(with(&head(OTHER, bytes.len() as u64)), (2, 0, true));
    assert_eq!(with(&here.replace(&boot_id().unwrap(), OTHER)), (2, 1, false));
}

/// Entries of all kinds, as earlier programs wrote them.
const ENTRIES: &str = include_str!("tests/entries.txt");

#[test]
fn the_encoding_of_entries_does_not_change() {
    for line in ENTRIES.lines() {
        let entry = StateEntry::decode(line.as_bytes()).unwrap_or_else(|| panic!("{line}"));
        assert_eq!(entry.encode().unwrap(), format!("{line}\n").into_bytes());
    }
    assert_eq!(ENTRIES.lines().count(), 24);
}
