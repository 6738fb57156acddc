//! Tests of the state in memory beside the file of the previous service.

use super::super::json;
use super::super::reader::FILE;
use super::super::tests::{lock, owner};
use super::super::{Contents, HighestNumbers, StateFile, read};
use super::*;
use std::fs;

fn stages(directory: &Path) -> Vec<(RecordId, EntryStage, Option<Mode>)> {
    let contents = read(directory).unwrap();
    assert_eq!(contents.damaged(), 0);
    let Contents { positions, .. } = contents;
    positions.iter().map(|position| (position.id, position.stage, position.mode)).collect()
}

/// Creates a directory with a state file of an owner and three locks, and a state in memory that
/// lacks the third lock. The file is of version 7 if `is_old`.
fn in_memory(is_old: bool) -> (tempfile::TempDir, StateFile) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    if is_old {
        let entries = [owner(1), lock(7), lock(8), lock(9)];
        fs::write(path.join(FILE), json::tests::file(7, &entries)).unwrap();
    } else {
        let highest = HighestNumbers::default();
        let before = StateFile::create(path, &[owner(1), lock(7)], highest).unwrap();
        before.append(&[lock(8), lock(9)]).unwrap();
    }
    let positions = read(path).unwrap().positions;
    let held = StateEntry { stage: EntryStage::Held, mode: Some(Mode::Shared), ..lock(8) };
    let entries = [owner(1), lock(7), held];
    let state =
        StateFile::create_in_memory(path, &entries, HighestNumbers::default(), &positions).unwrap();
    (directory, state)
}

#[test]
fn the_previous_file_is_updated_in_place() {
    [false, true].into_iter().for_each(is_updated_in_place);
}

fn is_updated_in_place(is_old: bool) {
    let (directory, state) = in_memory(is_old);
    assert!(state.is_in_memory());
    let (exclusive, shared) = (Some(Mode::Exclusive), Some(Mode::Shared));
    let mut expected = vec![
        (RecordId::Owner(1), EntryStage::Held, None),
        (RecordId::Lock(7), EntryStage::Granting, exclusive),
        (RecordId::Lock(8), EntryStage::Held, shared),
    ];
    assert_eq!(stages(directory.path()), expected);
    state.set_mode(RecordId::Lock(7), Mode::Shared).unwrap();
    state.set_stage([RecordId::Lock(7), RecordId::Owner(1)], EntryStage::Releasing).unwrap();
    expected[0].1 = EntryStage::Releasing;
    (expected[1].1, expected[1].2) = (EntryStage::Releasing, shared);
    assert_eq!(stages(directory.path()), expected);
    state.set_stage([RecordId::Lock(7)], EntryStage::Removed).unwrap();
    expected.remove(1);
    assert_eq!(stages(directory.path()), expected);
}

#[test]
fn the_file_is_replaced_as_soon_as_it_can_be_written() {
    [false, true].into_iter().for_each(is_replaced);
}

fn is_replaced(is_old: bool) {
    let (directory, state) = in_memory(is_old);
    // A directory in the place of the new file keeps it from being written, for root as well.
    let beside = directory.path().join(FILE).with_extension("new");
    fs::create_dir(&beside).unwrap();
    let error = state.append(&[lock(10)]).unwrap_err().to_string();
    assert!(error.contains("no new locks are granted until this succeeds"), "{error}");
    state.rewrite().unwrap_err();
    state.set_stage([RecordId::Lock(7)], EntryStage::Removed).unwrap();
    assert!(state.is_in_memory());
    fs::remove_dir(&beside).unwrap();
    state.append(&[lock(10)]).unwrap();
    assert!(!state.is_in_memory());
    let ids: Vec<RecordId> = stages(directory.path()).into_iter().map(|(id, ..)| id).collect();
    assert_eq!(ids, [RecordId::Owner(1), RecordId::Lock(8), RecordId::Lock(10)]);
    // From here on it is an ordinary state file.
    state.set_stage([RecordId::Lock(8)], EntryStage::Removed).unwrap();
    assert_eq!(stages(directory.path()).len(), 2);
}

#[test]
fn the_service_starts_even_if_the_previous_file_is_not_writable() {
    let (directory, state) = in_memory(false);
    drop(state);
    let positions = read(directory.path()).unwrap().positions;
    let elsewhere = directory.path().join("missing");
    let entries = [owner(1), lock(7)];
    let state =
        StateFile::create_in_memory(&elsewhere, &entries, HighestNumbers::default(), &positions)
            .unwrap();
    // A change that a restart would not find is an error for the request that makes it.
    state.set_stage([RecordId::Lock(7)], EntryStage::Removed).unwrap_err();
    fs::create_dir(&elsewhere).unwrap();
    state.append(&[lock(8)]).unwrap();
    assert_eq!(stages(&elsewhere).len(), 2);
}
