//! Tests of writing and reading the state file.

use super::contents::boot_id;
use super::json::format::MAGIC;
use super::layout::{BEGIN, SLOT, STATUS, line};
use super::reader::FILE;
use super::slot_file::SLACK;
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

mod crashes;
mod round_trip;

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

pub(super) fn create(dir: &Path, entries: &[StateEntry]) -> StateFile {
    StateFile::create(dir, entries, HighestNumbers::default()).unwrap()
}

pub(super) fn numbers(contents: &Contents) -> Vec<u64> {
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
    assert_eq!((contents.damaged(), contents.missing), (0, false));
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
fn removed_entries_are_reused_and_their_numbers_stay_used() {
    let dir = tempfile::tempdir().unwrap();
    let state = create(dir.path(), &[owner(1), lock(3)]);
    let size = || fs::metadata(dir.path().join(FILE)).unwrap().len();
    for number in 4..4_000 {
        state.append(&[lock(number)]).unwrap();
        state.set_stage([RecordId::Lock(number)], EntryStage::Removed).unwrap();
        assert_eq!(size(), 64 * 1024, "at {number}");
    }
    state.set_stage([RecordId::Lock(3)], EntryStage::Releasing).unwrap();
    let contents = read(dir.path()).unwrap();
    assert_eq!(numbers(&contents), [1, 3]);
    assert_eq!(contents.entries[1].stage, EntryStage::Releasing);
    assert_eq!((contents.highest.lock, contents.damaged()), (3_999, 0));
}

#[test]
fn a_file_that_is_mostly_free_is_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let state = create(dir.path(), &[owner(1), lock(3)]);
    let size = || fs::metadata(dir.path().join(FILE)).unwrap().len();
    let entries: Vec<StateEntry> = (4..4_000).map(lock).collect();
    state.append(&entries).unwrap();
    assert!(size() > 4 * u64::from(SLACK) * SLOT as u64);
    assert_eq!(read(dir.path()).unwrap().entries.len(), 3_998);
    state.set_stage((4..4_000).map(RecordId::Lock), EntryStage::Removed).unwrap();
    assert!(size() <= 2 * 64 * 1024, "{}", size());
    state.append(&[lock(4_000)]).unwrap();
    let contents = read(dir.path()).unwrap();
    assert_eq!((numbers(&contents), contents.damaged()), (vec![1, 3, 4_000], 0));
    assert_eq!(contents.highest.lock, 4_000);
}

/// Creates a state file of three entries in an empty directory; returns its bytes, and the end of
/// the slots in use.
fn three_entries(directory: &Path) -> (Vec<u8>, usize) {
    drop(create(directory, &[owner(1), lock(2), lock(3)]));
    let whole = fs::read(directory.join(FILE)).unwrap();
    let end = whole.chunks(SLOT).rposition(|slot| slot.iter().any(|byte| *byte != 0)).unwrap() + 1;
    (whole, end * SLOT)
}

#[test]
fn damage_to_any_byte_of_an_entry_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let (whole, end) = three_entries(dir.path());
    for at in BEGIN as usize * SLOT..end {
        for damage in [0x01, 0x20, 0x80, 0xff, whole[at]] {
            let mut bytes = whole.clone();
            bytes[at] ^= damage;
            if bytes == whole {
                continue;
            }
            fs::write(&path, &bytes).unwrap();
            let contents = read(dir.path()).unwrap();
            assert!(contents.damaged() > 0, "byte {at}, {damage:#x}");
            // Only the entry itself is affected.
            assert_eq!(contents.entries.len(), 2, "byte {at}, {damage:#x}");
            assert_eq!(contents.highest, HighestNumbers { lock: 3, anchor: 1 });
        }
    }
}

