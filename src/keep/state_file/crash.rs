//! Crashes for tests: what the file contains before each store.

use std::cell::RefCell;

use super::mapping::Mapping;

/// A recording of images.
#[derive(Default)]
struct Recording {
    /// How many stores there were.
    stores: usize,
    /// The stores before which an image is recorded; all if there are none.
    selected: Vec<usize>,
    images: Vec<Vec<u8>>,
}

thread_local! {
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

/// Records the file as a crash at this instant would leave it.
pub(super) fn before_store(mapping: &Mapping) {
    RECORDING.with_borrow_mut(|recording| {
        let Some(recording) = recording else { return };
        if recording.selected.is_empty() || recording.selected.contains(&recording.stores) {
            let words = (0..mapping.len()).map(|at| mapping.load(at));
            recording.images.push(words.flat_map(u64::to_le_bytes).collect());
        }
        recording.stores += 1;
    });
}

/// Returns what the file contained before each store of `write`.
pub(super) fn images(write: impl FnOnce()) -> Vec<Vec<u8>> {
    selected_images(Vec::new(), write)
}

/// Returns what the file contained before the selected stores of `write`.
pub(super) fn selected_images(selected: Vec<usize>, write: impl FnOnce()) -> Vec<Vec<u8>> {
    RECORDING.set(Some(Recording { selected, ..Recording::default() }));
    write();
    RECORDING.take().unwrap_or_default().images
}

/// Returns the number of stores of `write`.
pub(super) fn stores(write: impl FnOnce()) -> usize {
    RECORDING.set(Some(Recording { selected: vec![usize::MAX], ..Recording::default() }));
    write();
    RECORDING.take().unwrap_or_default().stores
}
