//! Entries are read as they were written, and no damage makes the reader fail.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::lock::model::extent::Placement;

fn path() -> impl Strategy<Value = PathBuf> {
    vec(any::<u8>(), 0..300).prop_map(|bytes| OsStr::from_bytes(&bytes).into())
}

fn identity() -> impl Strategy<Value = Identity> {
    let numbers = any::<(u64, u64, u64)>();
    (0..3, numbers).prop_map(|(kind, (dev, second, key))| match kind {
        0 => Identity::Inode { dev, ino: second },
        1 => Identity::Block { dev, seq: second },
        _ => Identity::Key { dev, ino: second, key },
    })
}

fn extent() -> impl Strategy<Value = Extent> {
    (identity(), any::<(u64, u64, bool)>()).prop_map(|(identity, (start, end, exact))| Extent {
        identity,
        span: Span { start, end },
        placement: if exact { Placement::Exact } else { Placement::Partial },
    })
}

fn any_lock() -> impl Strategy<Value = StateEntry> {
    let names = (".{0,60}", proptest::option::of(".{0,60}"), proptest::option::of(path()));
    let lists = (vec(extent(), 0..4), vec(path(), 0..3), vec(path(), 0..3));
    let numbers = any::<(u64, u32, u32, u128, u64, bool, bool)>();
    let rest = (numbers, 0..EntryStage::ALL.len(), 0..3_usize);
    let moved = (any::<bool>(), any::<(u128, u64, bool)>(), vec(any::<u64>(), 0..9));
    (names, identity(), lists, rest, moved).prop_map(
        |((resource, canonical, path), identity, (below, copies, lock_files), rest, moved)| {
            let ((id, uid, process, uuid, since, fleeting, write_shown), stage, mode) = rest;
            let mode = [Mode::Exclusive, Mode::Shared, Mode::None][mode];
            let owner = OwnerId { uid, uuid: Uuid::from_u128(uuid), process };
            let lockspace = LockspaceKind::Lease(uid);
            let want = Want {
                resource,
                canonical,
                path,
                identity,
                below,
                copies,
                lockspace,
                lock_files,
                fleeting,
                mode,
                write_shown,
            };
            let proof = Proof::Unverified;
            let lock = Lock { id, owner, since, stage: Stage::Held, proof, want };
            let mut record = LockRecord::from(&lock);
            assert_eq!(record.clone().lock(mode, Stage::Held), Some(lock));
            let (is_moved, (uuid, number, remembered), resumes) = moved;
            if is_moved {
                let other = OwnerId { uuid: Uuid::from_u128(uuid), ..owner };
                let former = FormerLock::new(other, number, remembered);
                record = record.transferred(former.clone(), former, resumes);
            }
            let record = Record::Lock(Box::new(record));
            StateEntry { stage: EntryStage::ALL[stage], mode: Some(mode), record }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn locks_are_read_as_they_were_written(entries in vec(any_lock(), 1..6)) {
        let dir = tempfile::tempdir().unwrap();
        let state = create(dir.path(), &entries[..1]);
        entries[1..].chunks(2).for_each(|entries| state.append(entries).unwrap());
        state.rewrite().unwrap();
        let contents = read(dir.path()).unwrap();
        prop_assert_eq!(contents.damage, []);
        let mut expected: Vec<_> = entries.clone();
        expected.retain(|entry| entry.stage != EntryStage::Removed);
        let number = |entry: &StateEntry| match &entry.record {
            Record::Lock(lock) => lock.number(),
            _ => 0,
        };
        expected.sort_by_key(number);
        prop_assert_eq!(contents.entries, expected);
        prop_assert_eq!(Some(contents.highest.lock), entries.iter().map(number).max());
    }

    /// Nothing that a file contains makes the reader fail.
    #[test]
    fn any_damage_is_survived(
        bytes in vec(any::<u8>(), 0..400),
        at in 0_usize..3_000,
        length in 0_usize..3_000,
    ) {
        let dir = tempfile::tempdir().unwrap();
        drop(create(dir.path(), &[owner(1), lock(2), lock(3)]));
        let path = dir.path().join(FILE);
        let mut file = fs::read(&path).unwrap();
        let end = (at + bytes.len()).min(file.len());
        file[at..end].copy_from_slice(&bytes[..end - at]);
        file.truncate(3_000 + length);
        fs::write(&path, &file).unwrap();
        if let Ok(contents) = read(dir.path()) {
            prop_assert!(contents.entries.len() <= 3);
        }
    }
}
