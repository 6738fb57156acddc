//! Tests of recovering names from damaged slots.

use super::super::layout::{BEGIN, FIRST, SLOT, STAGE};
use super::super::reader::FILE;
use super::super::tests::create;
use super::super::{Contents, EntryStage, LockRecord, SuspectName, read};
use super::*;
use crate::lock::lockspace::key::digest_of;
use crate::lock::model::lock::{Lock, Proof, Stage, Want};
use crate::lock::{Mode, OwnerId};
use std::fs;
use std::ops::Range;
use uuid::Uuid;

fn want(path: &str, mode: Mode) -> Want {
    Want {
        resource: path.into(),
        canonical: Some(path.into()),
        path: Some(path.into()),
        identity: Identity::Inode { dev: 1, ino: 2 },
        below: vec![Extent::partial(Identity::Block { dev: 3, seq: 0 })],
        copies: vec!["/upper".into()],
        lockspace: LockspaceKind::Direct,
        lock_files: vec![path.into()],
        fleeting: false,
        mode,
        write_shown: true,
    }
}

fn lease() -> Want {
    let (dev, ino, key) = (1, 2, digest_of("50%"));
    Want {
        resource: "lease:/srv/leases/50%25".into(),
        canonical: None,
        path: None,
        identity: Identity::Key { dev, ino, key },
        lockspace: LockspaceKind::Lease(1),
        lock_files: vec!["/srv/leases/50%".into()],
        ..want("", Mode::Exclusive)
    }
}

fn entry(number: u64, want: Want, stage: EntryStage) -> StateEntry {
    let (owner, mode) = (OwnerId::new(0, Uuid::from_u128(5)), want.mode);
    let (since, proof) = (17, Proof::Unverified);
    let lock = Lock { id: number, owner, since, stage: Stage::Held, proof, want };
    let record = Record::Lock(Box::new(LockRecord::from(&lock)));
    StateEntry { stage, mode: Some(mode), record }
}

/// A state file, and where its entries are.
struct File {
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
    entries: Vec<Range<usize>>,
}

impl File {
    fn with(entries: &[StateEntry]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        drop(create(dir.path(), entries));
        let bytes = fs::read(dir.path().join(FILE)).unwrap();
        let slots = BEGIN as usize..bytes.len() / SLOT;
        let starts = slots.filter(|slot| bytes[slot * SLOT] == FIRST).map(|slot| slot * SLOT);
        let starts: Vec<usize> = starts.collect();
        let end = |start: usize| {
            let slots = bytes[start + SLOT..].chunks(SLOT);
            start
                + SLOT
                + SLOT * slots.take_while(|slot| slot[0] == super::super::layout::NEXT).count()
        };
        let entries = starts.iter().map(|start| *start..end(*start)).collect();
        Self { dir, bytes, entries }
    }

    fn read(&self) -> Contents {
        fs::write(self.dir.path().join(FILE), &self.bytes).unwrap();
        read(self.dir.path()).unwrap()
    }

    fn names(&self) -> Vec<SuspectName> {
        self.read().suspects.into_iter().map(|suspect| suspect.name).collect()
    }
}

fn disk(path: &str) -> SuspectName {
    SuspectName::Disk(path.into())
}

#[test]
fn whatever_byte_is_damaged_the_disk_is_known() {
    let file = File::with(&[entry(7, want("/srv/a b.img", Mode::Shared), EntryStage::Held)]);
    for at in file.entries[0].clone() {
        let mut file = File { dir: tempfile::tempdir().unwrap(), ..file.clone() };
        file.bytes[at] ^= 0x21;
        let contents = file.read();
        assert_eq!((contents.damaged(), contents.entries.len()), (1, 0), "{at}");
        let [suspect] = &contents.suspects[..] else { panic!("{at}: {contents:?}") };
        assert_eq!(suspect.name, disk("/srv/a b.img"), "{at}");
        let is_header = at - file.entries[0].start < 3;
        assert!(is_header || suspect.mode == Mode::Shared, "{at}");
        // A name that is not intact is never believed.
        let files = &suspect.lock_files;
        assert!(files.is_empty() || *files == [PathBuf::from("/srv/a b.img")], "{at}");
        assert!(suspect.below.len() <= 1 && suspect.number.is_none_or(|number| number == 7));
    }
}

impl Clone for File {
    fn clone(&self) -> Self {
        let (bytes, entries) = (self.bytes.clone(), self.entries.clone());
        Self { dir: tempfile::tempdir().unwrap(), bytes, entries }
    }
}

#[test]
fn the_disk_is_known_from_each_half_of_its_entry() {
    let file = File::with(&[entry(7, want("/srv/a", Mode::Exclusive), EntryStage::Held)]);
    let all = file.entries[0].clone();
    for cut in all.start + 1..all.end {
        let (mut before, mut behind) = (file.clone(), file.clone());
        before.bytes[all.start..cut].fill(0);
        behind.bytes[cut..all.end].fill(0);
        let is_padding = behind.bytes == file.bytes;
        let found = before.names().len() + behind.names().len();
        assert!(found > 0 || is_padding, "{cut}");
        for damaged in [before, behind] {
            assert!(damaged.names().iter().all(|name| *name == disk("/srv/a")), "{cut}");
            assert!(damaged.read().damaged() > 0 || damaged.bytes == file.bytes, "{cut}");
        }
    }
    // Nothing is left of it, and that is noticed.
    let mut file = file;
    file.bytes[all].fill(0);
    assert_eq!((file.read().damaged(), file.names()), (1, Vec::new()));
}

