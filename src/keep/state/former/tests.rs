use super::super::tests::{lock, owner};
use super::super::{FILE, State};
use super::*;
use crate::keep::contents::{Contents, read};
use crate::keep::record::Counted;
use std::fs;

fn steps(directory: &Path) -> Vec<(Name, Step, Option<Mode>)> {
    let Contents { origins, damaged, .. } = read(directory).unwrap();
    assert_eq!(damaged, 0);
    origins.iter().map(|origin| (origin.name, origin.step, origin.mode)).collect()
}

/// A directory with a state file of an owner and three locks, and a state in memory of which the
/// third lock is no part.
fn in_memory() -> (tempfile::TempDir, State) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let before = State::begin(path, &[owner(1), lock(7)], Counted::default()).unwrap();
    before.put(&[lock(8), lock(9)]).unwrap();
    let origins = read(path).unwrap().origins;
    let (name, line) = lock(8);
    let held = (name, Line { step: Step::Held, mode: Some(Mode::Shared), ..line });
    let lines = [owner(1), lock(7), held];
    let state = State::begin_in_memory(path, &lines, Counted::default(), &origins).unwrap();
    (directory, state)
}

#[test]
fn the_former_file_is_marked_as_it_would_be_written() {
    let (directory, state) = in_memory();
    assert!(state.is_in_memory());
    let (exclusive, shared) = (Some(Mode::Exclusive), Some(Mode::Shared));
    let mut expected = vec![
        (Name::Owner(1), Step::Held, None),
        (Name::Lock(7), Step::Granting, exclusive),
        (Name::Lock(8), Step::Held, shared),
    ];
    assert_eq!(steps(directory.path()), expected);
    state.set_mode(Name::Lock(7), Mode::Shared).unwrap();
    state.mark([Name::Lock(7), Name::Owner(1)], Step::Releasing).unwrap();
    expected[0].1 = Step::Releasing;
    (expected[1].1, expected[1].2) = (Step::Releasing, shared);
    assert_eq!(steps(directory.path()), expected);
    state.mark([Name::Lock(7)], Step::Gone).unwrap();
    expected.remove(1);
    assert_eq!(steps(directory.path()), expected);
}

#[test]
fn the_file_is_replaced_as_soon_as_something_can_be_recorded() {
    let (directory, state) = in_memory();
    // A directory in the place of the new file keeps it from being written, for root as well.
    let beside = directory.path().join(FILE).with_extension("new");
    fs::create_dir(&beside).unwrap();
    let error = state.put(&[lock(10)]).unwrap_err().to_string();
    assert!(error.contains("no new locks are granted until this succeeds"), "{error}");
    state.renew().unwrap_err();
    state.mark([Name::Lock(7)], Step::Gone).unwrap();
    assert!(state.is_in_memory());
    fs::remove_dir(&beside).unwrap();
    state.put(&[lock(10)]).unwrap();
    assert!(!state.is_in_memory());
    let names: Vec<Name> = steps(directory.path()).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, [Name::Owner(1), Name::Lock(8), Name::Lock(10)]);
    // From here on it is a state file like all others.
    state.mark([Name::Lock(8)], Step::Gone).unwrap();
    assert_eq!(steps(directory.path()).len(), 2);
}

#[test]
fn a_former_file_that_can_not_be_marked_is_no_reason_not_to_start() {
    let (directory, state) = in_memory();
    drop(state);
    let origins = read(directory.path()).unwrap().origins;
    let elsewhere = directory.path().join("missing");
    let lines = [owner(1), lock(7)];
    let state = State::begin_in_memory(&elsewhere, &lines, Counted::default(), &origins).unwrap();
    // What a restart would not know of is told to whoever ends something.
    state.mark([Name::Lock(7)], Step::Gone).unwrap_err();
    fs::create_dir(&elsewhere).unwrap();
    state.put(&[lock(8)]).unwrap();
    assert_eq!(steps(&elsewhere).len(), 2);
}
