use super::*;
use crate::keep::contents::{Contents, read};
use crate::keep::record::{LockRecord, OwnerRecord};
use crate::lock::lockspace::LockspaceKind;
use crate::lock::model::extent::{Extent, Span};
use crate::lock::model::identity::Identity;
use crate::lock::model::lock::{Lock, Proof, Stage, Want};
use crate::lock::{Front, Owner, OwnerId};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use uuid::Uuid;

pub(super) fn lock(number: u64) -> (Name, Line) {
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
    (Name::Lock(number), Line { step: Step::Granting, mode: Some(Mode::Exclusive), record })
}

pub(super) fn owner(number: u64) -> (Name, Line) {
    let id = OwnerId::new(1000, Uuid::from_u128(9));
    let owner = Owner::new(id, "web1".into(), Front::Dbus, 4);
    let record = Record::Owner(OwnerRecord::new(number, &owner, false));
    (Name::Owner(number), Line { step: Step::Held, mode: None, record })
}

fn begin(dir: &Path, lines: &[(Name, Line)]) -> State {
    State::begin(dir, lines, Counted::default()).unwrap()
}

fn numbers(contents: &Contents) -> Vec<u64> {
    let number = |line: &Line| match &line.record {
        Record::Lock(lock) => lock.number(),
        Record::Owner(owner) => owner.number(),
        _ => 0,
    };
    contents.lines.iter().map(number).collect()
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    assert!(read(dir.path()).unwrap().missing);
    let state = begin(dir.path(), &[owner(1)]);
    state.put(&[lock(7), lock(8)]).unwrap();
    state.put(&[lock(9)]).unwrap();
    state.mark([Name::Lock(7), Name::Lock(9)], Step::Held).unwrap();
    state.mark([Name::Lock(8)], Step::Gone).unwrap();
    state.set_mode(Name::Lock(9), Mode::Shared).unwrap();
    let contents = read(dir.path()).unwrap();
    assert_eq!((contents.damaged, contents.missing), (0, false));
    assert_eq!(contents.counted, Counted { lock: 9, anchor: 1 });
    let held = |(_, line): (Name, Line), mode| Line { step: Step::Held, mode: Some(mode), ..line };
    let expected = vec![owner(1).1, held(lock(7), Mode::Exclusive), held(lock(9), Mode::Shared)];
    assert_eq!(contents.lines, expected);
    // What is gone can't be marked, and does no harm.
    state.mark([Name::Lock(8)], Step::Held).unwrap();
    assert_eq!(numbers(&read(dir.path()).unwrap()), [1, 7, 9]);
}

#[test]
fn what_is_gone_is_cleared_out_and_its_number_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let state = begin(dir.path(), &[owner(1), lock(3)]);
    let size = || fs::metadata(dir.path().join(FILE)).unwrap().len();
    for number in 4..4_000 {
        state.put(&[lock(number)]).unwrap();
        state.mark([Name::Lock(number)], Step::Gone).unwrap();
        assert!(size() < SLACK + 8_192, "{} at {number}", size());
    }
    state.mark([Name::Lock(3)], Step::Releasing).unwrap();
    let contents = read(dir.path()).unwrap();
    assert_eq!(numbers(&contents), [1, 3]);
    assert_eq!(contents.lines[1].step, Step::Releasing);
    assert_eq!(contents.counted.lock, 3_999);
    assert_eq!(contents.damaged, 0);
}

#[test]
fn any_damaged_byte_of_a_record_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    drop(begin(dir.path(), &[owner(1), lock(2), lock(3)]));
    let whole = fs::read(&path).unwrap();
    let head = head(&boot().unwrap(), 0).len();
    for at in head..whole.len() {
        let mut bytes = whole.clone();
        // A line break in a line makes two damaged ones, and a line without an end takes the next.
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
    drop(begin(dir.path(), &[owner(1), lock(2), lock(3)]));
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let contents = read(dir.path()).unwrap();
        assert!(contents.damaged > 0, "{length} bytes");
    }
}

#[test]
fn what_was_being_written_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    drop(begin(dir.path(), &[owner(1)]));
    let mut bytes = fs::read(&path).unwrap();
    let line = lock(2).1.write().unwrap();
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
fn another_version_is_left_alone() {
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
fn the_version_before_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    drop(begin(dir.path(), &[owner(1), lock(2)]));
    let text = fs::read(&path).unwrap();
    let ours = format!("{MAGIC} {VERSION} ");
    let rest = text.strip_prefix(ours.as_bytes()).unwrap();
    fs::write(&path, [format!("{MAGIC} {OLDEST} ").as_bytes(), rest].concat()).unwrap();
    let contents = read(dir.path()).unwrap();
    assert_eq!((contents.damaged, numbers(&contents)), (0, vec![1, 2]));
    // What was written then had no word of what a disk lies on.
    let Record::Lock(record) = &contents.lines[1].record else { panic!("no lock") };
    let mut old = serde_json::to_value(record).unwrap();
    old.as_object_mut().unwrap().remove("occupies").unwrap();
    let old: LockRecord = serde_json::from_value(old).unwrap();
    let old = old.lock(Mode::Exclusive, Stage::Held).unwrap();
    assert_eq!((old.id, old.want.below), (2, Vec::new()));
    // Later it had no word of which part of that.
    let mut old = serde_json::to_value(record).unwrap();
    let members = old.as_object_mut().unwrap();
    members.remove("occupies").unwrap();
    members.insert("below".to_owned(), serde_json::json!([{"inode": {"dev": 3, "ino": 0}}]));
    let old: LockRecord = serde_json::from_value(old).unwrap();
    let old = old.lock(Mode::Exclusive, Stage::Held).unwrap();
    assert_eq!(old.want.below, [Extent::partial(Identity::Inode { dev: 3, ino: 0 })]);
}

#[test]
fn what_locks_are_for_is_read_and_may_be_missing() {
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
fn another_boot_is_told_from_damage() {
    const OTHER: &str = "00000000-0000-4000-8000-000000000000";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    drop(begin(dir.path(), &[owner(1), lock(2)]));
    let bytes = fs::read(&path).unwrap();
    let here = head(&boot().unwrap(), bytes.len() as u64);
    let rest = bytes.strip_prefix(here.as_bytes()).unwrap();
    let with = |head: &str| {
        fs::write(&path, [head.as_bytes(), rest].concat()).unwrap();
        let contents = read(dir.path()).unwrap();
        (contents.lines.len(), contents.damaged, contents.outlived)
    };
    assert_eq!(with(&here), (2, 0, false));
    assert_eq!(with(&head(OTHER, bytes.len() as u64)), (2, 0, true));
    assert_eq!(with(&here.replace(&boot().unwrap(), OTHER)), (2, 1, false));
}