#[test]
fn damage_to_any_byte_of_the_head_costs_no_entry() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let (whole, _) = three_entries(dir.path());
    let version = MAGIC.len() + 1;
    for at in (0..BEGIN as usize * SLOT).filter(|at| *at != version) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let contents = read(dir.path()).unwrap();
        assert_eq!(numbers(&contents), [1, 2, 3], "byte {at}");
        let is_line = at < line(&boot_id().unwrap(), 0).len();
        assert_eq!(contents.damaged() > 0, is_line, "byte {at}");
        assert_eq!(contents.highest, HighestNumbers { lock: 3, anchor: 1 });
    }
    // Without the whole head, all entries are committed, and numbers are skipped.
    for length in [STATUS[0], STATUS[1], BEGIN as usize * SLOT] {
        let mut bytes = whole.clone();
        bytes[..length].fill(0);
        fs::write(&path, &bytes).unwrap();
        let contents = read(dir.path()).unwrap();
        assert_eq!((numbers(&contents), contents.damaged()), (vec![1, 2, 3], 1));
        assert_eq!(contents.highest.lock > 3, length > STATUS[1]);
    }
}

#[test]
fn a_file_that_ends_too_early_is_damaged_wherever_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let (whole, end) = three_entries(dir.path());
    for length in (0..end).chain([end, whole.len() - 1]) {
        fs::write(&path, &whole[..length]).unwrap();
        let contents = read(dir.path()).unwrap();
        // Slots that were never used may be missing.
        assert_eq!(contents.damaged() > 0, length < end, "{length} bytes");
    }
}

#[test]
fn an_unsupported_version_is_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    for version in ["0", "1", "2", "9", "99"] {
        let text = format!("{MAGIC} {version} in a way that nobody knows yet\n\u{1}\u{2}");
        fs::write(&path, &text).unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("has version {version}")), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

/// An older program reads the first line, which must have at least three words of UTF-8.
#[test]
fn an_older_program_finds_the_version() {
    let dir = tempfile::tempdir().unwrap();
    drop(create(dir.path(), &[owner(1)]));
    let bytes = fs::read(dir.path().join(FILE)).unwrap();
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
    let words: Vec<&str> = str::from_utf8(&bytes[..end]).unwrap().split_whitespace().collect();
    assert_eq!(words[..3], [MAGIC, &VERSION.to_string(), &boot_id().unwrap()]);
}

#[test]
fn another_boot_is_distinguished_from_damage() {
    const OTHER: &str = "00000000-0000-4000-8000-000000000000";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let (whole, _) = three_entries(dir.path());
    let (boot, end) = (boot_id().unwrap(), line(OTHER, 0).len());
    let here = str::from_utf8(&whole[..end]).unwrap();
    let salt = here.split(' ').nth(3).unwrap();
    let salt = u32::from_str_radix(salt, 16).unwrap();
    assert_eq!(here, line(&boot, salt));
    let with = |head: &str| {
        fs::write(&path, [head.as_bytes(), &whole[end..]].concat()).unwrap();
        let contents = read(dir.path()).unwrap();
        (contents.entries.len(), contents.damaged(), contents.outlived)
    };
    assert_eq!(with(here), (3, 0, false));
    assert_eq!(with(&line(OTHER, salt)), (3, 0, true));
    assert_eq!(with(&here.replace(&boot, OTHER)), (3, 1, false));
}

#[test]
fn the_dump_has_each_entry_and_each_damaged_part() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let (mut bytes, end) = three_entries(dir.path());
    let dump = || {
        let mut out = Vec::new();
        dump::write(dir.path(), &mut out).unwrap();
        let lines = String::from_utf8(out).unwrap();
        let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        lines.lines().map(parse).collect::<Vec<_>>()
    };
    let [file, owner, lock, _] = &dump()[..] else { panic!("{:?}", dump()) };
    assert_eq!((&file["kind"], &file["version"]), (&"file".into(), &VERSION.into()));
    assert_eq!((&owner["kind"], &owner["name"]), (&"owner".into(), &"web1".into()));
    assert_eq!((&lock["kind"], &lock["stage"]), (&"lock".into(), &"granting".into()));
    assert_eq!((&lock["mode"], &lock["number"]), (&"exclusive".into(), &2.into()));
    assert_eq!(lock["identity"]["inode"]["ino"], 2);
    bytes[end - 1] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let [.., damaged] = &dump()[..] else { panic!("nothing") };
    assert_eq!((&damaged["kind"], dump().len()), (&"damaged".into(), 4));
    assert_eq!(fs::read(&path).unwrap(), bytes);
}
