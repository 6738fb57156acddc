//! Kills between any two stores: what the next service reads.

use super::super::crash::{images, selected_images, stores};
use super::*;

/// The result of reading: the number and the stage of each entry, and the highest number of a lock.
type Found = (Vec<(u64, EntryStage)>, u64);

/// Reads a file with these bytes. A crash is no damage.
fn found(directory: &Path, image: &[u8]) -> Found {
    fs::write(directory.join(FILE), image).unwrap();
    let contents = read(directory).unwrap();
    assert_eq!(contents.damage, []);
    assert!(contents.suspects.is_empty() && contents.unproven.is_empty());
    let stages = contents.entries.iter().map(|entry| entry.stage);
    (numbers(&contents).into_iter().zip(stages).collect(), contents.highest.lock)
}

/// Changes a state, and kills the service before each of its stores. Returns what the next service
/// finds each time, without repetitions.
fn crashes(state: &StateFile, directory: &Path, change: impl FnOnce(&StateFile)) -> Vec<Found> {
    let images = images(|| change(state));
    let after = fs::read(directory.join(FILE)).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let mut all: Vec<Found> = Vec::new();
    for image in images.into_iter().chain([after]) {
        let found = found(elsewhere.path(), &image);
        // No number is ever free again.
        assert!(all.last().is_none_or(|(_, highest)| *highest <= found.1));
        if all.last() != Some(&found) {
            all.push(found);
        }
    }
    all
}

const G: EntryStage = EntryStage::Granting;
const H: EntryStage = EntryStage::Held;

/// Creates a state of an owner and two locks, and one that is removed.
fn scenario() -> (tempfile::TempDir, StateFile) {
    let dir = tempfile::tempdir().unwrap();
    let state = create(dir.path(), &[owner(1), lock(2), lock(3)]);
    state.append(&[lock(4)]).unwrap();
    state.set_stage([RecordId::Lock(4)], EntryStage::Removed).unwrap();
    (dir, state)
}

fn with(more: &[(u64, EntryStage)], highest: u64) -> Found {
    ([&[(1, H), (2, G), (3, G)], more].concat(), highest)
}

#[test]
fn an_entry_in_a_reused_slot_appears_at_one_store_and_the_removed_one_never() {
    let (dir, state) = scenario();
    let size = fs::metadata(dir.path().join(FILE)).unwrap().len();
    let all = crashes(&state, dir.path(), |state| state.append(&[lock(5)]).unwrap());
    assert_eq!(all, [with(&[], 4), with(&[(5, G)], 5)]);
    assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().len(), size);
}

#[test]
fn entries_that_are_appended_together_appear_together() {
    let (dir, state) = scenario();
    // One of them reuses a slot, the others do not.
    let all = crashes(&state, dir.path(), |state| {
        state.append(&[lock(5), lock(6), lock(7)]).unwrap();
    });
    assert_eq!(all, [with(&[], 4), with(&[(5, G), (6, G), (7, G)], 7)]);
}

#[test]
fn so_they_do_in_a_file_that_grows() {
    let numbers = 5..400;
    let entries: Vec<StateEntry> = numbers.clone().map(lock).collect();
    let (_other, same) = scenario();
    let count = stores(|| same.append(&entries).unwrap());
    // Each image is large: some of them suffice.
    let selected = (0..count).step_by(97).chain(count - 12..count).collect();
    let (_dir, state) = scenario();
    let images = selected_images(selected, || state.append(&entries).unwrap());
    let elsewhere = tempfile::tempdir().unwrap();
    let expected: Vec<_> = numbers.map(|number| (number, G)).collect();
    let (mut before, mut after) = (0, 0);
    for image in images {
        let found = found(elsewhere.path(), &image);
        if found == with(&[], 4) {
            assert_eq!(after, 0);
            before += 1;
        } else {
            assert_eq!(found, with(&expected, 399));
            after += 1;
        }
    }
    assert!(before > 20 && after == 5, "{before}, {after}");
}

#[test]
fn a_change_of_a_stage_or_mode_is_one_store() {
    let (dir, state) = scenario();
    let all = crashes(&state, dir.path(), |state| {
        state.set_stage([RecordId::Lock(2)], EntryStage::Held).unwrap();
        state.set_mode(RecordId::Lock(2), Mode::Shared).unwrap();
        state.set_stage([RecordId::Lock(2), RecordId::Lock(3)], EntryStage::Removed).unwrap();
    });
    let expected = [
        with(&[], 4),
        (vec![(1, H), (2, H), (3, G)], 4),
        (vec![(1, H), (3, G)], 4),
        (vec![(1, H)], 4),
    ];
    assert_eq!(all, expected);
}

#[test]
fn a_slot_that_is_removed_and_reused_has_one_entry_or_none() {
    let (dir, state) = scenario();
    let all = crashes(&state, dir.path(), |state| {
        for number in 5..9 {
            state.append(&[lock(number)]).unwrap();
            state.set_stage([RecordId::Lock(number)], EntryStage::Removed).unwrap();
        }
    });
    let mut expected = vec![with(&[], 4)];
    for number in 5..9 {
        expected.extend([with(&[(number, G)], number), with(&[], number)]);
    }
    assert_eq!(all, expected);
}

/// Entries that differ in length from those whose slots they could have.
#[test]
fn entries_of_other_lengths_do_not_disturb_each_other() {
    let (dir, state) = scenario();
    let all = crashes(&state, dir.path(), |state| {
        state.append(&[owner(7)]).unwrap();
        state.set_stage([RecordId::Owner(7)], EntryStage::Removed).unwrap();
        state.append(&[lock(5), owner(8)]).unwrap();
    });
    let owner_too = |number, highest, more: &[(u64, EntryStage)]| {
        ([&[(1, H), (number, H), (2, G), (3, G)], more].concat(), highest)
    };
    let expected = [with(&[], 4), owner_too(7, 4, &[]), with(&[], 4), owner_too(8, 5, &[(5, G)])];
    assert_eq!(all, expected);
}