#[test]
fn zeros_from_one_entry_to_another_join_nothing() {
    let wants = ["/srv/one", "/srv/two"].map(|path| want(path, Mode::Exclusive));
    let [one, two] = wants.map(|want| entry(7, want, EntryStage::Held));
    let file = File::with(&[one, two]);
    let [first, second] = [file.entries[0].clone(), file.entries[1].clone()];
    let first_bytes = file.bytes[first.clone()].to_vec();
    for begin in first.start + 2 * SLOT..first.end {
        for end in [second.start + 1, second.start + 30, second.start + SLOT, second.start + 130] {
            let mut file = file.clone();
            file.bytes[begin..end].fill(0);
            let names = file.names();
            // The end of the first is zeros anyway.
            let is_intact = file.bytes[first.clone()] == first_bytes;
            let expected = [disk("/srv/one"), disk("/srv/two")];
            assert_eq!(names, expected[usize::from(is_intact)..], "{begin} to {end}");
            assert_eq!(file.read().entries.len(), usize::from(is_intact));
        }
    }
}

#[test]
fn a_lease_is_named_by_its_file_or_by_its_resource() {
    let file = File::with(&[entry(8, lease(), EntryStage::Reacquired)]);
    let name = SuspectName::LockFile("/srv/leases/50%".into());
    for at in file.entries[0].clone() {
        let mut file = file.clone();
        file.bytes[at] ^= 0x11;
        assert_eq!(file.names(), std::slice::from_ref(&name), "{at}");
    }
}

#[test]
fn an_entry_that_was_not_held_is_no_suspect() {
    for stage in EntryStage::ALL {
        let path = "/srv/a";
        let mut file = File::with(&[entry(7, want(path, Mode::Exclusive), stage)]);
        let start = file.entries[0].start;
        file.bytes[start + 2 * SLOT + 5] ^= 1;
        let is_held = matches!(stage, EntryStage::Held | EntryStage::Reacquired);
        assert_eq!(file.names().len(), usize::from(is_held), "{stage:?}");
        // Without its stage, it may have been held.
        file.bytes[start + STAGE] ^= 1;
        assert_eq!(file.names(), [disk(path)], "{stage:?}");
    }
    let mut file = File::with(&[entry(7, want("/srv/a", Mode::None), EntryStage::Held)]);
    let last = file.entries[0].end - 1;
    file.bytes[last] ^= 1;
    assert_eq!((file.read().damaged(), file.names()), (1, Vec::new()));
}

#[test]
fn suspended_and_reserved_locks_are_read_although_their_checksums_are_wrong() {
    for stage in [EntryStage::Suspended, EntryStage::Reserved] {
        let whole = entry(7, want("/srv/a", Mode::Exclusive), stage);
        let mut file = File::with(std::slice::from_ref(&whole));
        // The checksum itself.
        let at = file.entries[0].start + 16;
        file.bytes[at] ^= 1;
        let contents = file.read();
        assert_eq!((contents.unproven, contents.suspects), (vec![whole], Vec::new()));
    }
}

#[test]
fn the_names_are_known_without_the_head() {
    let entries =
        [1, 2].map(|n| entry(n, want(&format!("/srv/{n}"), Mode::Exclusive), EntryStage::Held));
    let mut file = File::with(&entries);
    file.bytes[..BEGIN as usize * SLOT].fill(0);
    let start = file.entries[0].start;
    file.bytes[start + 2 * SLOT + 5] ^= 1;
    assert_eq!((file.names(), file.read().entries.len()), (vec![disk("/srv/1")], 1));
    // No entry is left that has the salt.
    let start = file.entries[1].start;
    file.bytes[start + 2 * SLOT + 5] ^= 1;
    assert_eq!(file.names(), [disk("/srv/1"), disk("/srv/2")]);
}

/// Damage to the field of a name must not make the name's own bytes count as a field.
#[test]
fn a_client_cannot_choose_a_name_that_is_a_field() {
    let mut inner = Vec::new();
    let other = b"/etc/passwd";
    fields::FieldWriter { bytes: &mut inner, salt: 0 }.put(fields::PATH, &[other]);
    let name = [b"/srv/".as_slice(), &inner].concat();
    let mut want = want("/srv/a", Mode::Exclusive);
    let name = EncodedPath::of(&name);
    (want.path, want.lock_files) = (Some(PathBuf::from(name)), Vec::new());
    let file = File::with(&[entry(7, want, EntryStage::Held)]);
    for at in file.entries[0].clone() {
        let mut file = file.clone();
        file.bytes[at] ^= 0x21;
        assert!(!file.names().contains(&disk("/etc/passwd")), "{at}");
    }
}
